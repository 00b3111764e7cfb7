"""Every node of an ONNX model with the types of what it reads: what decides which kernel a runtime takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.defs
import onnx.helper

from .table import CONTRIB, table

Known = dict[str, str]
"""Type of a tensor by the name of its value; what is not known is absent."""


@dataclass(frozen=True)
class Called:
    """A node as a runtime sees it.

    Attributes:
        domain: of its operator.
        operator: its type.
        version: of the operator, as the model's operator set has it.
        types: of its inputs and outputs, by parameter and by variable.
        attributes: that it gives.
        inputs: up to the last one that it gives.
    """

    domain: str
    operator: str
    version: int
    types: tuple[tuple[str, str], ...]
    attributes: frozenset[str]
    inputs: int


def calls(model: onnx.ModelProto) -> Iterator[Called]:
    """Every node of a model, those of branches and of every call of its own functions too."""
    yield from _Reader(model).graph(model.graph, {})


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.functions = {(f.domain, f.name): f for f in model.functions}

    def graph(self, graph: onnx.GraphProto, outer: Known) -> Iterator[Called]:
        known = dict(outer)
        known |= {value.name: _kind(value.type.tensor_type.elem_type) for value in graph.input}
        known |= {tensor.name: _kind(tensor.data_type) for tensor in graph.initializer}
        yield from self.nodes(graph.node, known, self.opsets)
        outer |= {value.name: known[value.name] for value in graph.output if value.name in known}

    def nodes(self, nodes: Sequence[onnx.NodeProto], known: Known, opsets: Mapping[str, int]) -> Iterator[Called]:
        for node in nodes:
            function = self.functions.get((node.domain, node.op_type)) or _body(node, known, opsets)
            if function is not None:
                yield from self.call(node, function, known, opsets)
                continue
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from self.branch(node, attribute.g, known)
            called = _called(node, known, opsets)
            if called.operator != "Constant":  # a runtime makes initializers of these and needs no kernel
                yield called

    def branch(self, node: onnx.NodeProto, graph: onnx.GraphProto, known: Known) -> Iterator[Called]:
        """A branch; its results are the node's, and have their types."""
        inner = dict(known)
        yield from self.graph(graph, inner)
        kept = len(graph.output) - len(node.output)  # a loop's body gives its condition first
        for output, value in zip(node.output, graph.output[max(kept, 0) :], strict=False):
            if value.name in inner:
                known[output] = inner[value.name]

    def call(
        self, node: onnx.NodeProto, function: onnx.FunctionProto, known: Known, outer: Mapping[str, int]
    ) -> Iterator[Called]:
        inner = {n: known[given] for n, given in zip(function.input, node.input, strict=False) if given in known}
        opsets = {**outer, **{entry.domain: entry.version for entry in function.opset_import}}
        yield from self.nodes(function.node, inner, opsets)
        known |= {n: inner[v] for n, v in zip(node.output, function.output, strict=False) if v in inner}


def _body(node: onnx.NodeProto, known: Known, opsets: Mapping[str, int]) -> onnx.FunctionProto | None:
    """What a runtime puts in the place of a standard operator that no runtime has a kernel for, None for others."""
    opset = opsets.get(node.domain, 1)
    if (node.domain, node.op_type) in table().kernels or not onnx.defs.has(node.op_type, opset, node.domain):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function or any(name and name not in known for name in node.input):
        return None
    kinds = [onnx.TensorProto.DataType.Value(known[name].upper()) if name else 0 for name in node.input]
    types = [onnx.helper.make_tensor_type_proto(kind, None).SerializeToString() for kind in kinds]
    return onnx.FunctionProto.FromString(schema.get_context_dependent_function(node.SerializeToString(), types))


def _called(node: onnx.NodeProto, known: Known, opsets: Mapping[str, int]) -> Called:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version, inputs, outputs, fixed = _schema(domain, node.op_type, opsets.get(domain, 1))
    variables: dict[str, str] = {}
    for name, (parameter, variable) in zip(node.input, _spread(inputs, len(node.input)), strict=False):
        if name in known:
            variables[parameter] = known[name]
            variables.setdefault(variable, known[name])
    for name, (parameter, variable) in zip(node.output, _spread(outputs, len(node.output)), strict=False):
        found = known.get(name) or _result(node, variable, variables) or fixed.get(variable)
        if found is not None:
            known[name] = found
            variables[parameter] = found
            variables.setdefault(variable, found)
    given = [number for number, name in enumerate(node.input, 1) if name]
    attributes = frozenset(attribute.name for attribute in node.attribute)
    return Called(domain, node.op_type, version, tuple(sorted(variables.items())), attributes, max(given, default=0))


Parameters = Sequence[tuple[str, str]]


def _schema(domain: str, operator: str, opset: int) -> tuple[int, Parameters, Parameters, Mapping[str, str]]:
    """Version, inputs, outputs, and the types of variables that stand for one type only."""
    if domain == CONTRIB and operator in table().schemas:
        newest = table().schemas[operator][-1]
        return 1, newest.inputs, newest.outputs, {}
    if not onnx.defs.has(operator, opset, domain):
        return opset, (), (), {}
    schema = onnx.defs.get_schema(operator, opset, domain)
    inputs, outputs = ([(p.name, p.type_str) for p in side] for side in (schema.inputs, schema.outputs))
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    fixed = {variable: _bare(kinds[0]) for variable, kinds in allowed.items() if len(kinds) == 1}
    fixed |= {v: _bare(v) for _, v in (*inputs, *outputs) if v.startswith("tensor(")}
    return schema.since_version, inputs, outputs, fixed


def _spread(parameters: Parameters, count: int) -> Parameters:
    """The last parameter takes all further values."""
    return [*parameters, *[parameters[-1]] * (count - len(parameters))] if parameters else ()


_LIKE = ("EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
"""Operators whose result has the type of their input where no attribute says another."""


def _result(node: onnx.NodeProto, variable: str, variables: Mapping[str, str]) -> str | None:
    """The type of a result: an attribute says it, or the inputs do."""
    given = {attribute.name: attribute for attribute in node.attribute}
    for name in ("to", "dtype", "output_dtype"):
        if name in given and given[name].i:
            return _kind(given[name].i)
    if node.op_type in ("Constant", "ConstantOfShape"):
        return _constant(given)
    if node.op_type == "QuantizeLinear" and node.domain != CONTRIB and variable not in variables:
        return "uint8"
    if node.op_type in _LIKE:
        return variables.get(variable) or variables.get("T1")
    return variables.get(variable)


def _constant(given: Mapping[str, Any]) -> str:
    if "value" in given:
        return _kind(given["value"].t.data_type)
    return "int64" if any(name.startswith("value_int") for name in given) else "float"


def _kind(number: int) -> str:
    return onnx.TensorProto.DataType.Name(number).lower()


def _bare(kind: str) -> str:
    return kind.removeprefix("tensor(").removesuffix(")")
