"""Cancel layout: permutes and reshapes that undo each other, also with elementwise ops or a linear between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..ir.graph import Graph, Node
from ..ir.op import is_random
from .base import PassResult
from .canonical.layout import (
    PERMUTE,
    RESHAPE,
    RESHAPE_LIKE,
    no_op,
    permutation_of,
    permute_of_permute,
    reshape_of_reshape,
    source_of,
    to_permute,
    to_reshape,
)
from .canonical.products import LINEAR
from .rewrite import RewriteContext, rewrite, same_dim, same_shape
from .rules import Outcome, Rule, rule


@dataclass(frozen=True)
class CancelLayout:
    """Removes permutes and reshapes that undo each other. Exact.

    Rewrites (before -> after):

    * ``permute(permute(x, p), q)`` -> ``permute(x, p[q])``, ``reshape(reshape(x))`` -> ``reshape(x)``, or ``x``
    * ``permute(relu(permute(x, p)) + y, q)`` -> ``relu(x) + permute(y, q)`` where ``q`` undoes ``p``: wherever moving a
      permute above elementwise ops leaves fewer permutes than before
    * ``select(permute(x, p), axis)`` -> ``permute(select(x, p[axis]), p without it)``
    * ``reshape(gelu(reshape(x)))`` -> ``reshape(gelu(x))``
    * ``reshape(f(reshape(x, [b * s, d])), [b, s, n])`` -> ``f(x)`` for chains of linear, layer norm and elementwise ops

    Values in between that something else uses are left as they are, because they would be computed twice.
    """

    name: ClassVar[str] = "cancel-layout"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite to the fixed point."""
        return rewrite(graph, RULES)


LAYER_NORM = "aten.layer_norm.default"
SELECT = "aten.select.int"
_ELEMENTWISE = frozenset(("aten._to_copy.default", "aten.hardswish.default", "aten.masked_fill.Tensor"))
"""Elementwise ops that torch does not tag as such."""


def is_elementwise(node: Node) -> bool:
    """Whether each element of the result depends on the elements at the same (broadcast) place only."""
    overload = node.op.overload
    if overload is None or isinstance(node.type, tuple) or is_random(overload):
        return False
    return torch.Tag.pointwise in overload.tags or node.op.name in _ELEMENTWISE


@dataclass
class _Region:
    """Elementwise nodes that only feed one value, and the values that feed them.

    ``inner`` is in reverse topological order: users before what they use.
    """

    inner: list[Node] = field(default_factory=list[Node])
    leaves: dict[Node, None] = field(default_factory=dict[Node, None])


def _region(root: Node, match: RewriteContext) -> _Region:
    rank = root.tensor_type.rank
    region = _Region()
    pending = [root]
    while pending:
        node = pending.pop()
        inside = is_elementwise(node) and node.tensor_type.rank == rank and match.use_count(node) == 1
        if inside:
            region.inner.append(node)
            pending.extend(node.inputs)
        else:
            region.leaves[node] = None
    return region


@rule(PERMUTE)
def permute_through_elementwise(node: Node, match: RewriteContext) -> Outcome:
    """``permute(f(permute(x, p), y), q) -> f(permute(x, p[q]), permute(y, q))`` where that leaves fewer permutes."""
    region = _region(source_of(node), match)
    if not region.inner:
        return None
    order = permutation_of(node)
    costs = [_cost(leaf, order, match) for leaf in region.leaves]
    if any(c is None for c in costs) or sum(c for c in costs if c is not None) >= 1:
        return None
    replaced = {leaf: _permuted(leaf, order, match) for leaf in region.leaves}
    for inner in reversed(region.inner):
        replaced[inner] = match.context.rebuild(inner, replaced)
    return replaced[source_of(node)]


def _cost(leaf: Node, order: tuple[int, ...], match: RewriteContext) -> int | None:
    """How many permutes it adds to permute a leaf; ``None`` where it cannot be done."""
    rank, alone = leaf.tensor_type.rank, match.use_count(leaf) == 1
    if rank == 0:
        return 0
    if leaf.is_constant:
        return 0 if alone else 1
    if rank != len(order):
        return None
    if leaf.op.name != PERMUTE:
        return 1
    inner = permutation_of(leaf)
    cancels = tuple(inner[axis] for axis in order) == tuple(range(rank))
    return int(not cancels) - int(alone)


def _permuted(leaf: Node, order: tuple[int, ...], match: RewriteContext) -> Node:
    rank = leaf.tensor_type.rank
    if rank == 0:
        return leaf
    if rank < len(order):
        leaf = match.node(RESHAPE, leaf, (1,) * (len(order) - rank) + leaf.tensor_type.shape)
    if leaf.op.name != PERMUTE:
        return match.node(PERMUTE, leaf, order)
    inner = permutation_of(leaf)
    both = tuple(inner[axis] for axis in order)
    return source_of(leaf) if both == tuple(range(len(both))) else match.node(PERMUTE, source_of(leaf), both)


@rule(RESHAPE)
def reshape_through_elementwise(node: Node, match: RewriteContext) -> Outcome:
    """``reshape(f(reshape(x))) -> reshape(f(x))`` for a chain of ops with one tensor each, apart from scalars."""
    chain = list(_chain(source_of(node), match))
    if not chain:
        return None
    (reshaped,) = _tensors(chain[-1])
    if reshaped.op.name not in RESHAPE_LIKE or match.use_count(reshaped) != 1:
        return None
    value, old = source_of(reshaped), reshaped
    for step in reversed(chain):
        value, old = match.context.rebuild(step, {old: value}), step
    if same_shape(value.tensor_type.shape, node.tensor_type.shape):
        return value
    return match.node(RESHAPE, value, node.tensor_type.shape)


def _chain(node: Node, match: RewriteContext) -> Iterator[Node]:
    """The elementwise nodes of one tensor from a node upwards that nothing else uses."""
    while is_elementwise(node) and match.use_count(node) == 1 and len(_tensors(node)) == 1:
        yield node
        (node,) = _tensors(node)


def _tensors(node: Node) -> list[Node]:
    return [i for i in node.inputs if i.tensor_type.rank > 0]


@rule(RESHAPE)
def reshape_around_tokens(node: Node, match: RewriteContext) -> Outcome:
    """``reshape(f(reshape(x, [b * s, d])), [b, s, n]) -> f(x)`` where f works on each vector of the last axis alone."""
    chain = list(_token_chain(source_of(node), match))
    if not chain:
        return None
    flattened = _token_input(chain[-1])
    if flattened is None or flattened.op.name not in RESHAPE_LIKE:
        return None
    x = source_of(flattened)
    before, flat, after = x.tensor_type.shape, flattened.tensor_type.shape, node.tensor_type.shape
    top = source_of(node).tensor_type.shape
    if not before or not flat or not same_dim(before[-1], flat[-1]) or not same_shape((*before[:-1], top[-1]), after):
        return None
    value, old = x, flattened
    for step in reversed(chain):
        value, old = match.context.rebuild(step, {old: value}), step
    return value


def _token_chain(node: Node, match: RewriteContext) -> Iterator[Node]:
    """The nodes from a node upwards that work on the last axis alone and that nothing else uses."""
    above: Node | None = node
    while above is not None and match.use_count(above) == 1 and _token_input(above) is not None:
        yield above
        above = _token_input(above)


def _token_input(node: Node) -> Node | None:
    """The one input whose last axis a node works on; ``None`` for nodes that mix other axes."""
    if node.op.name == LINEAR or (node.op.name == LAYER_NORM and len(node.argument("normalized_shape")) == 1):
        return source_of(node) if source_of(node).tensor_type.rank > 1 else None
    wide = [i for i in node.inputs if i.tensor_type.rank > 1] if is_elementwise(node) else []
    return wide[0] if len(wide) == 1 else None


@rule(SELECT)
def select_of_permute(node: Node, match: RewriteContext) -> Outcome:
    """``select(permute(x, p), axis) -> permute(select(x, p[axis]), p without it)``: less is moved, or nothing."""
    inner = source_of(node)
    if inner.op.name != PERMUTE:
        return None
    order = permutation_of(inner)
    axis = order[node.argument("dim") % len(order)]
    chosen = match.node(SELECT, source_of(inner), axis, node.argument("index"))
    rest = tuple(a - (a > axis) for a in order if a != axis)
    return chosen if rest == tuple(range(len(rest))) else match.node(PERMUTE, chosen, rest)


RULES: tuple[Rule, ...] = (
    no_op,
    to_permute,
    permute_of_permute,
    select_of_permute,
    to_reshape,
    reshape_of_reshape,
    permute_through_elementwise,
    reshape_through_elementwise,
    reshape_around_tokens,
)
