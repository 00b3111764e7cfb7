"""Layers: the weights that decisions are made about, and every node that computes with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from .analysis import node_flops
from .context import Context
from .graph import Graph, Node
from .types import TensorType
from .weight_views import View

LINEAR, CONV, MATMUL, EMBEDDING = "linear", "conv", "matmul", "embedding"

OTHER = "other"
"""Among the kinds of a layer: its weight is also read by operators that layers are not made of."""

MIN_ELEMENTS = 1024
"""Smaller weights stay as they are: their bytes do not matter and their layers are often the most sensitive."""

MIN_CONV_ELEMENTS = 128
"""The same for convolutions: a small one in float would break a run of integer layers in two."""


@dataclass(frozen=True)
class Use:
    """One node that computes with a layer's weight.

    Attributes:
        node: the node.
        kind: of the role that the weight has there.
        weight_parameter: the parameter that takes the weight.
        input_parameter: the parameter that takes the activation, or the indices; empty where formats cannot take the
            product over.
        view: how the node's weight is seen as a matrix.
    """

    node: Node
    kind: str
    weight_parameter: str
    input_parameter: str
    view: View

    @property
    def input(self) -> Node:
        """The activation (or the indices of an embedding)."""
        return self.node.argument(self.input_parameter)

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 otherwise."""
        return int(self.node.argument("groups", 1)) if self.kind == CONV else 1


@dataclass(frozen=True)
class Layer:
    """A weight and its uses. ``name`` is the parameter's name without ``.weight``.

    Attributes:
        name: the user's own.
        weight: the constant.
        uses: nodes that compute with it, one at least.
        read_elsewhere: whether other operators read it too.
    """

    name: str
    weight: Node
    uses: tuple[Use, ...]
    read_elsewhere: bool = False

    @property
    def kind(self) -> str:
        """The kind of the uses; a tied embedding counts as what its first use is."""
        return self.uses[0].kind

    @property
    def kinds(self) -> set[str]:
        """All kinds among the uses."""
        return {u.kind for u in self.uses} | ({OTHER} if self.read_elsewhere else set())

    @property
    def only_stored(self) -> bool:
        """Whether formats only change how the weight is stored: the operators that read it are given it whole.

        So it is where a format cannot take the product over, and where uses see the weight as different matrices.
        """
        views = {use.view for use in self.uses}
        return self.read_elsewhere or len(views) > 1 or any(not use.input_parameter for use in self.uses)

    @property
    def view(self) -> View:
        """How the weight is seen as a matrix."""
        return self.uses[0].view

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as the model stores it."""
        return self.view.shape

    @property
    def rows(self) -> int:
        """Output channels (vocabulary entries of an embedding)."""
        return self.view.stored[0]

    @property
    def columns(self) -> int:
        """What one output contracts over."""
        return math.prod(self.shape) // max(self.rows, 1)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that formats see: the weight's own where its rows come first."""
        return self.view.stored

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def matrix(self) -> torch.Tensor:
        """The weight as float32 ``[rows, columns]``."""
        return self.as_matrix(self.weight.handle.tensor)

    def as_matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """A value in the weight's own shape, such as its gradient, as float32 ``[rows, columns]``."""
        return self.view.seen(weight.float()).reshape(self.rows, -1).contiguous()

    def as_weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """``[rows, columns]`` in the weight's own shape and dtype."""
        return self.view.own(matrix).to(self.weight.tensor_type.dtype)

    def macs(self, sizes: Mapping[str, int]) -> int:
        """Multiply-accumulates of all uses for given sizes of the dynamic dimensions; embeddings have none."""
        return sum(_macs(self, use, sizes) for use in self.uses)


def _macs(layer: Layer, use: Use, sizes: Mapping[str, int]) -> int:
    """Those of the node; where it has several weights, this one's share of their numbers."""
    if use.node.op.facts.flops is None:
        return 0
    weights = [s for s in set(use.node.inputs) if s.is_constant and _roles(use.node, s)]
    return node_flops(use.node, sizes) // 2 * layer.numel // sum(s.tensor_type.numel() for s in weights)


@dataclass(frozen=True)
class Skipped:
    """A constant that is not a layer although an op that could be one uses it, and why."""

    name: str
    reason: str


def find_layers(graph: Graph, min_elements: int = MIN_ELEMENTS) -> tuple[tuple[Layer, ...], tuple[Skipped, ...]]:
    """All layers of a graph in order of first use, and the weights that were left out with the reason."""
    users = graph.users()
    outputs = set(graph.output_nodes)
    layers: list[Layer] = []
    skipped: list[Skipped] = []
    for constant in graph.constants():
        found = {node: _roles(node, constant) for node in users[constant]}
        uses = tuple(use for node in users[constant] for use in found[node])
        if not uses:
            continue
        reason = "it is an output of the model" if constant in outputs else _refusal(constant, uses, min_elements)
        name = layer_name(constant.handle.name)
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            elsewhere = any(node.inputs.count(constant) > len(uses) for node, uses in found.items())
            layers.append(Layer(name, constant, uses, elsewhere))
    return tuple(layers), tuple(skipped)


def layer_name(parameter: str) -> str:
    """``encoder.dense`` for ``encoder.dense.weight``."""
    return parameter.removesuffix(".weight")


def _roles(node: Node, constant: Node) -> list[Use]:
    """The uses of a constant as a weight by a node; none where all operands are the constant itself."""
    arguments = dict(node.arguments)
    found: list[Use] = []
    for role in node.op.facts.weights:
        held = role.place(arguments, constant)
        if held is not None and arguments.get(role.input) is not constant:
            found.append(Use(node, role.kind, role.weight, role.input, held[1]))
    return found


def _refusal(constant: Node, uses: tuple[Use, ...], min_elements: int) -> str:
    kind: TensorType = constant.tensor_type
    if kind.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        return f"its dtype is {kind.dtype}"
    if kind.numel() == 0:
        return "it has no elements"
    least = min(min_elements, MIN_CONV_ELEMENTS) if uses[0].kind == CONV else min_elements
    if kind.numel() < least:
        return f"it has only {kind.numel()} weights (fewer than {least})"
    return ""


def whole_weights(node: Node) -> list[tuple[Node, Use]]:
    """The weights that an operator takes whole, several for a recurrent one, each with its use there."""
    sources = (source for source in dict.fromkeys(node.inputs) if source.is_constant)
    return [(s, use) for s in sources for use in _roles(node, s) if not use.input_parameter]


def can_round(node: Node) -> bool:
    """Whether an operator that takes weights whole can round what it multiplies them with."""
    return node.op.name == "instar.recurrent.default" and node.argument("kind") == "lstm"


def as_rounded(node: Node, context: Context) -> Node:
    """The same operator with its inputs and states rounded."""
    arguments = ((name, True if name == "rounded" else value) for name, value in node.arguments)
    return context.node_of(node.op, tuple(arguments), node.type, node.origin)


def taken_together(layers: Iterable[Layer]) -> tuple[tuple[str, ...], ...]:
    """Names of layers that one operator takes whole, such as the matrices of a recurrent layer; groups of two or more.

    A kernel that computes with one of them in another way does so with all.
    """
    groups: dict[Node, dict[str, None]] = {}
    for layer in layers:
        for use in layer.uses if layer.only_stored else ():
            if not use.input_parameter:
                groups.setdefault(use.node, {})[layer.name] = None
    return tuple(dict.fromkeys(tuple(names) for names in groups.values() if len(names) > 1))


def share_of(layer: Layer, use: Use) -> float:
    """The layer's share of the numbers that an operator multiplies with: of its time, and of what its kernel loses."""
    return layer.numel / sum(source.tensor_type.numel() for source, _ in whole_weights(use.node))


def shared_input_groups(layers: tuple[Layer, ...]) -> tuple[tuple[str, ...], ...]:
    """Names of linear layers that read the same value (q/k/v, gate/up), for groups of two or more."""
    groups: dict[Node, list[str]] = {}
    for layer in layers:
        if layer.kinds == {LINEAR} and len(layer.uses) == 1:
            groups.setdefault(layer.uses[0].input, []).append(layer.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
