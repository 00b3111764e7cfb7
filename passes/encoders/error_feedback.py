"""One loop for every method that rounds column by column and lets later columns make up for the error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ..objective import FactoredHessian

FEW = 16
"""Columns inside a block that make up for each other's errors one by one; what follows them is updated at once."""


class ColumnQuantizer(Protocol):
    """Rounds one column at a time. Grids, binary codes and vector codebooks differ only here."""

    def start_group(self, first: int, columns: Tensor) -> None:
        """Called before the group that starts at visited column ``first``, with its weights as updated so far.

        ``columns`` is ``[k, rows]``: one column of the weight in each row.
        """
        ...

    def column(self, index: int, values: Tensor) -> Tensor:
        """The decoded values ``[rows]`` for the updated ``values`` of visited column ``index``."""
        ...


def error_feedback(
    weight: Tensor, factored: FactoredHessian, quantizer: ColumnQuantizer, group: int = 0, block: int = 128
) -> tuple[Tensor, Tensor]:
    """Round ``weight`` column by column, moving each column's error into the columns not yet visited.

    For column ``i``: ``e = (w_i - q_i) / U_ii`` and ``W[:, i:] -= e U[i, i:]``, applied at once inside a block of
    columns and block by block beyond it (GPTQ, arXiv 2210.17323, algorithm 1). The block size changes speed, never the
    result.

    Args:
        weight: ``[rows, columns]``; not changed.
        factored: of the same number of columns and dtype; its order is the visiting order.
        quantizer: rounds a column; sees indices in visiting order.
        group: call ``start_group`` every so many visited columns; 0 is once.
        block: columns updated together.

    Returns:
        The decoded matrix ``[rows, columns]`` in the weight's own column order, and ``sum e^2`` for each row
        ``[rows]``, which equals ``(W - Q)_i H (W - Q)_i^T`` with the damped ``H``.

    Raises:
        FormatError: if ``factored`` is of another size or ``block`` is not positive.
    """
    rows, columns = weight.shape
    _check(columns, factored, block)
    ordered = weight if factored.order is None else weight[:, factored.order]
    pending = ordered.T.clone(memory_format=torch.contiguous_format)
    decoded = torch.empty_like(pending)
    loss = torch.zeros(rows, dtype=weight.dtype, device=weight.device)
    upper = factored.upper.to(pending)
    for start, stop in _blocks(0, columns, group or columns, block):
        errors = _round_block(pending, decoded, upper, quantizer, slice(start, stop), group or columns)
        loss += errors.square().sum(dim=0)
        pending[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1.0)
    if factored.order is None:
        return decoded.T, loss
    restored = torch.empty_like(decoded)
    restored[factored.order] = decoded
    return restored.T, loss


def _check(columns: int, factored: FactoredHessian, block: int) -> None:
    if factored.upper.shape != (columns, columns):
        raise FormatError(
            f"error feedback: expected a factored second moment of {columns} columns, got {factored.upper.shape[0]}; "
            "factor the statistics of this layer"
        )
    if block < 1:
        raise FormatError(f"error feedback: expected a block of 1 or more columns, got {block}; 128 is usual")


def _blocks(first: int, last: int, group: int, block: int) -> Iterator[tuple[int, int]]:
    """Blocks of at most ``block`` columns of ``first..last`` that a group either contains or is contained in.

    A group that starts inside a block must end in it, or its parameters would be fitted to weights that lack the
    block's errors; so a block holds whole groups, or, for groups longer than a block, a piece of one. ``first`` is
    where a group starts, or lies in the one that ``last`` lies in too.
    """
    if group <= block:
        size = block // group * group
        yield from ((start, min(start + size, last)) for start in range(first, last, size))
        return
    for start in range(first, last, group):
        end = min(start + group, last)
        yield from ((piece, min(piece + block, end)) for piece in range(start, end, block))


def _round_block(
    pending: Tensor, decoded: Tensor, upper: Tensor, quantizer: ColumnQuantizer, block: slice, group: int
) -> Tensor:
    """Round the columns of a block, a few at a time; returns their scaled errors ``[columns, rows]``."""
    errors = torch.empty_like(pending[block])
    for start, stop in _blocks(block.start, block.stop, group, FEW):
        few = errors[start - block.start : stop - block.start]
        _round_few(pending, decoded, upper, quantizer, slice(start, stop), group, few)
        pending[stop : block.stop].addmm_(upper[start:stop, stop : block.stop].T, few, alpha=-1.0)
    return errors


def _round_few(
    pending: Tensor,
    decoded: Tensor,
    upper: Tensor,
    quantizer: ColumnQuantizer,
    columns: slice,
    group: int,
    errors: Tensor,
) -> None:
    inside = upper[columns, columns]
    pivots: list[float] = inside.diagonal().tolist()
    for offset, pivot in enumerate(pivots):
        index = columns.start + offset
        if index % group == 0:
            quantizer.start_group(index, pending[index : index + group])
        values = pending[index]
        decoded[index] = rounded = quantizer.column(index, values)
        error = torch.sub(values, rounded, out=errors[offset]).div_(pivot)
        pending[index + 1 : columns.stop].addr_(inside[offset, offset + 1 :], error, alpha=-1.0)
