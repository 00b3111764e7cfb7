"""Channels between layers whose order is free: what computes them, and what reads them, channel by channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node
from ...ir.layers import CONV, LINEAR, MATMUL, Layer
from .reach import Terrain

POINTWISE = frozenset(
    f"aten.{name}"
    for name in (
        *("relu", "relu6", "leaky_relu", "gelu", "silu", "sigmoid", "tanh", "elu", "mish", "softplus", "neg", "abs"),
        *("hardtanh", "hardswish", "hardsigmoid", "clamp", "mul", "add", "sub", "exp", "pow", "_to_copy", "clone"),
    )
)
"""Operators that compute every element from the elements at the same place."""


@dataclass
class Hidden:
    """Values with the same channels along one axis each.

    Attributes:
        size: channels.
        writers: layers whose rows are channels.
        readers: layers whose columns are channels.
        reasons: why their order is not free; empty where it is.
    """

    size: int
    writers: dict[Node, None] = field(default_factory=dict[Node, None])
    readers: dict[Node, None] = field(default_factory=dict[Node, None])
    reasons: list[str] = field(default_factory=list[str])

    def weights(self, nodes: Sequence[Node]) -> Iterator[Node]:
        """Their constants."""
        for node in nodes:
            yield weight_of(node)


def weight_of(node: Node) -> Node:
    """The weight of a layer."""
    role = node.op.facts.weight
    assert role is not None  # writers and readers have one
    weight: Node = node.argument(role.weight)
    return weight


def hidden_channels(graph: Graph, layers: Sequence[Layer]) -> list[Hidden]:
    """Every set of channels that layers compute and layers read, in the order of the graph."""
    terrain, found, seen = Terrain(graph), list[Hidden](), set[Node]()
    known = {layer.weight for layer in layers}
    for node in graph.nodes():
        if node not in seen and _axis(node) is not None:
            walk = _Walk(terrain, node)
            seen |= set(walk.members)
            if walk.found.readers and any(w in known for w in walk.found.weights(list(walk.found.readers))):
                found.append(walk.found)
    return found


def _axis(node: Node) -> int | None:
    """The axis of the output channels of a layer; None for what is none, or mixes channels in groups."""
    role = node.op.facts.weight
    if role is None or role.kind not in (LINEAR, MATMUL, CONV):
        return None
    if role.kind == MATMUL and weight_of(node).tensor_type.rank != 2:
        return None
    if role.kind != CONV:
        return node.tensor_type.rank - 1
    return None if node.argument("groups", 1) != 1 else node.tensor_type.rank - (weight_of(node).tensor_type.rank - 1)


class _Walk:
    """Goes from what one layer computes to everything that has the same channels, in both directions."""

    def __init__(self, terrain: Terrain, start: Node) -> None:
        axis = _axis(start)
        assert axis is not None  # asked before
        self._terrain = terrain
        self.found = Hidden(terrain.shape(start)[axis])
        self.members: dict[Node, int] = {}
        self._waiting = [(start, axis)]
        while self._waiting:
            self._visit(*self._waiting.pop())

    def _block(self, reason: str) -> None:
        if reason not in self.found.reasons:
            self.found.reasons.append(reason)

    def _visit(self, value: Node, axis: int) -> None:
        if value in self.members:
            if self.members[value] != axis:
                self._block("a value has them along two axes")
            return
        self.members[value] = axis
        self._computed(value, axis)
        for user in self._terrain.graph.users()[value]:
            self._read(value, axis, user)
        if value in self._terrain.graph.output_nodes:
            self._block("the model returns them")

    def _computed(self, value: Node, axis: int) -> None:
        bias = value.argument("bias") if value.op.facts.weight is not None else None
        if _axis(value) == axis and self._terrain.alone(weight_of(value)):
            if bias is not None and not self._terrain.alone(bias):
                self._block("a bias that something else reads is added")
            self.found.writers[value] = None
        elif value.op.packet in POINTWISE:
            self._operands(value, axis)
        else:
            self._block(f"{value.op.short_name} computes them")

    def _operands(self, value: Node, axis: int) -> None:
        """Operands of a pointwise operator: with the same channels, or with none at all."""
        for source in value.inputs:
            place = axis - (value.tensor_type.rank - source.tensor_type.rank)
            if place < 0 or self._terrain.shape(source)[place] == 1:
                continue
            if source.is_constant or source.tensor_type.shape[place] != value.tensor_type.shape[axis]:
                self._block(f"{value.op.short_name} reads something else along them")
            else:
                self._waiting.append((source, place))

    def _read(self, value: Node, axis: int, user: Node) -> None:
        role = user.op.facts.weight
        if user.op.packet in POINTWISE:
            place = axis + user.tensor_type.rank - value.tensor_type.rank
            self._waiting.append((user, place))
        elif role is not None and _axis(user) is not None and self._reads(value, axis, user):
            self.found.readers[user] = None
        else:
            self._block(f"{user.op.short_name} reads them")

    def _reads(self, value: Node, axis: int, user: Node) -> bool:
        """Whether a layer reads a value along its own columns, with a weight that is its own."""
        role = user.op.facts.weight
        assert role is not None  # asked before
        own = value.tensor_type.rank - 1 if role.kind != CONV else _axis(user)
        only = [source for source in user.inputs if source is value]
        return (
            axis == own
            and user.argument(role.input) is value
            and len(only) == 1
            and self._terrain.alone(weight_of(user))
        )
