"""Torch's ONNX exporter in its parts, so that what does not depend on a program is made once.

``torch.onnx.export`` reads the signatures of all its translations, makes the table of everything that can be taken
apart, and traces the program again with it, whatever the program is: seconds for a network of three layers. Here the
translations of the operators that occur are looked up, and a program is traced again only where one of its operators
has none. What is written is the same. These parts have no public names, hence the imports by text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import onnx_ir
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch.fx.traceback import preserve_node_meta

from .program import Program

Translations = Mapping[Any, Callable[..., Any]]
"""Op overload -> how it is written; these go ahead of torch's own."""


@dataclass(frozen=True)
class Exporter:
    """What torch's exporter knows for one opset.

    Attributes:
        registered: overloads with a translation.
        decompositions: overload without one -> function that computes it with other ops.
    """

    registered: frozenset[Any]
    decompositions: Mapping[Any, Callable[..., Any]]


@cache
def exporter(opset: int) -> Exporter:
    """Torch's own tables."""
    registration, decompositions = _part("_registration"), _part("_decomp")
    registry = registration.ONNXRegistry.from_torchlib(opset_version=opset)
    registered = frozenset(decompositions.get_onnx_implemented_overloads(registry))
    return Exporter(registered, decompositions.create_onnx_friendly_decomposition_table(registered))


def has_translation(target: Any, opset: int) -> bool:
    """Whether torch can write an operator as it is; asked of one operator, this reads no table."""
    return bool(known_operator(target, opset))


def translate(
    program: torch.export.ExportedProgram, translations: Translations, *, opset: int, optimize: bool = False
) -> onnx_ir.Model:
    """The ONNX model of a program, as ``torch.onnx.export`` makes it with these translations.

    Args:
        program: what to write.
        translations: of operators that torch has none for, or another one.
        opset: of the default domain.
        optimize: run the exporter's own optimiser afterwards.

    Raises:
        torch.onnx.errors.OnnxExporterError: an op has no translation.
    """
    if takes_apart(program, translations, opset):
        table = {o: f for o, f in exporter(opset).decompositions.items() if o not in translations}
        with _module("torch.fx.experimental._config").patch(
            backed_size_oblivious=True
        ):  # sizes of 0 and 1 are sizes like others
            program = program.run_decompositions(table)
    passes = _part("_fx_passes")
    passes.insert_type_promotion_nodes(program.graph_module)
    passes.remove_assertion_nodes(program.graph_module)
    registry = _registry({node.target for node in _calls(program)}, translations, opset)
    model = _part("_core")._exported_program_to_onnx_program(program, registry=registry).model
    return _of_version(model, opset, optimize=optimize)


def write(program: Program, translations: Translations, *, opset: int, optimize: bool = False) -> onnx_ir.Model:
    """The ONNX model of a program whose operators all have translations; see :func:`translate`.

    Raises:
        torch.onnx.errors.OnnxExporterError: an op has no translation.
    """
    core = _part("_core")
    _promote(program)
    registry = _registry({n.target for n in program.graph.nodes if n.op == "call_function"}, translations, opset)
    graph = onnx_ir.Graph([], [], nodes=[], name="main_graph")
    model = onnx_ir.Model(graph, ir_version=_part("_constants").ONNX_IR_VERSION)
    core._translate_fx_graph(
        program.graph, model, graph_like=graph, owned_graphs={}, lower="at_conversion", registry=registry
    )
    inputs = list(graph.inputs)
    graph.inputs[:] = inputs[: program.inputs]
    for value in inputs[program.inputs :]:
        value.name, tensor = program.constants[str(value.name)]
        pairs = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        value.const_value = core.TorchTensor(pairs, name=value.name)
        graph.initializers[value.name] = value
    _part("_ir_passes").add_opset_imports(model)
    return _of_version(model, opset, optimize=optimize)


def _of_version(model: onnx_ir.Model, opset: int, *, optimize: bool) -> onnx_ir.Model:
    scripts = _part("_core").onnxscript_apis
    model = scripts.convert_version(model, opset)
    return cast(onnx_ir.Model, scripts.optimize(model) if optimize else model)


def _promote(program: Program) -> None:
    """Conversions where an operator mixes dtypes, by torch's own rules; only what they change is computed anew."""
    rules = _module("torch.onnx._internal.fx.passes.type_promotion")

    class Known(rules._TypePromotionInterpreter):
        """Takes what an operator gives from its node."""

        def run_node(self, n: fx.Node) -> Any:
            with self._set_current_node(n):
                rule = rules.get_type_promotion_rule(n, self.type_promotion_table) if n.op == "call_function" else None
                if rule:
                    self._maybe_promote_node(n, rule)
            return n.meta.get("val")

    module = fx.GraphModule(torch.nn.Module(), program.graph)
    with program.mode, enable_python_dispatcher(), preserve_node_meta():
        Known(module, rules.TypePromotionTable()).run()


def _calls(program: torch.export.ExportedProgram) -> Iterator[torch.fx.Node]:
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        if isinstance(graph, torch.fx.Graph):
            yield from (node for node in graph.nodes if node.op == "call_function")


def takes_apart(program: torch.export.ExportedProgram, translations: Translations, opset: int) -> bool:
    """Whether some operator has no translation of its own; programs with branches are always traced again."""
    return len(list(program.graph_module.modules())) > 1 or not all_written(
        {node.target for node in _calls(program)}, translations, opset
    )


def all_written(targets: Iterable[Any], translations: Translations, opset: int) -> bool:
    """Whether every one of some operators has a translation."""
    return all(not isinstance(t, OpOverload) or t in translations or has_translation(t, opset) for t in targets)


def _registry(targets: set[Any], translations: Translations, opset: int) -> Any:
    """A registry of torch's that holds what a program needs."""
    registry = _part("_registration").ONNXRegistry()
    registry._opset_version = opset
    for target in targets:
        for known in known_operator(target, opset):
            registry._register(target, known)
        if target in translations:
            registry.register_op(target, translations[target])
    return registry


@cache
def known_operator(target: Any, opset: int) -> tuple[Any, ...]:
    """Torch's translations of an operator: those of the newest opset up to the given one."""
    found = [m for m in _own().get(_name(target), ()) if m.opset_introduced <= opset]
    found += _of_onnxscript(_name(target), target)
    newest = max((meta.opset_introduced for meta in found), default=0)
    return tuple(meta for meta in found if meta.opset_introduced == newest)


@cache
def _own() -> Mapping[Any, list[Any]]:
    """The translations that torch itself brings, by name."""
    found: dict[Any, list[Any]] = {}
    for meta in _part("_torchlib._torchlib_registry").get_torchlib_ops():
        found.setdefault(_name(meta.fx_target), []).append(meta)
    return found


def _of_onnxscript(name: Any, target: Any) -> list[Any]:
    """The translations of onnxscript, which fill in what torch does not bring; signatures are read here."""
    registry = _module("onnxscript.function_libs.torch_lib.registration").default_registry
    if name not in registry:
        return []
    record, entry = _part("_registration").OnnxDecompMeta, registry[name]
    functions = [*((f, False) for f in entry.overloads), *((f, True) for f in entry.complex)]
    return [record(f, target, signature=None, is_complex=is_complex) for f, is_complex in functions]


def _name(target: Any) -> Any:
    """Qualified for operators (``aten::add.Tensor``), and for the functions of Python that compute sizes."""
    if isinstance(target, OpOverload):
        return target.name()
    module = getattr(target, "__module__", None)
    return f"{module}::{target.__name__}" if module in ("_operator", "math") else target


def _part(name: str) -> Any:
    return _module(f"torch.onnx._internal.exporter.{name}")


def _module(name: str) -> Any:
    return importlib.import_module(name)


_module("onnxscript.function_libs.torch_lib.ops")  # fills onnxscript's registry; late imports would be searched again
