"""Layers: the weights that decisions are made about, and every node that computes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .graph import Graph, Node
from .types import TensorType, evaluate_dim

LINEAR, CONV, MATMUL, EMBEDDING = "linear", "conv", "matmul", "embedding"

MIN_ELEMENTS = 1024
"""Smaller weights stay as they are: their bytes do not matter and their layers are often the most sensitive."""

MIN_CONV_ELEMENTS = 128
"""The same for convolutions: a small one in float would break a run of integer layers in two."""


@dataclass(frozen=True)
class Use:
    """One node that computes with a layer's weight."""

    node: Node
    kind: str
    weight_parameter: str
    input_parameter: str

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
    """A weight and its uses. ``name`` is the parameter's name without ``.weight``."""

    name: str
    weight: Node
    uses: tuple[Use, ...]

    @property
    def kind(self) -> str:
        """The kind of the uses; a tied embedding counts as what its first use is."""
        return self.uses[0].kind

    @property
    def kinds(self) -> set[str]:
        """All kinds among the uses."""
        return {u.kind for u in self.uses}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as the model stores it."""
        return tuple(int(d) for d in self.weight.tensor_type.shape)

    @property
    def rows(self) -> int:
        """Output channels (vocabulary entries of an embedding)."""
        return self.shape[1] if self.kind == MATMUL else self.shape[0]

    @property
    def columns(self) -> int:
        """What one output contracts over."""
        return math.prod(self.shape) // max(self.rows, 1)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that formats see: the weight's own, transposed for a matmul's ``[K, N]``."""
        return (self.rows, self.columns) if self.kind == MATMUL else self.shape

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def matrix(self) -> torch.Tensor:
        """The weight as float32 ``[rows, columns]``."""
        tensor = self.weight.handle.tensor.float()
        return tensor.t().contiguous() if self.kind == MATMUL else tensor.reshape(self.rows, -1).contiguous()

    def macs(self, sizes: Mapping[str, int]) -> int:
        """Multiply-accumulates of all uses for given sizes of the dynamic dimensions; embeddings have none."""
        return sum(_macs(self, use, sizes) for use in self.uses)


def _macs(layer: Layer, use: Use, sizes: Mapping[str, int]) -> int:
    if use.kind == EMBEDDING:
        return 0
    out = use.node.tensor_type.numel(sizes)
    return out * layer.columns


def input_rows(use: Use, sizes: Mapping[str, int]) -> int:
    """Rows of the input seen as a matrix (tokens for a linear), for given sizes."""
    shape = use.input.tensor_type.shape
    dims = shape[:-1] if use.kind in (LINEAR, MATMUL) else shape
    return math.prod(evaluate_dim(d, sizes) for d in dims)


@dataclass(frozen=True)
class Skipped:
    """A constant that is not a layer although an op that could be one uses it, and why."""

    name: str
    reason: str


def find_layers(graph: Graph, min_elements: int = MIN_ELEMENTS) -> tuple[tuple[Layer, ...], tuple[Skipped, ...]]:
    """All layers of a graph in order of first use, and the weights that were left out with the reason."""
    users = graph.users()
    layers: list[Layer] = []
    skipped: list[Skipped] = []
    for constant in graph.constants():
        uses = [use for node in users[constant] if (use := _use(node, constant)) is not None]
        if not uses:
            continue
        reason = _refusal(constant, uses, len(users[constant]), min_elements)
        name = layer_name(constant.handle.name)
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            layers.append(Layer(name, constant, tuple(uses)))
    return tuple(layers), tuple(skipped)


def layer_name(parameter: str) -> str:
    """``encoder.dense`` for ``encoder.dense.weight``."""
    return parameter.removesuffix(".weight")


def _use(node: Node, constant: Node) -> Use | None:
    role = node.op.facts.weight
    if role is None or node.argument(role.weight) is not constant or node.argument(role.input) is constant:
        return None
    return Use(node, role.kind, role.weight, role.input)


def _refusal(constant: Node, uses: list[Use], users: int, min_elements: int) -> str:
    kind: TensorType = constant.tensor_type
    if users != len(uses):
        return "another operation reads this weight too"
    if kind.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        return f"its dtype is {kind.dtype}"
    if kind.numel() == 0:
        return "it has no elements"
    least = min(min_elements, MIN_CONV_ELEMENTS) if uses[0].kind == CONV else min_elements
    if kind.numel() < least:
        return f"it has only {kind.numel()} weights (fewer than {least})"
    if any(u.kind == MATMUL for u in uses) and (kind.rank != 2 or len({u.kind for u in uses}) > 1):
        return "a matmul weight needs rank 2 and no other kind of use"
    return ""


def shared_input_groups(layers: tuple[Layer, ...]) -> tuple[tuple[str, ...], ...]:
    """Names of linear layers that read the same value (q/k/v, gate/up), for groups of two or more."""
    groups: dict[Node, list[str]] = {}
    for layer in layers:
        if layer.kind == LINEAR and len(layer.uses) == 1:
            groups.setdefault(layer.uses[0].input, []).append(layer.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
