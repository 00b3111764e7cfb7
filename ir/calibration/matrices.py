"""Layers as products of matrices: inputs and output gradients of a layer by token, convolutions unfolded (im2col)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from ..graph import Node
from ..layers import CONV, Layer, Use
from .moments import LARGEST, LayerMoments, Samples


def layer_matrices(use: Use, source: Tensor, gradient: Tensor | None, rows: int) -> tuple[Tensor, Tensor | None]:
    """Input as ``[tokens, groups * columns]`` and output gradient as ``[tokens, rows]``; convolutions are unfolded."""
    if use.kind != CONV:
        flat = source.reshape(-1, source.shape[-1]).float()
        return flat, None if gradient is None else gradient.reshape(-1, rows).float()
    batched = source.dim() == len(use.node.argument("weight").tensor_type.shape)
    columns = _unfold(use, source.float() if batched else source.float().unsqueeze(0))
    if gradient is None:
        return columns, None
    return columns, gradient.movedim(1 if batched else 0, -1).reshape(-1, rows).float()


def _unfold(use: Use, x: Tensor) -> Tensor:
    """``[N, C, *spatial]`` -> ``[N * positions, C * kernel]`` (im2col), for 1, 2 and 3 spatial dimensions."""
    node = use.node
    weight = cast(Node, node.argument("weight"))
    kernel = tuple(int(d) for d in weight.tensor_type.shape[2:])
    rank = len(kernel)
    stride = _spread(node.argument("stride", 1), rank)
    dilation = _spread(node.argument("dilation", 1), rank)
    x = torch.nn.functional.pad(x, _padding(node.argument("padding", 0), kernel, dilation))
    for axis in range(rank):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        x = x.unfold(2 + axis, span, stride[axis])
    index = tuple(slice(None, None, dilation[axis]) for axis in range(rank))
    x = x[(..., *index)]
    order = [0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank)]
    return x.permute(order).reshape(-1, x.shape[1] * int(torch.tensor(kernel).prod()))


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    given = cast("tuple[int, ...]", value if isinstance(value, tuple) else (value,))
    return given * rank if len(given) == 1 else given


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[int]:
    """Arguments for ``torch.nn.functional.pad``: last axis first."""
    sides: list[tuple[int, int]] = []
    if isinstance(value, str):
        for k, d in zip(kernel, dilation, strict=True):
            total = d * (k - 1) if value == "same" else 0
            sides.append((total // 2, total - total // 2))
    else:
        sides = [(p, p) for p in _spread(value, len(kernel))]
    return [amount for side in reversed(sides) for amount in side]


def conv_groups(
    use: Use, x: Tensor, gradient: Tensor | None, rows: int
) -> Iterable[tuple[Tensor, Tensor | None, slice]]:
    """One (inputs, gradients, rows) triple per group of a convolution; a single one for everything else."""
    groups = use.groups
    if groups == 1:
        yield x, gradient, slice(0, rows)
        return
    width, height = x.shape[1] // groups, rows // groups
    for g in range(groups):
        part = slice(g * height, (g + 1) * height)
        yield x[:, g * width : (g + 1) * width], None if gradient is None else gradient[:, part], part


def accumulate_lookups(
    moments: LayerMoments, source: Tensor, value: Tensor, gradient: Tensor | None, axis: int, samples: Samples
) -> None:
    """Add an embedding's look-ups, and the gradients of the rows that were looked up where there are any."""
    rows = (source.movedim(axis, 0) if source.dim() else source).reshape(-1)
    if moments.lookups.numel():
        moments.count_lookups(rows)
    if gradient is None:
        moments.add_lookups(rows, float(value.double().square().sum()))
        return
    numbers = torch.arange(samples.count).repeat_interleave(rows.numel() // samples.count)
    unique, inverse = torch.unique(rows + moments.rows * numbers, return_inverse=True)
    summed = torch.zeros(unique.numel(), value.shape[-1])
    summed.index_add_(0, inverse, gradient.movedim(axis, 0).reshape(rows.numel(), -1).float())
    moments.add_rows(summed, unique % moments.rows, unique // moments.rows, samples, rows.numel())


def input_sensitivity(layer: Layer, use: Use, source: Tensor, gradient: Tensor | None) -> Tensor:
    """``(W^T g)^2`` for every element of the input, in the input's shape; without gradients ``sum_i W_ij^2``."""
    weight = layer.matrix()
    if gradient is not None and gradient.numel() and float(gradient.abs().amax()) >= LARGEST:
        weight, gradient = weight.double(), gradient.double()
    if use.kind == CONV:
        energy = weight.square().sum(dim=1)
        total = energy.sum() if gradient is None else (gradient.square() @ energy).sum()
        return total.reshape(1)
    if gradient is None:
        return weight.square().sum(dim=0).expand(source.shape)
    return (gradient @ weight).square().reshape(source.shape)
