"""ONNX values that several kernels emit: constants, causal masks, and stored codes unpacked by table look-up.

Applied to initializers these chains are folded while the runtime loads the model; applied to gathered rows they run.
Look-up tables beat shifts and masks threefold at run time, and hold fewer bytes while being folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from onnxscript import opset21

from ...ir.packing import planes

FLOAT = onnx.TensorProto.FLOAT
INT8 = onnx.TensorProto.INT8
INT32 = onnx.TensorProto.INT32
INT64 = onnx.TensorProto.INT64
UINT8 = onnx.TensorProto.UINT8
BOOL = onnx.TensorProto.BOOL

op: Any = cast(Any, opset21)
"""The operators of opset 21; their stubs do not describe tracing."""

Value = Any
"""A value of the graph being traced; onnxscript does not type it."""


def constant(array: NDArray[Any] | np.generic) -> Value:
    """A constant tensor."""
    return op.Constant(value=onnx.numpy_helper.from_array(np.asarray(array)))


def scalar(number: float) -> Value:
    """A float32 constant without dimensions."""
    return constant(np.float32(number))


def byte(number: int) -> Value:
    """A uint8 constant without dimensions."""
    return constant(np.uint8(number))


def integers(*numbers: int) -> Value:
    """An int64 vector: axes, shapes, starts and ends."""
    return constant(np.asarray(numbers, dtype=np.int64))


def as_float(value: Value) -> Value:
    """``value`` in float32."""
    return op.Cast(value, to=FLOAT)


def later(query: Value, rows: int, columns: int, first: int) -> Value:
    """``[rows, columns]``: minus infinity where a key is later than ``first`` plus its row, else 0; made at load."""
    hidden = op.ConstantOfShape(
        integers(rows, columns), value=onnx.numpy_helper.from_array(np.asarray([-math.inf], query.dtype.numpy()))
    )
    return op.Trilu(hidden, constant(np.int64(first + 1)), upper=1)


def lookup_table(bits: int, low: int, width: int) -> Value:
    """``int8 [256, 8 / width]``: for every byte of a plane, what its codes contribute to the signed code.

    The plane with the highest bits carries the offset ``-2^(bits-1)``, a multiple of every lower plane's range: a
    bitwise or joins the contributions. The table is computed while the model loads: the file of a small network has no
    kilobyte for it.
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    bytes_ = constant(np.arange(256, dtype=np.uint8)[:, None])
    values = op.BitwiseAnd(
        op.BitShift(bytes_, constant(shifts), direction="RIGHT"), constant(np.uint8((1 << width) - 1))
    )
    if low:
        values = op.BitShift(values, constant(np.uint8(low)), direction="LEFT")
    if low + width == bits:  # runtimes before 1.21 subtract no int8
        values = op.Sub(op.Cast(values, to=INT32), constant(np.int32(1 << (bits - 1))))
    return op.Cast(values, to=INT8)


def unpack_signed(codes: Value, bits: int, columns: int, rank: int) -> Value:
    """``int8 [..., columns]``, codes ``u - 2^(bits-1)``, from packed ``uint8 [..., bytes]`` of ``rank`` dimensions."""
    if bits == 8:
        return op.Cast(op.BitwiseXor(codes, constant(np.uint8(128))), to=INT8)
    joined: Value = None
    start = 0
    for low, width in planes(bits):
        size = -(-columns * width // 8)
        whole = len(planes(bits)) == 1
        plane = codes if whole else op.Slice(codes, integers(start), integers(start + size), integers(-1))
        part = _unpack_plane(plane, lookup_table(bits, low, width), width, columns, rank)
        joined = part if joined is None else op.BitwiseOr(joined, part)
        start += size
    return joined


def _unpack_plane(plane: Value, table: Value, width: int, columns: int, rank: int) -> Value:
    values = op.Gather(table, op.Cast(plane, to=INT32), axis=0)
    total = -(-columns * width // 8) * (8 // width)
    values = op.Reshape(values, integers(*[0] * (rank - 1), total))
    return values if total == columns else op.Slice(values, integers(0), integers(columns), integers(-1))


def spread_groups(per_group: Value, groups: int, group: int, columns: int) -> Value:
    """``[..., groups]`` repeated to ``[..., columns]``."""
    if groups == 1:
        return per_group
    return op.Gather(per_group, constant(np.arange(columns, dtype=np.int64) // group), axis=-1)


@dataclass(frozen=True)
class Groups:
    """How the last of ``rank`` dimensions, ``columns`` long, is cut into groups (``group = 0``: one)."""

    columns: int
    group: int
    rank: int

    @property
    def count(self) -> int:
        """Groups in a row."""
        return -(-self.columns // self.group) if self.group else 1

    def scaled(self, codes: Value, scale: Value, zero: Value, finish: Callable[[Value], Value] | None = None) -> Value:
        """``finish((codes - zero) * scale)``: int8 codes ``[..., columns]``, float parameters ``[..., groups]``.

        The codes are reshaped while they are bytes: every step that is folded at load stays in memory until it ends.
        ``zero`` may be None; ``finish`` works element by element.
        """
        whole = self.count > 1 and self.count * self.group == self.columns
        lead = [0] * (self.rank - 1)
        if whole:
            codes = op.Reshape(codes, integers(*lead, self.count, self.group))
        values = as_float(codes)
        values = values if zero is None else op.Sub(values, self._fit(zero, whole))
        values = op.Mul(values, self._fit(scale, whole))
        values = values if finish is None else finish(values)
        return op.Reshape(values, integers(*lead, self.columns)) if whole else values

    def _fit(self, per_group: Value, whole: bool) -> Value:
        if whole:
            return op.Unsqueeze(per_group, integers(-1))
        return spread_groups(per_group, self.count, self.group, self.columns)


def product(sizes: Sequence[int]) -> int:
    """Product of static sizes."""
    result = 1
    for size in sizes:
        result *= size
    return result
