"""How every op of instar's dialects is written in ONNX: the exporter's custom translation table.

Each function takes the values and attributes of one op while torch.onnx traces the program, and emits nodes: opset 21
and ``com.microsoft`` only. What was measured to be fast or slow is in ``docs/notes/onnx_runtime_lowering.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...ir.dialect import granularity_group
from ...ir.errors import LoweringError
from . import (
    contrib,
    dialect,  # registers the ops that the table names
    dialect_conv,
    dialect_float,
)
from .spell import (
    FLOAT,
    INT8,
    INT32,
    Groups,
    Value,
    as_float,
    constant,
    integers,
    op,
    product,
    scalar,
    unpack_signed,
)
from .translate_aten import aten_translations, repeat
from .translate_attention import attention_translations

Translation = Callable[..., Any]

_ = dialect_float  # like the other dialects, for its ops


def translations(clamp_softmax: bool = True) -> dict[Any, Translation]:
    """The table for ``torch.onnx.export(custom_translation_table=...)``: op overload to translation."""
    ort, instar = torch.ops.instar_ort, torch.ops.instar
    table: dict[Any, Translation] = {
        ort.dynamic_quantize.default: _dynamic_quantize,
        ort.token_quantize.default: _token_quantize,
        ort.quantize.default: _quantize,
        ort.dequantize.default: _dequantize,
        ort.int8_linear.default: _int8_linear,
        ort.int8_linear_token.default: _int8_linear_token,
        ort.matmul_nbits.default: _matmul_nbits,
        ort.expand_int8.default: _expand_int8,
        ort.int8_conv.default: _int8_conv,
        ort.int8_add.default: _int8_add,
        ort.gather_packed.default: _gather_packed,
        ort.gather_block_quantized.default: _gather_block_quantized,
        ort.gather_half.default: _gather_half,
        ort.softmax_clamped.default: _softmax_clamped,
        ort.reshape.default: _reshape,
        ort.repeat.default: repeat,
        ort.residual_add.default: _residual_add,
        instar.dequantize.default: _dequantize_weight,
        instar.dequantize_int8.default: _dequantize_int8,
        instar.fake_quantize_dynamic.default: _fake_quantize_dynamic,
        instar.fake_quantize_static.default: _fake_quantize_static,
    }
    return table | attention_translations() | aten_translations(clamp_softmax)


def kernels() -> dict[str, str]:
    """For ops of ``instar_ort`` that stand for one kernel: the op type that the runtime must execute for it."""
    return {
        "instar_ort.int8_linear": "MatMulIntegerToFloat|DynamicQuantizeMatMul",
        "instar_ort.int8_linear_token": "MatMulIntegerToFloat",
        "instar_ort.matmul_nbits": "MatMulNBits",
        "instar_ort.int8_conv": "QLinearConv",
        "instar_ort.int8_add": "QLinearAdd",
        "instar_ort.gather_block_quantized": "GatherBlockQuantized",
        "instar_ort.rotary": "RotaryEmbedding",
        "instar_ort.attention": "Attention",
        "instar_ort.causal_attention": "Attention",
    }


def _byte(number: int) -> Value:
    return constant(np.uint8(number))


def _dynamic_quantize(x: Value) -> Any:
    return op.DynamicQuantizeLinear(x)


def _token_quantize(x: Value) -> Any:
    largest = op.Max(op.ReduceMax(op.Abs(x), integers(-1), keepdims=1), scalar(dialect.TINY))
    scale = op.Div(largest, scalar(127.0))
    codes = op.QuantizeLinear(op.Mul(x, op.Reciprocal(scale)), scalar(1.0), _byte(128))
    return codes, scale


def _quantize(x: Value, scale: float, zero_point: int) -> Value:
    return op.QuantizeLinear(x, scalar(scale), _byte(zero_point))


def _dequantize(codes: Value, scale: float, zero_point: int) -> Value:
    return op.DequantizeLinear(codes, scalar(scale), _byte(zero_point))


def _int8_linear(
    codes: Value,
    scale: Value,
    zero_point: Value,
    weight: Value,
    weight_scale: Value,
    weight_zero: Value = None,
    bias: Value = None,
) -> Value:
    return contrib.MatMulIntegerToFloat(codes, weight, scale, weight_scale, zero_point, weight_zero, bias)


def _int8_linear_token(
    codes: Value, scale: Value, weight: Value, weight_scale: Value, weight_zero: Value = None, bias: Value = None
) -> Value:
    products = contrib.MatMulIntegerToFloat(codes, weight, scalar(1.0), weight_scale, _byte(128), weight_zero, None)
    result = op.Mul(products, scale)
    return result if bias is None else op.Add(result, bias)


def _reshape(x: Value, shape: Sequence[int]) -> Value:
    return op.Reshape(x, integers(*shape))


def _matmul_nbits(
    x: Value,
    codes: Value,
    scale: Value,
    zero: Value,
    bias: Value,
    bits: int,
    block: int,
    columns: int,
    accuracy_level: int,
) -> Value:
    return contrib.MatMulNBits(
        x,
        codes,
        as_float(scale),
        zero,
        None,
        bias,
        K=columns,
        N=int(codes.shape[0]),
        bits=bits,
        block_size=block,
        accuracy_level=accuracy_level,
    )


def _expand_int8(
    codes: Value, scale: Value, zero: Value, bits: int, group: int, shape: Sequence[int], transpose: bool
) -> Any:
    rows, columns = int(shape[0]), product(shape[1:])
    groups = Groups(columns, group, rank=2)
    signed = unpack_signed(codes, bits, columns, 2)
    scale = as_float(scale)
    offsets = None if zero is None else unpack_signed(zero, bits, groups.count, 2)
    zeros = constant(np.zeros(rows, dtype=np.int8))
    if groups.count > 1:
        offsets = None if offsets is None else as_float(offsets)
        channel = _row_scale(scale, offsets, bits)
        ratio = op.Div(scale, op.Unsqueeze(channel, integers(1)))
        signed = groups.scaled(signed, ratio, offsets, finish=lambda x: op.Cast(op.Round(x), to=INT8))
    else:
        channel = op.Reshape(scale, integers(rows))
        zeros = zeros if offsets is None else op.Reshape(offsets, integers(rows))
    weight = op.Transpose(signed, perm=[1, 0]) if transpose else op.Reshape(signed, integers(*shape))
    return weight, channel, zeros


def _row_scale(scale: Value, offsets: Value, bits: int) -> Value:
    """:func:`instar.ir.dialect.row_scale` in ONNX."""
    half = scalar(float(1 << (bits - 1)))
    most = half if offsets is None else op.Max(op.Add(half, offsets), op.Sub(half, offsets))
    largest = op.ReduceMax(op.Mul(op.Abs(scale), most), integers(1), keepdims=0)
    return op.Max(op.Div(largest, scalar(127.0)), scalar(dialect.TINY))


def _dequantize_weight(codes: Value, scale: Value, zero: Value, bits: int, group: int, shape: Sequence[int]) -> Value:
    """A float weight from stored codes, folded at load."""
    groups = Groups(product(shape[1:]), group, rank=2)
    offsets = None if zero is None else as_float(unpack_signed(zero, bits, groups.count, 2))
    weight = groups.scaled(unpack_signed(codes, bits, groups.columns, 2), as_float(scale), offsets)
    return weight if len(shape) == 2 else op.Reshape(weight, integers(*shape))


def _dequantize_int8(codes: Value, scale: Value, zero: Value, bits: int, group: int, shape: Sequence[int]) -> Value:
    """The float weight that equals an int8 kernel's, folded at load: where no such kernel took the layer over."""
    weight, channel, zeros = _expand_int8(codes, scale, zero, bits, group, [int(shape[0]), product(shape[1:])], False)
    column = integers(int(shape[0]), 1)
    centred = op.Sub(as_float(weight), op.Reshape(as_float(zeros), column))
    return op.Reshape(op.Mul(centred, op.Reshape(channel, column)), integers(*shape))


def _int8_conv(
    codes: Value,
    scale: float,
    zero_point: int,
    weight: Value,
    weight_scale: Value,
    bias: Value,
    out_scale: float,
    out_zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    whole = None if bias is None else _integer_bias(bias, op.Mul(scalar(scale), weight_scale))
    return op.QLinearConv(
        codes,
        scalar(scale),
        _byte(zero_point),
        weight,
        weight_scale,
        constant(np.zeros(int(weight.shape[0]), dtype=np.int8)),
        scalar(out_scale),
        _byte(out_zero_point),
        whole,
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
    )


def _integer_bias(bias: Value, step: Value) -> Value:
    """:func:`.dialect_conv.integer_bias` in ONNX."""
    limit = scalar(dialect_conv.BIAS_LIMIT)
    rounded = op.Round(op.Div(bias, step))
    return op.Cast(op.Max(op.Min(rounded, limit), op.Neg(limit)), to=INT32)


def _int8_add(
    left: Value,
    left_scale: float,
    left_zero: int,
    right: Value,
    right_scale: float,
    right_zero: int,
    out_scale: float,
    out_zero_point: int,
) -> Value:
    return contrib.QLinearAdd(
        left,
        scalar(left_scale),
        _byte(left_zero),
        right,
        scalar(right_scale),
        _byte(right_zero),
        scalar(out_scale),
        _byte(out_zero_point),
    )


def _gather_packed(
    codes: Value, indices: Value, scale: Value, zero: Value, bits: int, group: int, columns: int
) -> Value:
    groups = Groups(columns, group, rank=len(indices.shape) + 1)
    rows = unpack_signed(op.Gather(codes, indices, axis=0), bits, columns, groups.rank)
    offsets = None
    if zero is not None:
        offsets = as_float(unpack_signed(op.Gather(zero, indices, axis=0), bits, groups.count, groups.rank))
    return groups.scaled(rows, as_float(op.Gather(scale, indices, axis=0)), offsets)


def _gather_block_quantized(
    codes: Value, indices: Value, scale: Value, zero: Value, bits: int, block: int, columns: int
) -> Value:
    del columns
    return contrib.GatherBlockQuantized(
        codes, indices, as_float(scale), zero, bits=bits, block_size=block, gather_axis=0, quantize_axis=1
    )


def _gather_half(table: Value, indices: Value) -> Value:
    return op.Cast(op.Gather(table, indices, axis=0), to=FLOAT)


def _softmax_clamped(x: Value, dim: int) -> Value:
    floor = op.Sub(op.ReduceMax(x, integers(dim), keepdims=1), scalar(dialect.SOFTMAX_FLOOR))
    return op.Softmax(op.Max(x, floor), axis=dim)


def _residual_add(left: Value, right: Value) -> Value:
    return op.Sum(left, right)


def _fake_quantize_dynamic(x: Value, bits: int, granularity: str, symmetric: bool) -> Value:
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
    largest = op.Max(op.ReduceMax(op.Abs(x), axes, keepdims=1), scalar(dialect.TINY))
    scale = op.Div(largest, scalar(top))
    return op.Mul(op.Round(op.Mul(x, op.Reciprocal(scale))), scale)


def _fake_quantize_static(x: Value, scale: float, zero_point: int, bits: int, symmetric: bool) -> Value:
    step = scalar(scale)
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)
    if bits == 8:
        zero = constant(np.int8(zero_point)) if symmetric else _byte(zero_point)
        return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)
    codes = op.Round(op.Div(x, step))
    return op.Mul(op.Clip(codes, scalar(float(least - zero_point)), scalar(float(most - zero_point))), step)
