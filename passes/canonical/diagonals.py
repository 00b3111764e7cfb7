"""Writes to a diagonal: what functionalisation makes of ``x.diagonal().add_(1)`` and ``fill_diagonal_``."""

from __future__ import annotations

import torch

from ...ir.graph import Node
from ..rewrite import RewriteContext
from ..rules import Outcome, Rule, rule


@rule("aten.diagonal_scatter.default")
def written_diagonal(node: Node, match: RewriteContext) -> Outcome:
    """``diagonal_scatter(x, d) -> where(row + offset == column, d of the row, x)``.

    Torch's own decomposition writes in place, which its exporter refuses.
    """
    x, values = node.argument("self"), node.argument("src")
    rank, shape = x.tensor_type.rank, x.tensor_type.shape
    offset = int(node.argument("offset") or 0)
    row, column = (int(node.argument(name) or 0) % rank for name in ("dim1", "dim2"))
    rows = _positions(match, shape[row])
    shifted = match.node("aten.add.Tensor", rows, offset) if offset else rows
    on = match.node("aten.eq.Tensor", match.node("aten.unsqueeze", shifted, 1), _positions(match, shape[column]))
    if column < row:
        on = match.node("aten.permute", on, (1, 0))
    on = match.node("aten.reshape", on, tuple(s if axis in (row, column) else 1 for axis, s in enumerate(shape)))
    return match.node("aten.where.self", on, _by_row(match, values, rows, offset, rank, row, column), x)


def _by_row(match: RewriteContext, values: Node, rows: Node, offset: int, rank: int, row: int, column: int) -> Node:
    """The diagonal's values laid along ``row``, one entry broadcast over ``column``; rows off the diagonal repeat."""
    last = values.tensor_type.shape[-1] - 1
    index = match.node("aten.clamp", match.node("aten.add.Tensor", rows, min(offset, 0)), 0, last)
    spread = match.node("aten.index_select", values, rank - 2, index)
    others = iter(range(rank - 2))
    order = tuple(rank - 2 if axis == row else next(others) for axis in range(rank) if axis != column)
    return match.node("aten.unsqueeze", match.node("aten.permute", spread, order), column)


def _positions(match: RewriteContext, count: object) -> Node:
    return match.node("aten.arange", count, dtype=torch.int64, device=torch.device("cpu"), pin_memory=False)


DIAGONAL_RULES: tuple[Rule, ...] = (written_diagonal,)
"""The rules of :class:`instar.passes.canonicalize.Canonicalize`, by subject."""
