"""Channels whose order is free: everything that computes, holds, reads or returns them, channel by channel.

A set of values has the same channels along one axis each: hidden channels between layers, residual streams with their
norms and look-ups. Their order is free where all that has to move with them are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...ir.graph import Graph, Node
from ...ir.layers import CONV, LINEAR, MATMUL, Layer
from ...ir.op import INPUT
from .reach import FOREIGN, MOVES, Terrain, axis_behind

POINTWISE = frozenset(
    f"aten.{name}"
    for name in (
        *("relu", "relu6", "leaky_relu", "gelu", "silu", "sigmoid", "tanh", "elu", "mish", "softplus", "neg", "abs"),
        *("hardtanh", "hardswish", "hardsigmoid", "clamp", "mul", "add", "sub", "exp", "pow", "_to_copy", "clone"),
        *("div", "sqrt", "rsqrt", "erf", "maximum", "minimum", "masked_fill", "clamp_min", "clamp_max", "expand"),
    )
)
"""Operators that compute every element from the elements at the same place, or from what is spread over places."""

SUMS = frozenset(f"aten.{name}" for name in ("mean", "sum", "amax", "amin", "linalg_vector_norm"))
"""Operators along axes whose value does not depend on the order of what is there."""

CARRIERS = MOVES | SUMS | {"aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d"}
"""Operators that may keep an axis of channels as it is, and treat all channels alike."""

NORMS = ("aten.layer_norm", "aten.rms_norm")

_SHARED = "a parameter that is computed or that something else reads"


@dataclass
class FreeChannels:
    """Channels that parameters compute and read.

    Attributes:
        size: channels.
        groups: int64 ``[channels]``; only channels of one group may change places, and :data:`FOREIGN` ones stay.
        rows: constant -> the axis along which it has an entry for each channel.
        columns: weight -> the channel of every column of its matrix, or :data:`FOREIGN`.
        returned: output of the model -> the axis of the channels.
        reasons: why their order is not free; empty where it is.
    """

    size: int
    groups: Tensor
    rows: dict[Node, int] = field(default_factory=dict[Node, int])
    columns: dict[Node, Tensor] = field(default_factory=dict[Node, Tensor])
    returned: dict[Node, int] = field(default_factory=dict[Node, int])
    reasons: list[str] = field(default_factory=list[str])


def weight_of(node: Node) -> Node:
    """The weight of a layer."""
    role = node.op.facts.weight
    assert role is not None  # asked of layers only
    weight: Node = node.argument(role.weight)
    return weight


def free_channels(graph: Graph, layers: Sequence[Layer]) -> list[FreeChannels]:
    """Every set of channels that a layer reads, in the order of the graph."""
    terrain, found, seen = Terrain(graph), list[FreeChannels](), set[Node]()
    known = {layer.weight for layer in layers}
    for node in graph.nodes():
        axis = written_axis(node)
        if node not in seen and axis is not None:
            walk = _Walk(terrain, node, axis)
            seen |= set(walk.members)
            if any(weight in known for weight in walk.found.columns):
                found.append(walk.found)
    return found


def written_axis(node: Node) -> int | None:
    """The axis of the output channels of a layer or a look-up; None for what is none, or mixes channels in groups."""
    role = node.op.facts.weight
    if node.op.packet == "aten.embedding":
        return node.tensor_type.rank - 1
    if role is None or role.kind not in (LINEAR, MATMUL, CONV):
        return None
    if role.kind == MATMUL and weight_of(node).tensor_type.rank != 2:
        return None
    if role.kind != CONV:
        return node.tensor_type.rank - 1
    return _conv_axis(node) if node.argument("groups", 1) == 1 else None


def _conv_axis(node: Node) -> int:
    return node.tensor_type.rank - (weight_of(node).tensor_type.rank - 1)


def _is_depthwise(node: Node) -> bool:
    """Whether a convolution computes every channel from the same channel."""
    role = node.op.facts.weight
    if role is None or role.kind != CONV:
        return False
    rows, columns, *_ = weight_of(node).tensor_type.shape
    return columns == 1 and rows == node.argument("groups", 1)


def _channel_axis(node: Node) -> int:
    """The axis of the channels of what a layer, a look-up or a norm computes."""
    if _is_depthwise(node):
        return _conv_axis(node)
    axis = written_axis(node)
    return node.tensor_type.rank - 1 if axis is None else axis


def _read_value(node: Node) -> tuple[Node, int]:
    """The value whose channels are the columns of a weight, and their axis there."""
    role = node.op.facts.weight
    if role is None or node.op.packet == "aten.embedding":
        return node, node.tensor_type.rank - 1
    value: Node = node.argument(role.input)
    return value, _conv_axis(node) if role.kind == CONV else value.tensor_type.rank - 1


class _Walk:
    """Goes from what one layer computes to everything that has the same channels, in both directions."""

    def __init__(self, terrain: Terrain, start: Node, axis: int) -> None:
        self._terrain = terrain
        size = terrain.shape(start)[axis]
        self.found = FreeChannels(size, torch.zeros(size, dtype=torch.int64))
        self.members: dict[Node, int] = {}
        self._users: dict[tuple[Node, bool], set[Node]] = {}
        self._waiting = [(start, axis)]
        while self._waiting:
            self._visit(*self._waiting.pop())
        self._check_users()
        self._in_order()

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
            self.found.returned[value] = axis

    # ---------------------------------------------------------------------------------------- parameters
    def _row(self, constant: Any, axis: int, user: Node | None) -> None:
        """A parameter with an entry for each channel along an axis; of no user where it is itself a value."""
        if constant is None:
            return
        if not isinstance(constant, Node) or not constant.is_constant:
            self._block(_SHARED)
        elif self.found.rows.setdefault(constant, axis) != axis:
            self._block("a value has them along two axes")
        elif user is not None:
            self._users.setdefault((constant, False), set()).add(user)
            self._waiting += [(other, _channel_axis(other)) for other in self._others(constant, user)]

    def _column(self, user: Node) -> None:
        """A weight whose columns are the channels, each as often as its window has positions."""
        weight = weight_of(user)
        if not weight.is_constant:
            self._block(_SHARED)
            return
        role = user.op.facts.weight
        windowed = role is not None and role.kind == CONV
        positions = math.prod(weight.tensor_type.sizes()[2:]) if windowed else 1
        self.found.columns[weight] = torch.arange(self.found.size).repeat_interleave(positions)
        self._users.setdefault((weight, True), set()).add(user)
        self._waiting += [_read_value(other) for other in self._others(weight, user)]

    def _others(self, constant: Node, user: Node) -> list[Node]:
        """What else uses a parameter as ``user`` does, which makes its channels the same ones: shared layers."""

        def places(node: Node) -> list[str]:
            return [node.op.packet, *(name for name, value in node.arguments if value is constant)]

        users = self._terrain.graph.users()[constant]
        return [other for other in users if other is not user and places(other) == places(user)]

    def _check_users(self) -> None:
        """Everything that reads a parameter has to have these channels there."""
        graph = self._terrain.graph
        for (constant, _), users in self._users.items():
            alone = all(user.inputs.count(constant) == 1 for user in users)
            if users != set(graph.users()[constant]) or not alone or constant in graph.output_nodes:
                self._block(_SHARED)

    def _in_order(self) -> None:
        """Weights by the place of what reads them first, so that names do not depend on the way of the walk."""
        first = {
            weight: min(map(self._terrain.order.__getitem__, self._users[weight, True]))
            for weight in self.found.columns
        }
        self.found.columns = {weight: self.found.columns[weight] for weight in sorted(first, key=first.__getitem__)}

    # ---------------------------------------------------------------------------------------- backward
    def _computed(self, value: Node, axis: int) -> None:
        """What computes a value."""
        role, packet = value.op.facts.weight, value.op.packet
        if value.is_constant:
            self._row(value, axis, None)
        elif packet == "aten.embedding" and axis == written_axis(value):
            self._column(value)
        elif role is not None and role.kind in (LINEAR, MATMUL, CONV):
            self._layer(value, axis)
        elif packet in NORMS:
            self._norm(value, axis)
        elif packet in POINTWISE:
            self._operands(value, axis)
        elif packet in CARRIERS:
            self._sources(value, axis)
        else:
            self._block("the model is given them" if value.op is INPUT else f"{value.op.short_name} computes them")

    def _layer(self, value: Node, axis: int) -> None:
        """A layer whose rows are the channels, or one that computes every channel from the same channel."""
        role = value.op.facts.weight
        assert role is not None  # asked before
        transposed = role.kind == MATMUL
        if axis == written_axis(value):
            self._row(weight_of(value), 1 if transposed else 0, value)
            self._row(value.argument("bias"), 0, value)
        elif _is_depthwise(value) and axis == _conv_axis(value):
            self._row(weight_of(value), 0, value)
            self._row(value.argument("bias"), 0, value)
            self._waiting.append((value.argument(role.input), axis))
        elif role.kind == LINEAR:  # along another axis: all channels alike
            self._waiting.append((value.argument(role.input), axis))
        else:
            self._block(f"{value.op.short_name} computes them along another axis")

    def _norm(self, value: Node, axis: int) -> None:
        dims = len(value.argument("normalized_shape"))
        if axis >= value.tensor_type.rank - dims:
            if dims > 1:
                self._block("a norm goes along other axes than its channels")
                return
            for name in ("weight", "bias"):
                self._row(value.argument(name), 0, value)
        self._waiting.append((value.argument("input"), axis))

    def _operands(self, value: Node, axis: int) -> None:
        """Operands of a pointwise operator: with the same channels, or with none at all."""
        for source in value.inputs:
            place = axis - (value.tensor_type.rank - source.tensor_type.rank)
            if place < 0 or self._terrain.shape(source)[place] == 1:
                continue
            if source.tensor_type.shape[place] != value.tensor_type.shape[axis]:
                self._block(f"{value.op.short_name} reads something else along them")
            else:
                self._waiting.append((source, place))

    def _sources(self, value: Node, axis: int) -> None:
        """What an operator that carries channels has them from."""
        size = self.found.size
        for source in value.inputs:
            if not source.tensor_type.dtype.is_floating_point:
                continue
            axes = [a for a, length in enumerate(self._terrain.shape(source)) if length == size]
            fits = [a for a in axes if self._behind(value, source, a) == axis]
            if len(fits) != 1:
                self._block(f"{value.op.short_name} computes them")
                return
            self._waiting.append((source, fits[0]))

    # ---------------------------------------------------------------------------------------- forward
    def _read(self, value: Node, axis: int, user: Node) -> None:
        """What a user does with a value."""
        role, packet = user.op.facts.weight, user.op.packet
        if packet in POINTWISE:
            self._waiting.append((user, axis + user.tensor_type.rank - value.tensor_type.rank))
        elif packet in NORMS and user.argument("input") is value:
            self._waiting.append((user, axis))
        elif role is not None and role.kind in (LINEAR, MATMUL, CONV) and user.argument(role.input) is value:
            self._multiplied(value, axis, user)
        elif packet in CARRIERS:
            self._carried(value, axis, user)
        else:
            self._block(f"{user.op.short_name} reads them")

    def _multiplied(self, value: Node, axis: int, user: Node) -> None:
        """A layer that reads a value along its columns, or one that computes every channel from the same channel."""
        role = user.op.facts.weight
        assert role is not None  # asked before
        own = _read_value(user)[1]
        if user.inputs.count(value) != 1:
            self._block(f"{user.op.short_name} reads them twice")
        elif _is_depthwise(user) and axis == own:
            self._waiting.append((user, axis))
        elif axis == own and written_axis(user) is not None:
            self._column(user)
        elif axis != own and role.kind == LINEAR:
            self._waiting.append((user, axis))
        else:
            self._block(f"{user.op.short_name} reads them")

    def _carried(self, value: Node, axis: int, user: Node) -> None:
        if user.op.packet in SUMS and axis in _summed(user, value.tensor_type.rank):
            return
        place = self._behind(user, value, axis)
        if place is None:
            self._block(f"{user.op.short_name} reads them")
        else:
            self._waiting.append((user, place))

    def _behind(self, node: Node, source: Node, axis: int) -> int | None:
        """Where an operator that carries channels puts an axis of one of its inputs; None where it is gone."""
        if node.op.packet not in SUMS:
            return axis_behind(self._terrain, node, source, axis)
        gone = _summed(node, source.tensor_type.rank)
        if axis in gone:
            return None
        return axis if node.argument("keepdim", False) else axis - sum(d < axis for d in gone)


def _summed(node: Node, rank: int) -> set[int]:
    """The axes along which something is summed; all of them where none is named."""
    dims = node.argument("dim")
    given = (dims,) if isinstance(dims, int) else dims
    return {int(d) % rank for d in given} if given else set(range(rank))


def moved_columns(channels: Tensor, order: Tensor) -> Tensor:
    """Which old column stands at every place of a matrix ``[rows, columns]`` once channels are in another order.

    A channel that stands several times, for positions of a window or for heads that share it, is replaced by the other
    channel's column of the same turn.

    >>> moved_columns(torch.tensor([0, 1, 0, 1, -1]), torch.tensor([1, 0])).tolist()
    [1, 0, 3, 2, 4]
    """
    own = (channels != FOREIGN).nonzero().flatten()
    numbers = channels[own]
    by_channel = own[numbers.argsort(stable=True)]
    counts = torch.bincount(numbers, minlength=order.numel())
    starts = counts.cumsum(0) - counts
    turn = torch.empty_like(channels)
    turn[by_channel] = torch.arange(len(own)) - starts.repeat_interleave(counts)
    found = torch.arange(len(channels))
    found[own] = by_channel[starts[order[numbers]] + turn[own]]
    return found
