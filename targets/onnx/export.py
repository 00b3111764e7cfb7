"""From a torch module over legal ops to an ONNX model."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import onnx
import onnx.defs
import onnx.helper
import onnx_ir
import torch
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from ...ir.errors import LoweringError
from ...ir.graph import Graph
from ...ir.op import CONSTANT, GETITEM, INPUT
from .emit_aten import aten_translations, unknown_to_torch
from .half_products import without_fused_transposes
from .kernels import translations
from .options import OPSET
from .outline import outline
from .program import program_of
from .torchlib import Translations, all_written, translate, write

SHARED_ELEMENTS = 16384
"""Constants up to this many elements are compared with each other; larger ones are weights and never equal."""


def export_module(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Sequence[dict[int, Any] | None] | None = None,
    input_names: Sequence[str] | None = None,
    opset: int = OPSET,
    plain: bool = False,
    clamp_softmax: bool = True,
) -> onnx_ir.Model:
    """Exports a module that takes and returns flat tensors.

    Args:
        module: in eval mode, its ops in ATen, ``instar`` or ``instar_ort``.
        inputs: example tensors.
        dynamic_shapes: per input, axis to ``torch.export.Dim``; None keeps every size as in the examples.
        input_names: names in the model.
        opset: of the default domain.
        plain: as ``torch.onnx.export`` does it by itself, without any spelling of ours; ops that torch does not have
            are written in our way.
        clamp_softmax: keep causal attention from computing denormal numbers.

    Returns:
        The model with shared constants lifted to initializers; weights are still the module's own tensors.

    Raises:
        LoweringError: an op has no ONNX translation, or the exporter stamped another opset.
    """
    shapes = None if dynamic_shapes is None else tuple(dynamic_shapes)
    examples = tuple(tensor.contiguous() for tensor in inputs)  # strides of views would be guarded as sizes
    program = torch.export.export(module, examples, dynamic_shapes=(shapes,) if _variadic(module) else shapes)
    with _writing():
        model = translate(program, spellings(plain, clamp_softmax), opset=opset, optimize=plain)
        if input_names:
            for value, name in zip(model.graph.inputs, input_names, strict=False):
                value.name = name
    return _finished(model, opset, plain=plain)


def export_graph(
    graph: Graph, sizes: Mapping[str, int], *, opset: int = OPSET, plain: bool = False, clamp_softmax: bool = True
) -> onnx_ir.Model:
    """A graph whose outputs are tensors as :func:`export_module` writes its numbered module, without tracing that.

    Args:
        graph: every op has a translation (:func:`is_written`).
        sizes: a size for every dimension.
        opset: of the default domain.
        plain: see :func:`export_module`.
        clamp_softmax: see :func:`export_module`.

    Raises:
        LoweringError: an op cannot be translated as it is used, or the exporter stamped another opset.
    """
    with _writing():
        model = write(program_of(graph, sizes), spellings(plain, clamp_softmax), opset=opset, optimize=plain)
    return _finished(model, opset, plain=plain)


def is_written(graph: Graph, *, opset: int, plain: bool) -> bool:
    """Whether every op of a graph has a translation, so that none has to be taken apart."""
    ops = {n.op.overload for n in graph.nodes() if n.op not in (INPUT, CONSTANT, GETITEM)}
    return all_written(ops, spellings(plain), opset)


def spellings(plain: bool, clamp_softmax: bool = True) -> Translations:
    """How ops are written in our own way; where ``plain`` only those that torch does not have."""
    return {**translations(), **(unknown_to_torch() if plain else aten_translations(clamp_softmax))}


@contextlib.contextmanager
def _writing() -> Generator[None]:
    """Raises a LoweringError where an op has no translation."""
    try:
        with quiet():
            yield
    except torch.onnx.errors.OnnxExporterError as problem:
        raise LoweringError(f"onnx: expected a translation for every op, found: {_last_cause(problem)}") from problem


def _finished(model: onnx_ir.Model, opset: int, *, plain: bool) -> onnx_ir.Model:
    _check_opset(model, opset)
    with quiet():
        return clean(model) if plain else outline(shorten(clean(model)))


def clean(model: onnx_ir.Model) -> onnx_ir.Model:
    """Removes identities, dead nodes and the exporter's notes; lifts constants to initializers, equal ones once.

    What runtimes die of is written in another way (:mod:`.half_products`). The notes hold stack traces: a megabyte for
    a small model, and the paths of the machine that compiled it.
    """
    ClearMetadataAndDocStringPass()(model)
    drop_identities(model)
    passes = PassManager(
        [
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            DeduplicateInitializersPass(size_limit=SHARED_ELEMENTS),
            RemoveUnusedNodesPass(),
        ]
    )
    passes(model)
    return without_fused_transposes(model)


def drop_identities(model: onnx_ir.Model) -> None:
    """Let what reads a copy read the original, in subgraphs too.

    A copy stays where it is an output and the original is not a result of a node of the same graph: an input, a
    constant, another output already, or a value of the graph around a branch, none of which can be an output of the
    branch.
    """
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            if node.op_type == "Identity" and node.domain == "" and node.inputs[0] is not None:
                _drop_identity(graph, node, node.inputs[0])


def _drop_identity(graph: onnx_ir.Graph, node: onnx_ir.Node, source: onnx_ir.Value) -> None:
    copy = node.outputs[0]
    if copy.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return
    source.type, source.shape = source.type or copy.type, source.shape or copy.shape
    copy.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def shorten(model: onnx_ir.Model) -> onnx_ir.Model:
    """Leaves out what a runtime infers or takes for granted: types between nodes, default attributes, long names.

    A small network spends a quarter of its file on them.
    """
    for node in model.graph:
        node.name = (node.name or "").removeprefix("node_")
        for name in _defaults(node, model.opset_imports):
            del node.attributes[name]
        if node.op_type == "Conv":
            _shorten_conv(node)
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    inner = (value for node in model.graph for value in node.outputs)
    for value in (*inner, *model.graph.initializers.values()):
        if id(value) not in kept:
            value.type = value.shape = None
            value.metadata_props.clear()
    return model


def _shorten_conv(node: onnx_ir.Node) -> None:
    """Ones are the default of strides and dilations, and the kernel's shape is the weight's."""
    for name in ("strides", "dilations"):
        if name in node.attributes and set(_plain(node.attributes[name].value)) == {1}:
            del node.attributes[name]
    node.attributes.pop("kernel_shape", None)


def _defaults(node: onnx_ir.Node, versions: Mapping[str, int]) -> list[str]:
    """Attributes that say what the operator's schema says anyway."""
    if not onnx.defs.has(node.op_type, node.domain):
        return []
    schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    known = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type}
    return [
        name
        for name, given in node.attributes.items()
        if name in known and _plain(given.value) == _plain(onnx.helper.get_attribute_value(known[name]))
    ]


def _plain(value: Any) -> Any:
    """A comparable attribute value."""
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list | tuple) else value


def to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """The model as protobuf, checked by the ONNX checker.

    Raises:
        LoweringError: the checker refuses the model.
    """
    proto = onnx_ir.to_proto(model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as problem:
        raise LoweringError(f"onnx: expected a valid model, the checker found: {problem}") from problem
    return proto


def _variadic(module: torch.nn.Module) -> bool:
    """Whether ``forward`` takes ``*args``, for which torch.export wants one more level of nesting."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and code.co_argcount == 1 and bool(code.co_flags & 0x04)


def _check_opset(model: onnx_ir.Model, opset: int) -> None:
    stamped = model.opset_imports.get("")
    if stamped != opset:
        raise LoweringError(f"onnx: expected a model of opset {opset}, the exporter stamped {stamped}; choose another")


def _last_cause(problem: BaseException) -> str:
    """The innermost message of a chain of exceptions: the outer ones are generic."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return " ".join(str(problem).split())[:500]


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keeps the exporter's progress and its remarks about packages that are not needed off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
