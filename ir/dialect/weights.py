"""Weights from packed integer codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..packing import unpack
from .groups import join_groups, split_groups

SMALLEST_STEP = 1e-30
"""Smallest step of a row of integers: a row of zeros is not divided by zero."""


@torch.library.custom_op(
    "instar::dequantize",
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor? zero, int bits, int group, int[] shape, str kernel='') -> Tensor",
)
def dequantize(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], kernel: str = ""
) -> Tensor:
    """The weight that packed codes stand for: ``(u - zero) * scale`` per group, viewed as ``shape``.

    Args:
        codes: ``uint8 [rows, row_bytes(columns, bits)]``, see :mod:`instar.ir.packing`; ``rows = shape[0]`` and
            ``columns`` is the product of the other sizes.
        scale: ``[rows, groups]``, float16 as stored (any float dtype is accepted).
        zero: packed ``bits``-bit zero points ``uint8 [rows, row_bytes(groups, bits)]``; ``None`` means ``2^(bits-1)``.
        bits: width of a code, 1 to 8.
        group: columns that share a scale, the last group may be shorter; 0 is one group a row.
        shape: shape of the result.
        kernel: that a plan chose for the layer, so that no other takes the weight over; changes no number.

    Returns:
        float32 tensor of ``shape``. Its gradient flows to ``scale``.

    Raises:
        FormatError: if ``codes`` does not hold exactly the codes of ``shape``.
    """
    del kernel
    offsets = _offsets(codes, zero, bits, group, shape, scale.shape[1])
    weight = offsets.mul_(scale.to(torch.float32).unsqueeze(-1))  # in place: tables of embeddings are large
    return join_groups(weight, columns_of(shape)).reshape(tuple(shape)).contiguous()


def _dequantize_fake(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], kernel: str = ""
) -> Tensor:
    del scale, zero, bits, group, kernel
    return codes.new_empty(tuple(shape), dtype=torch.float32)


def columns_of(shape: Sequence[int]) -> int:
    """Columns of a weight of this shape seen as a matrix."""
    product = 1
    for size in shape[1:]:
        product *= size
    return product


def _offsets(codes: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], groups: int) -> Tensor:
    """``u - zero`` as float32 ``[rows, groups, group]``, a tensor of its own."""
    unsigned = unpack(codes, bits, columns_of(shape)).to(torch.float32)
    if zero is None:
        return split_groups(unsigned.sub_(1 << (bits - 1)), group)
    return split_groups(unsigned, group).sub_(unpack(zero, bits, groups).to(torch.float32).unsqueeze(-1))


def _dequantize_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    codes, scale, zero, bits, group, shape, *_ = inputs
    ctx.save_for_backward(codes, zero)
    ctx.options = (bits, group, tuple(shape), scale.shape[1], scale.dtype)


def _dequantize_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    codes, zero = ctx.saved_tensors
    bits, group, shape, groups, dtype = ctx.options
    offsets = _offsets(codes, zero, bits, group, shape, groups)
    rows = split_groups(gradient.reshape(shape[0], columns_of(shape)), group)
    return None, (rows * offsets).sum(dim=-1).to(dtype), None, None, None, None, None


dequantize.register_fake(_dequantize_fake)
dequantize.register_autograd(_dequantize_backward, setup_context=_dequantize_setup)


@torch.library.custom_op(
    "instar::dequantize_int8",
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor? zero, int bits, int group, int[] shape, str kernel='') -> Tensor",
)
def dequantize_int8(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], kernel: str = ""
) -> Tensor:
    """As :func:`dequantize`, rounded to 8-bit integers with one scale a row: what an int8 kernel multiplies with.

    The row's scale is ``1/127`` of the largest value that its groups can hold, so rounding adds at most half of that to
    each weight. A format with one group a row is already of this kind and comes out unchanged.

    Args:
        codes: like the others as in :func:`dequantize`.
        scale: ``[rows, groups]``.
        zero: packed zero points or ``None``.
        bits: 2 to 8.
        group: columns that share a scale.
        shape: shape of the result, float32.
        kernel: as in :func:`dequantize`.
    """
    del kernel
    weight, step, offset = expanded_int8(codes, scale, zero, bits, group, shape)
    centred = weight.to(torch.float32) - offset.to(torch.float32).unsqueeze(1)
    return (centred * step.unsqueeze(1)).reshape(tuple(shape))


def expanded_int8(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The integers behind :func:`dequantize_int8`: the weight is ``(integers - offset) * step``.

    Args:
        codes: like the others as in :func:`dequantize_int8`.
        scale: ``[rows, groups]``.
        zero: packed zero points or ``None``.
        bits: 2 to 8.
        group: columns that share a scale.
        shape: shape of the weight.

    Returns:
        Integers ``int8 [rows, columns]``, step ``f32 [rows]``, offset ``int8 [rows]``. Grouped codes have offset 0 and
        are multiplied by ``scale / step`` and rounded half to even.
    """
    columns, groups = columns_of(shape), scale.shape[1]
    signed = _signed(codes, bits, columns)
    scale = scale.to(torch.float32)
    offsets = torch.zeros(scale.shape, dtype=torch.int8, device=codes.device)
    if zero is not None:
        offsets = _signed(zero, bits, groups)
    if groups == 1:
        return signed, scale[:, 0], offsets[:, 0]
    step = row_scale(scale, offsets.to(torch.float32), bits)
    index = torch.arange(columns, device=codes.device) // group
    ratio = (scale / step.unsqueeze(1))[:, index]
    centred = signed.to(torch.float32) - offsets.to(torch.float32)[:, index]
    return (centred * ratio).round().to(torch.int8), step, torch.zeros_like(offsets[:, 0])


def _signed(codes: Tensor, bits: int, columns: int) -> Tensor:
    """Packed codes relative to ``2^(bits-1)``, int8 ``[rows, columns]``."""
    return (unpack(codes, bits, columns).to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


def row_scale(scale: Tensor, offsets: Tensor, bits: int) -> Tensor:
    """One scale a row, ``[rows]``, at which every value that the groups can hold fits ``-127..127``.

    Args:
        scale: float32 ``[rows, groups]``.
        offsets: signed zero points ``[rows, groups]``, float32.
        bits: width of the codes.
    """
    half = float(1 << (bits - 1))
    largest = scale.abs() * torch.maximum(half + offsets, half - offsets)
    return (largest.amax(dim=1) / 127.0).clamp(min=SMALLEST_STEP)


dequantize_int8.register_fake(_dequantize_fake)
