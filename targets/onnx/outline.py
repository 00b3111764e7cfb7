"""Chains that turn stored codes into weights become ONNX functions: written once, called for every layer.

A layer's chain has up to a dozen nodes, all of constants, and is the same for all layers of a format but for the
constants. A function holds it once; the runtime inlines it and folds it while it loads the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir

DOMAIN = "instar"
VERSION = 1

SMALL = 64
"""Bytes of a constant that may lie in several functions; tables of codes are kept once, in the graph."""

Signature = tuple[Any, ...]


@dataclass(frozen=True)
class Chain:
    """Nodes of constants that belong together.

    Attributes:
        nodes: in order.
        leaves: initializers that they read, in order of first use.
        results: values that other nodes read.
    """

    nodes: tuple[onnx_ir.Node, ...]
    leaves: tuple[onnx_ir.Value, ...]
    results: tuple[onnx_ir.Value, ...]

    def signature(self) -> Signature:
        """Equal for chains that differ in their leaves alone."""
        number = {id(value): ("leaf", i) for i, value in enumerate(self.leaves)}
        for i, node in enumerate(self.nodes):
            number |= {id(value): ("value", i, k) for k, value in enumerate(node.outputs)}
        lines = [
            (
                node.domain, node.op_type,
                tuple(number.get(id(x)) if x is not None else None for x in node.inputs),
                len(node.outputs),
                tuple(sorted((name, str(attribute)) for name, attribute in node.attributes.items())),
            )
            for node in self.nodes
        ]  # fmt: skip
        return (*lines, tuple(number[id(value)] for value in self.results))


def outline(model: onnx_ir.Model) -> onnx_ir.Model:
    """Replace chains of constants that occur at least twice by calls of functions."""
    groups: dict[Signature, list[Chain]] = {}
    for chain in chains(model.graph):
        if len(chain.nodes) > 1:
            groups.setdefault(chain.signature(), []).append(chain)
    for same in groups.values():
        if len(same) > 1:
            _call(model, same, f"expand_{len(model.functions)}")
    return model


def chains(graph: onnx_ir.Graph) -> list[Chain]:
    """Connected nodes all of whose inputs are constants, in graph order."""
    constant = {id(value) for value in graph.initializers.values()}
    owner: dict[int, list[onnx_ir.Node]] = {}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if not inputs or any(id(value) not in constant for value in inputs):
            continue
        constant |= {id(value) for value in node.outputs}
        found = [node]
        for members in _distinct(owner[id(v)] for v in inputs if id(v) in owner):
            found = members + found
        for member in found:
            owner |= {id(value): found for value in member.outputs}
    order = {id(node): i for i, node in enumerate(graph)}
    groups = _distinct(owner.values())
    return [_chain(sorted(members, key=lambda n: order[id(n)]), graph) for members in groups]


def _distinct(groups: Iterable[list[onnx_ir.Node]]) -> list[list[onnx_ir.Node]]:
    return list({id(group): group for group in groups}.values())


def _chain(nodes: Sequence[onnx_ir.Node], graph: onnx_ir.Graph) -> Chain:
    inside = {id(node) for node in nodes}
    made = {id(value) for node in nodes for value in node.outputs}
    leaves = {id(v): v for node in nodes for v in node.inputs if v is not None and id(v) not in made}
    outputs = {id(value) for value in graph.outputs}
    results = [
        value
        for node in nodes
        for value in node.outputs
        if id(value) in outputs or any(id(user) not in inside for user, _ in value.uses())
    ]
    return Chain(tuple(nodes), tuple(leaves.values()), tuple(results))


def _call(model: onnx_ir.Model, same: Sequence[Chain], name: str) -> None:
    """One function for all; small constants that all calls share lie inside."""
    shared = [
        _is_small(leaf) and all(chain.leaves[i] is leaf for chain in same) for i, leaf in enumerate(same[0].leaves)
    ]
    function = _function(same[0], shared, name, model.opset_imports)
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION
    for chain in same:
        given = [leaf for leaf, inside in zip(chain.leaves, shared, strict=True) if not inside]
        call = onnx_ir.Node(DOMAIN, name, given, num_outputs=len(chain.results))
        model.graph.insert_before(chain.nodes[0], call)
        for old, new in zip(chain.results, call.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove(chain.nodes, safe=True)
    for leaf, inside in zip(same[0].leaves, shared, strict=True):
        if inside and not leaf.uses():
            model.graph.initializers.pop(str(leaf.name), None)


def _is_small(leaf: onnx_ir.Value) -> bool:
    return leaf.const_value is not None and leaf.const_value.nbytes <= SMALL


def _function(chain: Chain, shared: Sequence[bool], name: str, imports: dict[str, int]) -> onnx_ir.Function:
    values: dict[int, onnx_ir.Value] = {}
    inputs: list[onnx_ir.Value] = []
    nodes: list[onnx_ir.Node] = []
    for number, (leaf, inside) in enumerate(zip(chain.leaves, shared, strict=True)):
        if inside:
            constant = onnx_ir.node("Constant", [], {"value": leaf.const_value}, num_outputs=1)
            nodes.append(constant)
            values[id(leaf)] = constant.outputs[0]
        else:
            values[id(leaf)] = onnx_ir.Value(name=f"i{number}")
            inputs.append(values[id(leaf)])
    for node in chain.nodes:
        copy = onnx_ir.Node(
            node.domain, node.op_type, [values[id(x)] if x is not None else None for x in node.inputs],
            list(node.attributes.values()), num_outputs=len(node.outputs),
        )  # fmt: skip
        nodes.append(copy)
        values |= {id(old): new for old, new in zip(node.outputs, copy.outputs, strict=True)}
    for number, node in enumerate(nodes):
        for k, value in enumerate(node.outputs):
            value.name = f"v{number}_{k}"
    results = [values[id(value)] for value in chain.results]
    body = onnx_ir.Graph(inputs, results, nodes=nodes, opset_imports={"": imports[""]}, name=name)
    return onnx_ir.Function(DOMAIN, name, graph=body, attributes=[])
