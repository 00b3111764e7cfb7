"""Operators that take a value apart: every piece that is read becomes an operator of its own, with one result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Graph, Node
from ...ir.op import GETITEM
from ...passes.base import PassResult
from ...passes.rewrite import RewriteContext, rewrite
from ...passes.rules import Outcome, refuse, rule

SPLITS = ("aten.split.Tensor", "aten.split_with_sizes.default")


@rule(GETITEM.name)
def piece(node: Node, match: RewriteContext) -> Outcome:
    """``unbind(x, d)[i] -> select(x, d, i)``, ``split(x, size, d)[i] -> slice(x, d, ...)``."""
    parted, index = node.argument("value"), int(node.argument("index"))
    if not isinstance(parted, Node) or parted.op.name not in ("aten.unbind.int", *SPLITS):
        return None
    source, axis = parted.argument("self"), parted.argument("dim") or 0
    if parted.op.name == "aten.unbind.int":
        return match.node("aten.select.int", source, axis, index)
    sizes = [part.shape[axis] for part in parted.type] if isinstance(parted.type, tuple) else []
    if not all(isinstance(size, int) for size in sizes):
        return refuse("the sizes of the pieces vary")
    start = sum(sizes[:index])
    return match.node("aten.slice.Tensor", source, axis, start, start + sizes[index], 1)


@dataclass(frozen=True)
class SeparateParts:
    """``unbind``, ``chunk`` and ``split`` -> ``select`` and ``slice``. Exact."""

    name: ClassVar[str] = "separate-parts"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite to the fixed point."""
        return rewrite(graph, (piece,))
