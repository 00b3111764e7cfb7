"""Kernel ``float``: weights of any format, decoded while the model loads; quantizations that no kernel took over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.dialect import SMALLEST_STEP, granularity_group
from ....ir.errors import LoweringError
from ....ir.layers import Layer
from ....ir.options import AS_IT_WAS, NONE, WITHOUT_CODES, Activation, Option
from ....passes.formats import Format
from ...base import Candidates
from ..emit import INT32, Groups, Value, as_float, byte, constant, integers, op, product, scalar, unpack_signed
from .base import Kernel, Written
from .weights import write_int8_weight


def _offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
    del layer
    text = chosen.spelling
    if NONE not in allowed and text != AS_IT_WAS:
        return Candidates(())
    return Candidates((Option(text, "rtn" if text in WITHOUT_CODES else encoder, NONE, "float"),))


def _write_weight(
    codes: Value, scale: Value, zero: Value, bits: int, group: int, shape: Sequence[int], kernel: str = ""
) -> Value:
    """A float weight from stored codes, folded at load."""
    del kernel
    groups = Groups(product(shape[1:]), group, rank=2)
    offsets = None if zero is None else as_float(unpack_signed(zero, bits, groups.count, 2))
    weight = groups.scaled(unpack_signed(codes, bits, groups.columns, 2), as_float(scale), offsets)
    return weight if len(shape) == 2 else op.Reshape(weight, integers(*shape))


def _write_levels(
    codes: Value, scale: Value, levels: Sequence[float], bits: int, group: int, shape: Sequence[int]
) -> Value:
    """Levels of a table, folded at load. Codes are unpacked as ``u - 2^(bits-1)``; negative ones count from the end."""
    groups = Groups(product(shape[1:]), group, rank=2)
    table = np.roll(np.asarray(levels, dtype=np.float32), -(1 << (bits - 1)))
    index = op.Cast(unpack_signed(codes, bits, groups.columns, 2), to=INT32)
    values = op.Gather(constant(table), index, axis=0)
    values = values if scale is None else groups.scaled(values, as_float(scale), None)
    return values if len(shape) == 2 else op.Reshape(values, integers(*shape))


def _write_int8_weight(
    codes: Value, scale: Value, zero: Value, bits: int, group: int, shape: Sequence[int], kernel: str = ""
) -> Value:
    """The float weight that equals an int8 kernel's, folded at load: where no such kernel took the layer over."""
    del kernel
    weight, channel, zeros = write_int8_weight(
        codes, scale, zero, bits, group, [int(shape[0]), product(shape[1:])], False
    )
    column = integers(int(shape[0]), 1)
    centred = op.Sub(as_float(weight), op.Reshape(as_float(zeros), column))
    return op.Reshape(op.Mul(centred, op.Reshape(channel, column)), integers(*shape))


def _write_dynamic(x: Value, bits: int, granularity: str, symmetric: bool) -> Value:
    """What no kernel took over: quantize and dequantize in float."""
    group = granularity_group(granularity)
    if bits == 8 and group is None and not symmetric:
        return op.DequantizeLinear(*op.DynamicQuantizeLinear(x))
    if group or not symmetric:
        raise LoweringError(
            f"fake_quantize_dynamic({bits} bits, {granularity}, symmetric={symmetric}): expected a pattern that a "
            "kernel takes over, found a lone op; quantize activations per token or per tensor here"
        )
    top = float((1 << (bits - 1)) - 1)
    axes = None if group is None else integers(-1)
    largest = op.Max(op.ReduceMax(op.Abs(x), axes, keepdims=1), scalar(SMALLEST_STEP))
    scale = op.Div(largest, scalar(top))
    return op.Mul(op.Round(op.Mul(x, op.Reciprocal(scale))), scale)


def _write_static(x: Value, scale: float, zero_point: int, bits: int, symmetric: bool) -> Value:
    step = scalar(scale)
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)
    if bits == 8:
        zero = constant(np.int8(zero_point)) if symmetric else byte(zero_point)
        return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)
    codes = op.Round(op.Div(x, step))
    return op.Mul(op.Clip(codes, scalar(float(least - zero_point)), scalar(float(most - zero_point))), step)


KERNEL = Kernel(
    "float",
    "float kernel; low-bit weights are expanded to float while the model loads: smaller file, same speed",
    (
        Written("instar.dequantize", _write_weight),
        Written("instar.dequantize_levels", _write_levels),
        Written("instar.dequantize_int8", _write_int8_weight),
        Written("instar.fake_quantize_dynamic", _write_dynamic),
        Written("instar.fake_quantize_static", _write_static),
    ),
    (),
    _offers,
)
