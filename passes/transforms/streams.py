"""Residual streams: values that are added to each other along one axis, what writes into them, and what reads them.

A stream may be multiplied with an orthogonal matrix if everything that writes it is linear in weights that can take the
matrix, and everything that reads it is a norm over the axis or a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node
from ...ir.layers import CONV, LINEAR, MATMUL, layer_name
from .reach import MOVES, Terrain, axis_behind

NORMS = ("aten.layer_norm", "aten.rms_norm")
_SUMS = ("aten.add.Tensor", "aten.sub.Tensor")
_AFFINE_ALONG = frozenset({*MOVES, "aten.mean"})


@dataclass
class Stream:
    """One stream.

    Attributes:
        size: channels.
        members: value -> axis of the channels.
        writers: layers and look-ups whose rows (columns of a table) are channels.
        constants: constant -> axis of the channels.
        norms: over the channels.
        readers: layers that read a member as it is.
        behind: layer -> the norm that it reads.
        reasons: why it cannot be rotated; empty where it can.
    """

    size: int
    members: dict[Node, int] = field(default_factory=dict[Node, int])
    writers: dict[Node, None] = field(default_factory=dict[Node, None])
    constants: dict[Node, int] = field(default_factory=dict[Node, int])
    norms: dict[Node, None] = field(default_factory=dict[Node, None])
    readers: dict[Node, None] = field(default_factory=dict[Node, None])
    behind: dict[Node, Node] = field(default_factory=dict[Node, Node])
    reasons: list[str] = field(default_factory=list[str])

    @property
    def subtracts_means(self) -> bool:
        """Whether a norm subtracts the mean over the channels."""
        return any(norm.op.packet == "aten.layer_norm" for norm in self.norms)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the weights that would change, writers first."""
        weights = [_weight(node) for node in (*self.writers, *self.readers, *self.behind)]
        return tuple(dict.fromkeys(layer_name(w.handle.name) for w in weights))


def streams(graph: Graph) -> list[Stream]:
    """Every stream in front of a norm, in the order of the graph."""
    terrain, found, seen = Terrain(graph), list[Stream](), set[Node]()
    for node in graph.nodes():
        one_axis = node.op.packet in NORMS and len(node.argument("normalized_shape")) == 1
        if one_axis and node.argument("input") not in seen:
            stream = _Walk(terrain, node.argument("input")).stream
            seen |= set(stream.members)
            found.append(stream)
    return found


class _Walk:
    """Goes from one value to all that are added to it, in both directions."""

    def __init__(self, terrain: Terrain, start: Node) -> None:
        self.terrain = terrain
        self.stream = Stream(terrain.shape(start)[-1])
        self.waiting = [(start, start.tensor_type.rank - 1)]
        while self.waiting:
            value, axis = self.waiting.pop()
            if self.stream.members.get(value, axis) != axis:
                self.block("a value is in it along two axes")
            if value in self.stream.members:
                continue
            self.stream.members[value] = axis
            self.written(value, axis)
            for user in terrain.graph.users()[value]:
                self.read(value, axis, user)
            if value in terrain.graph.output_nodes:
                self.block("the model returns it")

    def block(self, reason: str) -> None:
        if reason not in self.stream.reasons:
            self.stream.reasons.append(reason)

    # ---------------------------------------------------------------------------------------- backward
    def written(self, value: Node, axis: int) -> None:
        """What computes a member."""
        role = value.op.facts.weight
        if value.is_constant:
            self.stream.constants[value] = axis
        elif role is not None and axis == _channel_axis(value):
            self.writer(value)
        elif value.op.name in _SUMS or value.op.packet in ("aten.mul", "aten.div"):
            for source, place in self.operands(value, axis):
                self.waiting.append((source, place))
        elif value.op.packet in _AFFINE_ALONG:
            self.sources(value, axis)
        else:
            self.block(f"{value.op.short_name} writes it")

    def writer(self, value: Node) -> None:
        role = value.op.facts.weight
        bias = value.argument("bias")
        if role is None or not self.terrain.alone(_weight(value)) or not (bias is None or self.terrain.alone(bias)):
            self.block("a weight that is computed or that something else reads writes it")
        elif role.kind == CONV and int(value.argument("groups", 1)) != 1:
            self.block("a convolution in groups writes it, whose rows cannot be mixed")
        else:
            self.stream.writers[value] = None

    def operands(self, value: Node, axis: int) -> Iterator[tuple[Node, int]]:
        """Members among the operands of a sum, a product or a quotient."""
        first, second = value.argument("self"), value.argument("other")
        if value.op.name in _SUMS:
            if value.argument("alpha", 1) != 1 or not isinstance(second, Node):
                self.block("a number is added to it")
                return
            for source in (first, second):
                place = axis - (value.tensor_type.rank - source.tensor_type.rank)
                if place < 0 or self.terrain.shape(source)[place] != self.stream.size:
                    self.block("something that is the same in all channels is added to it")
                else:
                    yield source, place
            return
        full = [s for s in (first, second) if isinstance(s, Node) and self.is_full(s, value, axis)]
        if len(full) != 1 or (value.op.packet == "aten.div" and full[0] is not first):
            self.block(f"{value.op.short_name} treats its channels differently")
        else:
            yield full[0], axis - (value.tensor_type.rank - full[0].tensor_type.rank)

    def is_full(self, source: Node, value: Node, axis: int) -> bool:
        place = axis - (value.tensor_type.rank - source.tensor_type.rank)
        return place >= 0 and self.terrain.shape(source)[place] == self.stream.size

    def sources(self, value: Node, axis: int) -> None:
        """What an operator that moves data has a member from."""
        given = [s for s in value.inputs if s.tensor_type.dtype.is_floating_point]
        for source in given:
            axes = [a for a, size in enumerate(self.terrain.shape(source)) if size == self.stream.size]
            fits = [a for a in axes if axis_behind(self.terrain, value, source, a) == axis]
            if len(fits) != 1:
                self.block(f"{value.op.short_name} mixes its channels")
                return
            self.waiting.append((source, fits[0]))

    # ---------------------------------------------------------------------------------------- forward
    def read(self, value: Node, axis: int, user: Node) -> None:
        """What a user does with a member."""
        role = user.op.facts.weight
        if user.op.packet in NORMS and user.argument("input") is value:
            self.norm(value, axis, user)
        elif role is not None and role.kind in (LINEAR, MATMUL) and user.argument(role.input) is value:
            if self.consumes(value, axis, user):
                self.stream.readers[user] = None
        elif user.op.name in _SUMS or user.op.packet in ("aten.mul", "aten.div"):
            self.waiting.append((user, axis + user.tensor_type.rank - value.tensor_type.rank))
        elif user.op.packet in _AFFINE_ALONG and (place := axis_behind(self.terrain, user, value, axis)) is not None:
            self.waiting.append((user, place))
        else:
            self.block(f"{user.op.short_name} reads it")

    def norm(self, value: Node, axis: int, user: Node) -> None:
        weight, bias = user.argument("weight"), user.argument("bias")
        if axis != value.tensor_type.rank - 1 or len(user.argument("normalized_shape")) != 1:
            self.block("a norm goes along other axes than its channels")
        elif not all(c is None or self.terrain.alone(c) for c in (weight, bias)):
            self.block("the parameters of a norm are computed, or something else reads them")
        else:
            self.stream.norms[user] = None
            self.behind(user)

    def behind(self, norm: Node) -> None:
        """Everything that reads a norm has to be a layer, which takes the norm's parameters and the matrix."""
        waiting = [(norm, norm.tensor_type.rank - 1)]
        while waiting:
            value, axis = waiting.pop()
            if value in self.terrain.graph.output_nodes:
                self.block("the model returns a normed value")
            for user in self.terrain.graph.users()[value]:
                role = user.op.facts.weight
                if role is not None and role.kind in (LINEAR, MATMUL) and user.argument(role.input) is value:
                    if self.consumes(value, axis, user) and self.takes_bias(norm, user):
                        self.stream.behind[user] = norm
                elif (
                    user.op.packet in _AFFINE_ALONG
                    and user.op.packet not in ("aten.cat", "aten.stack", "aten.concat")
                    and (place := axis_behind(self.terrain, user, value, axis)) is not None
                ):
                    waiting.append((user, place))
                else:
                    self.block(f"{user.op.short_name} reads a normed value")

    def takes_bias(self, norm: Node, user: Node) -> bool:
        if norm.argument("bias") is None:
            return True
        bias = user.argument("bias")
        fits = user.op.packet == "aten.linear" and (bias is None or self.terrain.alone(bias))
        if not fits:
            self.block("the bias of a norm cannot be moved into a layer behind it")
        return fits

    def consumes(self, value: Node, axis: int, user: Node) -> bool:
        fits = (
            axis == value.tensor_type.rank - 1 and self.terrain.alone(_weight(user)) and user.inputs.count(value) == 1
        )
        if not fits:
            self.block("a weight that is computed or that something else reads multiplies it")
        return fits


def _weight(node: Node) -> Node:
    role = node.op.facts.weight
    assert role is not None  # asked of layers only
    return node.argument(role.weight)


def _channel_axis(value: Node) -> int:
    role = value.op.facts.weight
    assert role is not None  # asked of layers only
    behind = _weight(value).tensor_type.rank - 1 if role.kind == CONV else 1
    return value.tensor_type.rank - behind
