"""Fold constants: what no input reaches is computed now, unless storing it would make the model bigger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import sympy
import torch

from ..ir.constants import ConstantHandle
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node
from ..ir.op import CONSTANT, GETITEM, INPUT, is_random
from ..ir.text import call_text, node_names
from .base import PassResult, Refusal
from .rewrite import settle_names, substitute

RULE = "fold-constants"
_STORED = "instar."
"""Ops of instar's dialect stand for how a weight is stored; folding them would undo it."""

INDEX_BYTES = 1024
"""Bytes by which integers may make a model bigger."""

LEAST_BYTES = 1024
"""Bytes by which folded values together may make any model bigger: what a few operators take in a file."""


@dataclass(frozen=True)
class FoldConstants:
    """Computes sub-graphs of constants once, in the model's own dtypes, so that every digit is the model's. Exact.

    Rewrites (before -> after):

    * ``permute(@weight)`` -> ``@weight``, transposed, where nothing else uses the constant
    * ``arange(128)``, ``zeros``, masks and tables made from them -> one constant
    * ``g * v / norm(v)`` of a weight norm -> ``@weight``

    Only the last values of a constant sub-graph are stored, never those in between.

    Refuses: a value that needs more than ``max_growth`` bytes beyond the constants that it makes superfluous, such as
    an ``expand`` of a vector or the transpose of a matrix that is used as it is as well; integers that need more than
    :data:`INDEX_BYTES`, which are positions that a few operations compute; and what would make all folded values
    together need more than ``max_share`` of the model's own constants, or :data:`LEAST_BYTES`. The smaller values
    before it are folded then. Ops of instar's dialect and random ops are left.

    Attributes:
        max_growth: bytes by which one folded value may make the model bigger.
        max_share: the share of its own constants by which all folded values together may make a model bigger.
    """

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True

    max_growth: int = 1 << 20
    max_share: float = 0.125

    def __call__(self, graph: Graph) -> PassResult:
        """Fold everything that may be."""
        cone = constant_cone(graph)
        plan = _Plan(graph, cone, self.max_growth, self.max_share)
        if not plan.folded:
            return PassResult(graph, refused=plan.refusals(graph))
        folded = substitute(graph, _constants(graph, plan.folded))
        settled = settle_names(folded)
        return PassResult(settled, Counter({RULE: len(plan.folded)}), plan.refusals(graph))


def constant_cone(graph: Graph) -> set[Node]:
    """Nodes that no input reaches and that can be computed now; constants among them."""
    cone: set[Node] = set()
    for node in graph.nodes():
        if node.op is CONSTANT or (_is_foldable(node) and all(source in cone for source in node.inputs)):
            cone.add(node)
    return cone


def _is_foldable(node: Node) -> bool:
    if node.op is INPUT or node.op.name.startswith(_STORED):
        return False
    types = node.type if isinstance(node.type, tuple) else (node.type,)
    random = node.op.overload is not None and is_random(node.op.overload)
    return not random and all(t.is_static for t in types) and not _has_symbol(tuple(v for _, v in node.arguments))


def _has_symbol(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_has_symbol(v) for v in cast(tuple[Any, ...], value))
    return isinstance(value, sympy.Expr)


class _Plan:
    """Which nodes of the cone become constants: from the outputs back, the last ones that are small enough."""

    def __init__(self, graph: Graph, cone: set[Node], max_growth: int, max_share: float) -> None:
        own = sum(constant.handle.nbytes for constant in graph.constants())
        self._left = max(int(own * max_share), LEAST_BYTES)
        self._largest = max_growth
        self._given = 0
        self.folded: list[Node] = []
        self._refused: list[tuple[Node, int]] = []
        self._cone = cone
        self._users = graph.users()
        self._outputs = set(graph.output_nodes)
        self._credited: set[Node] = set()
        needed = set(self._outputs)
        for node in reversed(graph.nodes()):
            if node.op is CONSTANT or (node in cone and node not in needed):
                continue
            if node not in cone or not self._fold(node):
                needed.update(node.inputs)

    def refusals(self, graph: Graph) -> tuple[Refusal, ...]:
        """What was left, with the bytes that it would have cost."""
        names = node_names(graph) if self._refused else {}
        return tuple(
            Refusal(
                RULE, call_text(n, names), n.origin, f"storing the value would make the model {growth} bytes bigger"
            )
            for n, growth in reversed(self._refused)
        )

    def _fold(self, node: Node) -> bool:
        if isinstance(node.type, tuple):
            return False
        freed = self._leaves_freed(node)
        given = self._given + sum(leaf.handle.nbytes for leaf in freed)
        nbytes = node.tensor_type.nbytes()
        growth = max(nbytes - given, 0)
        if growth > min(self._left, self._largest, self._limit(node)):
            self._refused.append((node, growth))
            return False
        self._given = max(given - nbytes, 0)
        self._left -= growth
        self._credited |= freed
        self.folded.append(node)
        return True

    def _limit(self, node: Node) -> int:
        dtype = node.tensor_type.dtype
        return self._largest if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool else INDEX_BYTES

    def _leaves_freed(self, node: Node) -> set[Node]:
        """Constants below a node that only constants use and that no other folded value was credited with."""
        seen: set[Node] = {node}
        pending = [node]
        leaves: set[Node] = set()
        while pending:
            for source in pending.pop().inputs:
                if source not in seen and source not in self._credited:
                    seen.add(source)
                    pending.append(source)
                    if source.op is CONSTANT and self._is_inner(source):
                        leaves.add(source)
        return leaves

    def _is_inner(self, constant: Node) -> bool:
        return constant not in self._outputs and all(user in self._cone for user in self._users[constant])


def _constants(graph: Graph, nodes: Iterable[Node]) -> dict[Node, Node]:
    """The constant that replaces each node. All are computed in one run that drops values in between as it goes."""
    roots = tuple(nodes)
    with torch.no_grad():
        values = evaluate(graph.context.graph((), roots), [])
    return {n: graph.context.constant_of(_handle(graph, n, v)) for n, v in zip(roots, values, strict=True)}


def _handle(graph: Graph, node: Node, value: torch.Tensor) -> ConstantHandle:
    """A handle named after the weight that the value was made from, or after the op."""
    stored = value if _is_dense(value) else value.contiguous()
    main = _main_source(graph, node)
    if main is None:
        inner = node.argument("value") if node.op is GETITEM else node
        return ConstantHandle.of(inner.op.name.split(".")[1], stored, "derived")
    return ConstantHandle.of(main.name, stored, main.kind, main.aliases)


def _main_source(graph: Graph, node: Node) -> ConstantHandle | None:
    """The constant that a value is a changed copy of: of as many elements, or the only one; parameters first."""
    below = [c.handle for c in graph.context.graph((), (node,)).constants()]
    ranked = [h for h in below if h.kind == "parameter"] or below
    same_size = [h for h in ranked if h.type.numel() == node.tensor_type.numel()]
    return same_size[0] if same_size else ranked[0] if len(ranked) == 1 else None


def _is_dense(value: torch.Tensor) -> bool:
    """Whether no two elements share memory, as they do after ``expand``."""
    return all(stride != 0 for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1)
