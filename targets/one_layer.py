"""One layer as a graph of its own under one option, as it is in the network: what latency is measured on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..ir.constants import ConstantHandle
from ..ir.context import Context
from ..ir.graph import Graph, Node
from ..ir.layers import Layer, Use, find_layers
from ..ir.op import CONSTANT, GETITEM, INPUT
from ..ir.options import KEPT, Option, PricedOption
from ..ir.plan import Decision, StaticQuantization
from ..ir.text import node_names
from ..ir.types import TensorType
from ..passes.apply_plan import ApplyPlan
from ..passes.formats import format as parse_format
from ..passes.static_values import static_values

STEP = 0.01
"""Scales, and all other numbers that are stored as floats."""


def one_layer(layer: Layer, use: Use, sizes: Mapping[str, int]) -> Graph:
    """The layer's node at given sizes; its weight and whatever else it reads are constants without meaning.

    Other weights that the node takes whole are layers of this graph, too.
    """
    context = Context()
    given = use.input if use.input_parameter else next(node for node in use.node.inputs if not node.is_constant)
    made = {given: context.input("x", _static(given.tensor_type, sizes))}
    for node in use.node.inputs:
        if node not in made:
            name = layer.weight.handle.name if node is layer.weight else f"other.{len(made)}"
            made[node] = context.constant_of(_constant(name, _static(node.tensor_type, sizes)))
    value = context.rebuild(use.node, made)
    return context.graph([made[given]], [context.item(value, 0) if isinstance(value.type, tuple) else value])


def under_option(graph: Graph, option: Option) -> Graph:
    """:func:`one_layer` with an option applied; what is stored has the format's shapes, its values have no meaning."""
    if option.unchanged:
        return graph
    layers, _ = find_layers(graph, min_elements=0)
    names = node_names(graph)
    values = static_values(graph, layers) if option.activation.is_static else ()
    static = {names[value]: StaticQuantization(STEP, 128) for value in values}
    decisions = tuple(_decision(layer, option) for layer in layers)
    return ApplyPlan(decisions, {layer.name: _stored(layer, option) for layer in layers}, static)(graph).graph


def _decision(layer: Layer, option: Option) -> Decision:
    price = PricedOption(KEPT, layer.weight.handle.nbytes, None, 0, 0.0)
    return Decision(layer.name, layer.kind, layer.shape, PricedOption(option, 0, None, 0, 0.0), price)


def _stored(layer: Layer, option: Option) -> dict[str, Tensor]:
    specs = {} if option.keeps_weight else parse_format(option.format).tensors(layer.stored_shape)
    return {name: _filled(TensorType(spec.dtype, tuple(spec.shape))) for name, spec in specs.items()}


def what_runs(graph: Graph) -> str:
    """The computation of a graph in one line: operators, sizes and options, nothing that is known beforehand.

    Constants, and what is computed of constants alone, appear by their type: however a weight is stored, a kernel that
    multiplies the same matrix takes the same time.
    """
    text: dict[Node, str] = {}
    lines: list[str] = []
    for node in graph.nodes():
        if node.op is INPUT or _is_known(node):
            text[node] = str(node.type) if node.op is not INPUT else f"x {node.tensor_type}"
        elif node.op is GETITEM:
            text[node] = f"{text[node.argument('value')]}.{node.argument('index')}"
        else:
            arguments = ", ".join(f"{name}={_shown(value, text)}" for name, value in node.arguments)
            lines.append(f"{node.op.short_name}({arguments})")
            text[node] = f"%{len(lines) - 1}"
    return "; ".join(lines)


def _is_known(node: Node) -> bool:
    """Whether a value is the same at every run; graphs of one layer are shallow."""
    return node.op is CONSTANT or (node.op is not INPUT and bool(node.inputs) and all(map(_is_known, node.inputs)))


def _shown(value: object, text: Mapping[Node, str]) -> str:
    if isinstance(value, Node):
        return text[value]
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(part, text) for part in value)}]"
    return str(value)


def _static(kind: TensorType, sizes: Mapping[str, int]) -> TensorType:
    return TensorType(kind.dtype, tuple(kind.sizes(sizes)))


def _constant(name: str, kind: TensorType) -> ConstantHandle:
    return ConstantHandle(name, kind, lambda: _filled(kind))


def _filled(kind: TensorType) -> Tensor:
    """Codes of zero and steps that are no denormal numbers."""
    value = STEP if kind.dtype.is_floating_point else 0
    return torch.full(kind.sizes(), value, dtype=kind.dtype)
