"""Weights from packed codes that index a table of levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..packing import unpack
from .groups import join_groups, split_groups
from .weights import columns_of


@torch.library.custom_op(
    "instar::dequantize_levels",
    mutates_args=(),
    schema="(Tensor codes, Tensor? scale, float[] levels, int bits, int group, int[] shape) -> Tensor",
)
def dequantize_levels(
    codes: Tensor, scale: Tensor | None, levels: Sequence[float], bits: int, group: int, shape: Sequence[int]
) -> Tensor:
    """The numbers that packed codes stand for: ``levels[u] * scale`` per group, viewed as ``shape``.

    Args:
        codes: ``uint8 [rows, row_bytes(columns, bits)]``, see :mod:`instar.ir.packing`; ``rows = shape[0]`` and
            ``columns`` is the product of the other sizes.
        scale: ``[rows, groups]`` of any float dtype; ``None`` is 1.
        levels: ``2^bits`` numbers, rounded to float32, by code.
        bits: width of a code, 1 to 8.
        group: columns that share a scale, the last group may be shorter; 0 is one group a row.
        shape: shape of the result.

    Returns:
        float32 tensor of ``shape``. Its gradient flows to ``scale``.

    Raises:
        FormatError: if ``codes`` does not hold exactly the codes of ``shape``.
    """
    weight = _looked_up(codes, levels, bits, group, shape)
    if scale is not None:
        weight = weight * scale.to(torch.float32).unsqueeze(-1)
    return join_groups(weight, columns_of(shape)).reshape(tuple(shape)).contiguous()


def _looked_up(codes: Tensor, levels: Sequence[float], bits: int, group: int, shape: Sequence[int]) -> Tensor:
    """float32 ``[rows, groups, group]``."""
    table = torch.tensor(levels, dtype=torch.float32, device=codes.device)
    return split_groups(table[unpack(codes, bits, columns_of(shape)).to(torch.int32)], group)


@dequantize_levels.register_fake
def _(codes: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty(tuple(rest[-1]), dtype=torch.float32)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    codes, scale, *options = inputs
    ctx.save_for_backward(codes)
    ctx.options = (*options, None if scale is None else scale.dtype)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (codes,) = ctx.saved_tensors
    levels, bits, group, shape, dtype = ctx.options
    if dtype is None:
        return (None,) * 6
    rows = split_groups(gradient.reshape(shape[0], columns_of(shape)), group)
    return None, (rows * _looked_up(codes, levels, bits, group, shape)).sum(dim=-1).to(dtype), None, None, None, None


dequantize_levels.register_autograd(_backward, setup_context=_setup)
