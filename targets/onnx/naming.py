"""Names in an ONNX model: the user's own where possible, unique by construction, and the same at every compilation.

The exporter names parameters after the module and results after the operator, so that a buffer ``mean`` and a mean,
or an input and a parameter of one name, would be one value. It is therefore given numbers for names, and what it made
is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir

from ...ir.errors import LoweringError
from ...ir.fx_conversion import numbered_constant
from ...ir.graph import Graph
from ...ir.names import input_names, output_names, unused_name
from ...ir.types import Dim, TensorType, dim_text


@dataclass(frozen=True)
class Interface:
    """What the user calls the values of a model.

    Attributes:
        inputs: names, in order.
        outputs: names of the outputs that are tensors, in order; none is an input's.
        constants: name in the exported module -> the user's own.
        input_types: with the names of dimensions.
        output_types: the same for outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, str] = field(default_factory=dict[str, str])
    input_types: tuple[TensorType, ...] = ()
    output_types: tuple[TensorType, ...] = ()


def interface_of(graph: Graph) -> Interface:
    """The names of a graph's own values, for the numbered module that is made from it."""
    return Interface(
        input_names(graph),
        output_names(graph),
        {numbered_constant(i): n.handle.name for i, n in enumerate(graph.constants())},
        tuple(n.tensor_type for n in graph.inputs),
        tuple(n.tensor_type for n in graph.output_nodes),
    )


def name_model(model: onnx_ir.Model, interface: Interface) -> onnx_ir.Model:
    """Give every value and node its name, and every dimension of inputs and outputs the user's.

    Inputs and outputs come first, then parameters and other constants in order, then results of nodes: of two values
    that want one name, the earlier has it and the later gets a number.
    """
    graph = model.graph
    separate_outputs(graph)
    wanted = _wanted(graph, interface)
    taken: set[str] = set()
    names: list[tuple[onnx_ir.Value, str]] = []
    for value, name in wanted:
        names.append((value, unused_name(name, taken)))
        taken.add(names[-1][1])
    for number, (value, _) in enumerate(names):
        value.name = f"\0{number}"  # no name is taken while names move
    for value, name in names:
        value.name = name
    _name_nodes(graph)
    _name_dims(graph.inputs, interface.input_types)
    _name_dims(graph.outputs, interface.output_types)
    return model


def separate_outputs(graph: onnx_ir.Graph) -> None:
    """Make every output a value of its own, which no other output is, nor any input or constant."""
    seen: set[int] = set()
    for position, value in enumerate(list(graph.outputs)):
        if id(value) in seen or value.producer() is None:
            copy = onnx_ir.node("Identity", [value], num_outputs=1)
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            copy.name = ""
            graph.outputs[position] = copy.outputs[0]
        seen.add(id(graph.outputs[position]))


def _wanted(graph: onnx_ir.Graph, interface: Interface) -> Iterator[tuple[onnx_ir.Value, str]]:
    """Every value of the graph and its subgraphs once, with the name that it should have, the most important first."""
    yield from zip(graph.inputs, interface.inputs, strict=True)
    yield from zip(graph.outputs, interface.outputs, strict=True)
    given = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for value in graph.initializers.values():
        yield value, interface.constants.get(str(value.name), str(value.name))
    yield from ((value, name) for value, name in _inner(graph) if id(value) not in given)


def _inner(graph: onnx_ir.Graph) -> Iterator[tuple[onnx_ir.Value, str]]:
    """Results of nodes, and everything inside the subgraphs of nodes; results that nobody may read have no name."""
    pending: list[onnx_ir.Graph] = [graph]
    while pending:
        current = pending.pop()
        if current is not graph:
            for value in (*current.inputs, *current.initializers.values()):
                yield value, str(value.name or "value")
        for node in current:
            for value in node.outputs:
                if value.name != "" or value.uses() or value.is_graph_output():
                    yield value, str(value.name or node.op_type.lower())
            pending.extend(_subgraphs(node))


def _subgraphs(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _name_nodes(graph: onnx_ir.Graph) -> None:
    """Tools that edit models ask for names that are unique; a node without one stays so."""
    taken: set[str] = set()
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        if node.name:
            node.name = unused_name(node.name, taken)
            taken.add(node.name)


def _name_dims(values: Sequence[onnx_ir.Value], types: Sequence[TensorType]) -> None:
    for value, known in zip(values, types, strict=True):
        _refuse_fixed(value, known)
        pair = [2] if known.dtype.is_complex else []  # of the real and the imaginary part
        value.shape = onnx_ir.Shape([*(_dim(dim) for dim in known.shape), *pair])


def _refuse_fixed(value: onnx_ir.Value, known: TensorType) -> None:
    for axis, (dim, found) in enumerate(zip(known.shape, value.shape or (), strict=False)):
        if not isinstance(dim, int) and isinstance(found, int):
            raise LoweringError(
                f"onnx: expected {value.name} to keep the size {dim_text(dim)} on axis {axis}; the exporter fixed it "
                f"to {found}; leave the dimension out of dynamic_shapes, or report the model"
            )


def _dim(dim: Dim) -> int | str:
    return dim if isinstance(dim, int) else dim_text(dim)
