"""Where the channels of a value go: which weights read them, and through which of them nothing may be moved.

Every channel gets a number. Operations that move data are run on the numbers themselves, so that heads, repeated heads
(grouped-query attention), packed projections and slices need no rules of their own; what is linear along a channel lets
its number through, and whatever else reads a channel blocks it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from ...ir.errors import InstarError
from ...ir.evaluate import evaluate_node
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, EMBEDDING, MATMUL
from ...ir.op import GETITEM
from ...ir.types import TensorType, evaluate_dim

FOREIGN = -1
"""The number of what is no channel of the source."""

MOVES = frozenset(
    f"aten.{name}"
    for name in (
        *("reshape", "view", "permute", "transpose", "select", "slice", "narrow", "expand", "unsqueeze", "squeeze"),
        *("repeat", "repeat_interleave", "flatten", "unflatten", "contiguous", "clone", "split", "chunk", "flip"),
        *("split_with_sizes", "unbind", "cat", "concat", "stack", "index_select", "alias", "_to_copy"),
    )
)
"""Operators that put every element somewhere, and do nothing else to it."""

HOMOGENEOUS = frozenset(f"aten.{name}" for name in ("relu", "leaky_relu", "neg"))
"""``f(c x) = c f(x)`` for every positive ``c``."""

_ATTENTION = "aten.scaled_dot_product_attention"


@dataclass(frozen=True)
class Consumer:
    """A node that multiplies a weight with the channels.

    Attributes:
        node: linear, matmul or convolution.
        weight: the constant; nothing else reads it.
        columns: int64 ``[columns]``, the channel of every column of the weight's matrix, or :data:`FOREIGN`.
    """

    node: Node
    weight: Node
    columns: Tensor


@dataclass
class Reach:
    """What becomes of the channels of one value.

    Attributes:
        consumers: weights that read them, in the order of the graph.
        blocked: bool ``[channels]``: something reads these that a scale cannot be moved through.
        heads: int64 ``[channels]``: the first channel of the head of attention that each went through, or
            :data:`FOREIGN`.
        uneven: whether a product was gone through that may treat channels differently.
        reasons: what blocked some, in the order of the graph.
    """

    blocked: Tensor
    heads: Tensor
    uneven: bool = False
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    reasons: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Terrain:
    """A graph with what is asked about it for every source."""

    graph: Graph

    @cached_property
    def order(self) -> Mapping[Node, int]:
        """Place of every node in the graph's order."""
        return {node: place for place, node in enumerate(self.graph.nodes())}

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """A size for every dynamic dimension: small, and different ones where their ranges allow it."""
        named = sorted(self.graph.dims.items())
        return {name: min(max(5 + 2 * i, dim.minimum), dim.maximum) for i, (name, dim) in enumerate(named)}

    def shape(self, value: Node) -> list[int]:
        """The shape of a value at these sizes."""
        return [evaluate_dim(d, self.sizes) for d in value.tensor_type.shape]

    def alone(self, constant: Any) -> bool:
        """Whether something is a constant that one node reads, and reads once."""
        if not isinstance(constant, Node) or not constant.is_constant:
            return False
        users = self.graph.users()[constant]
        return len(users) == 1 and users[0].inputs.count(constant) == 1 and constant not in self.graph.output_nodes


def numbered(terrain: Terrain, value: Node, axis: int) -> Tensor:
    """The channels of a value along an axis as numbers, in the value's shape."""
    shape = terrain.shape(value)
    view = [-1 if place == axis % len(shape) else 1 for place in range(len(shape))]
    return torch.arange(shape[axis]).reshape(view).expand(shape)


def follow(terrain: Terrain, source: Node, axis: int, only: Callable[[Node], bool] | None = None) -> Reach:
    """Follow the channels of ``source`` to the weights that read them.

    Args:
        terrain: of the graph.
        source: a floating value.
        axis: where its channels are.
        only: which of its users to follow; all where not given.
    """
    labels: dict[Node, Any] = {source: numbered(terrain, source, axis)}
    size = terrain.shape(source)[axis]
    reach = Reach(torch.zeros(size, dtype=torch.bool), torch.full((size,), FOREIGN))
    if source in terrain.graph.output_nodes and only is None:
        _block(reach, labels[source], "the model returns it")
    users = terrain.graph.users()
    waiting = [(terrain.order[u], u) for u in users[source] if only is None or only(u)]
    seen = {u for _, u in waiting}
    heapq.heapify(waiting)
    while waiting:
        _, node = heapq.heappop(waiting)
        outcome = _step(terrain, node, labels, reach)
        if outcome is None:
            continue
        labels[node] = outcome
        if node in terrain.graph.output_nodes:
            _block(reach, outcome, "the model returns it")
        for user in users[node]:
            if user not in seen:
                seen.add(user)
                heapq.heappush(waiting, (terrain.order[user], user))
    return reach


def _step(terrain: Terrain, node: Node, labels: Mapping[Node, Any], reach: Reach) -> Any:
    """Numbers of a node's value; None where they end: at a weight, or where they are blocked."""
    consumed = _consume(terrain, node, labels)
    if isinstance(consumed, Consumer):
        reach.consumers.append(consumed)
        return None
    found = consumed or _through(terrain, node, labels, reach)
    if not isinstance(found, str):
        return found
    for source in node.inputs:
        if source in labels:
            _block(reach, labels[source], found)
    return None


def _block(reach: Reach, labels: Any, reason: str) -> None:
    for part in cast("list[Tensor]", labels) if isinstance(labels, list | tuple) else [cast(Tensor, labels)]:
        numbers = torch.unique(part)
        reach.blocked[numbers[numbers >= 0]] = True
    if reason not in reach.reasons:
        reach.reasons.append(reason)


# ------------------------------------------------------------------------------------------------ ends
def _consume(terrain: Terrain, node: Node, labels: Mapping[Node, Any]) -> Consumer | str | None:
    """The weight that a node multiplies with numbered channels, a reason why it cannot take a scale, or nothing."""
    role = node.op.facts.weight
    if role is None or role.kind == EMBEDDING or node.argument(role.input) not in labels:
        return None
    weight: Node = node.argument(role.weight)
    if not terrain.alone(weight) or node.inputs.count(node.argument(role.input)) != 1:
        return "a weight that is computed or that something else reads multiplies it"
    if any(source in labels for source in node.inputs if source is not node.argument(role.input)):
        return f"{node.op.short_name} reads it twice"
    numbers: Tensor = labels[node.argument(role.input)]
    if role.kind == CONV:
        return _convolved(node, weight, numbers)
    if role.kind == MATMUL and weight.tensor_type.rank != 2:
        return "a matmul with a weight of another rank than 2 reads it"
    row = _same_along(numbers, numbers.dim() - 1)
    return Consumer(node, weight, row) if row is not None else f"{node.op.short_name} reads it along another axis"


def _convolved(node: Node, weight: Node, numbers: Tensor) -> Consumer | str:
    rank = weight.tensor_type.rank
    if int(node.argument("groups", 1)) != 1:
        return "a convolution in groups reads it"
    row = _same_along(numbers, numbers.dim() - (rank - 1))
    if row is None:
        return f"{node.op.short_name} reads it along another axis"
    kernel = TensorType(weight.tensor_type.dtype, weight.tensor_type.shape[2:]).numel()
    return Consumer(node, weight, row.repeat_interleave(int(kernel)))


def _same_along(numbers: Tensor, axis: int) -> Tensor | None:
    """The numbers along an axis where they are the same at every place of all others."""
    rows = numbers.movedim(axis, -1).reshape(-1, numbers.shape[axis])
    return rows[0].clone() if bool((rows == rows[:1]).all()) else None


# ------------------------------------------------------------------------------------------------ through
def _through(terrain: Terrain, node: Node, labels: Mapping[Node, Any], reach: Reach) -> Any:
    name = node.op.packet if node.op is not GETITEM else GETITEM.name
    if name == GETITEM.name or name in MOVES:
        return _moved(terrain, node, labels)
    given = [source for source in node.inputs if source in labels]
    if name in HOMOGENEOUS:
        return labels[given[0]]
    if name in ("aten.mul", "aten.div"):
        other = next((v for v in node.inputs if v not in labels), None)
        reach.uneven |= other is not None and other.tensor_type.rank > 0
        return _product(terrain, node, labels)
    values = {"aten.matmul": "other", _ATTENTION: "value"}.get(name)
    if values is None or node.argument(values) not in given:
        return f"{node.op.short_name} reads it"
    value = node.argument(values)
    for source in given:  # queries and keys of a packed projection
        if source is not value or node.inputs.count(source) > 1:
            _block(reach, labels[source], f"{node.op.short_name} reads it")
    _note_heads(labels[value], reach)
    return _mixed(terrain, node, labels[value], grouped=bool(node.argument("enable_gqa", False)))


def _note_heads(numbers: Tensor, reach: Reach) -> None:
    """Channels along the last axis of what attention mixes are those of a head; in two different ones they are none."""
    if numbers.dim() < 2:
        return
    for row in numbers.select(-2, 0).reshape(-1, numbers.shape[-1]).unique(dim=0):
        own = row[row != FOREIGN]
        if own.numel():
            known = reach.heads[own]
            fits = bool((known == FOREIGN).all()) or bool((known == own.min()).all())
            reach.heads[own] = own.min() if fits else FOREIGN
            reach.uneven |= not fits


def _moved(terrain: Terrain, node: Node, labels: Mapping[Node, Any]) -> Any:
    values = dict(labels)
    for source in node.inputs:
        if source in labels:
            continue
        if source.is_constant and not source.tensor_type.dtype.is_floating_point:
            values[source] = source.handle.tensor
        else:
            values[source] = torch.full(terrain.shape(source), FOREIGN)
    if node.op.packet == "aten._to_copy" or (node.op.packet == "aten.clone"):
        return labels[node.inputs[0]]
    try:
        return evaluate_node(node, values, terrain.sizes)
    except InstarError:
        return f"{node.op.short_name} reads it"


def _product(terrain: Terrain, node: Node, labels: Mapping[Node, Any]) -> Any:
    """A product with one numbered factor is linear in it; the divisor of a quotient is no factor."""
    first, second = node.argument("self"), node.argument("other")
    numbered_ones = [v for v in (first, second) if isinstance(v, Node) and v in labels]
    if len(numbered_ones) != 1 or (node.op.packet == "aten.div" and numbered_ones[0] is second):
        return f"{node.op.short_name} is not linear in it"
    return labels[numbered_ones[0]].expand(terrain.shape(node))


def _mixed(terrain: Terrain, node: Node, numbers: Tensor, *, grouped: bool) -> Any:
    """``weights @ values`` where the channels are the same at every token: the last axis of the result is theirs."""
    if numbers.dim() < 2 or not bool((numbers == numbers[..., :1, :]).all()):
        return f"{node.op.short_name} mixes it along the axis of the channels"
    shape, row = terrain.shape(node), numbers[..., :1, :]
    if grouped and row.dim() > 2 and row.shape[-3] != shape[-3]:
        row = row.repeat_interleave(shape[-3] // row.shape[-3], dim=-3)
    return row.expand(shape)


# ------------------------------------------------------------------------------------------------ one axis
def axis_behind(terrain: Terrain, node: Node, source: Node, axis: int) -> int | None:
    """Where an operator that moves data puts an axis of one of its inputs; None where it does not stay an axis."""
    shape = terrain.shape(source)
    view = [-1 if place == axis else 1 for place in range(len(shape))]
    numbers = torch.arange(shape[axis], dtype=torch.float64).reshape(view).expand(shape)
    values: dict[Node, Any] = {s: torch.full(terrain.shape(s), -1.0, dtype=torch.float64) for s in node.inputs}
    try:
        result = evaluate_node(node, {**values, source: numbers}, terrain.sizes)
    except InstarError:
        return None
    if not isinstance(result, Tensor):
        return None
    return next((a for a in range(result.dim()) if _runs_along(result, a, shape[axis])), None)


def _runs_along(result: Tensor, axis: int, size: int) -> bool:
    """Whether an axis counts the channels at every place; what comes from elsewhere is marked."""
    if result.shape[axis] != size:
        return False
    rows = result.movedim(axis, -1).reshape(-1, size)
    own = rows[(rows >= 0).all(1)]
    return (
        bool(own.numel())
        and bool((own == torch.arange(size, dtype=own.dtype)).all())
        and not bool(((rows >= 0).any(1) & ~(rows >= 0).all(1)).any())
    )
