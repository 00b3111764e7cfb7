"""Capture: nn.Module, ExportedProgram or GraphModule -> Graph, through torch.export with the empty decomposition table."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from .capture_dims import DimNames, name_dims
from .capture_fx import FxReader
from .constants import ConstantHandle
from .context import Context
from .errors import CaptureError
from .graph import Graph, Node, Signature

_MODE_DEPENDENT = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RNNBase, nn.RReLU)


def capture(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Graph:
    """The graph of a model.

    Args:
        model: a module in evaluation mode (a GraphModule from ``symbolic_trace`` is one), or an ExportedProgram.
        args: example positional inputs; a single tensor may be given bare.
        kwargs: example keyword inputs.
        dynamic_shapes: as ``torch.export.export`` takes it; ``torch.export.Dim`` names become the names of the dimensions.

    Raises:
        CaptureError: the model cannot be captured; names the user's source line and what to do.
    """
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    program = model if isinstance(model, ExportedProgram) else _export(model, args, dict(kwargs or {}), dynamic_shapes)
    functional = _functionalize(program)
    _refuse_mutation(functional)
    names = name_dims(functional, dynamic_shapes, args, dict(kwargs or {}))
    return _read(functional, names)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> ExportedProgram:
    if not isinstance(cast(object, model), nn.Module):
        raise CaptureError(
            f"model: expected an nn.Module, an ExportedProgram or an fx.GraphModule; found {type(model).__name__}"
        )
    _refuse_training(model)
    _refuse_meta(model)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:
        raise CaptureError(_export_message(error)) from error


def _functionalize(program: ExportedProgram) -> ExportedProgram:
    try:
        with _quiet():
            return program.run_decompositions(decomp_table={})
    except Exception as error:
        raise CaptureError(_export_message(error)) from error


def _export_message(error: Exception) -> str:
    """The cause in torch's words, the user's line where torch knows it, and what to do."""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    shown = "\n  ".join(lines[:12]) if lines else type(error).__name__
    advice = "mark varying sizes in dynamic_shapes, or rewrite the line so that it does not depend on tensor values"
    return f"model: torch.export cannot capture it: {type(error).__name__}: {shown}\n  What to do: {advice}."


def _refuse_training(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training and isinstance(module, _MODE_DEPENDENT):
            raise CaptureError(
                f"model: expected evaluation mode; {name or 'the model'} ({type(module).__name__}) is in training mode; "
                "call model.eval() before compiling"
            )


def _refuse_meta(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise CaptureError(f"model: expected parameters with values; {name} is on the meta device; load the weights first")


def _refuse_mutation(program: ExportedProgram) -> None:
    signature = program.graph_signature
    for kind, mutated in (("buffer", signature.buffers_to_mutate), ("input", signature.user_inputs_to_mutate)):
        for target in mutated.values():
            raise CaptureError(
                f"model: expected a forward pass without side effects; it writes to the {kind} {target!r}; "
                "call model.eval(), or return the new value as an output"
            )


# ------------------------------------------------------------------------------------------------ reading
def _read(program: ExportedProgram, names: DimNames) -> Graph:
    context = Context(names.ranges)
    reader = FxReader(context, names)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    handles = _handles(program)
    inputs: list[Node] = []
    fixed: dict[str, tuple[Any] | None] = {}
    for placeholder, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            fixed[placeholder.name] = _user_input(reader, placeholder, spec.arg, inputs)
        elif spec.target is not None:
            reader.bind(placeholder, context.constant_of(handles[spec.target]))
        else:
            raise CaptureError(f"model: input {spec.arg} of kind {spec.kind.name} is not supported; pass it as a tensor")
    reader.run(n for n in program.graph.nodes if n.op not in ("placeholder", "output"))
    outputs = _outputs(program, reader)
    spec = Signature(program.call_spec.in_spec, program.call_spec.out_spec, tuple(fixed.values()))
    return context.graph(inputs, outputs, spec)


def _user_input(reader: FxReader, placeholder: Any, arg: Any, inputs: list[Node]) -> tuple[Any] | None:
    if isinstance(arg, TensorArgument):
        node = reader.context.input(placeholder.name, reader.type_of(placeholder.meta["val"]))
        reader.bind(placeholder, node)
        inputs.append(node)
        return None
    if isinstance(arg, ConstantArgument):
        reader.bind(placeholder, arg.value)
        return (arg.value,)
    raise CaptureError(f"input {placeholder.name}: expected a tensor or a constant; found {type(arg).__name__}; pass a tensor")


def _handles(program: ExportedProgram) -> dict[str, ConstantHandle]:
    """One handle per distinct tensor: names that share a tensor share its handle."""
    tensors: dict[str, tuple[str, torch.Tensor]] = {}
    for spec in program.graph_signature.input_specs:
        if spec.target is not None:
            kind = "parameter" if spec.kind is InputKind.PARAMETER else "buffer"
            tensors[spec.target] = (kind, _lookup(program, spec.target))
    groups: dict[Any, list[str]] = {}
    for name, (_, tensor) in tensors.items():
        groups.setdefault(_identity(tensor), []).append(name)
    handles: dict[str, ConstantHandle] = {}
    for names in groups.values():
        kind, tensor = tensors[names[0]]
        handle = ConstantHandle.of(names[0], tensor, kind, tuple(names[1:]))
        handles |= dict.fromkeys(names, handle)
    return handles


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for two views of exactly the same memory; tensors without elements are only equal to themselves."""
    if tensor.numel() == 0:
        return id(tensor)
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _lookup(program: ExportedProgram, target: str) -> torch.Tensor:
    if target in program.state_dict:
        return cast(torch.Tensor, program.state_dict[target])
    constant = program.constants.get(target)
    if not isinstance(constant, torch.Tensor):
        raise CaptureError(f"constant {target}: expected a tensor; found {type(constant).__name__}; register it as a buffer")
    return constant


def _outputs(program: ExportedProgram, reader: FxReader) -> list[Any]:
    (output,) = [n for n in program.graph.nodes if n.op == "output"]
    values: list[Any] = []
    for value, spec in zip(cast(Sequence[Any], output.args[0]), program.graph_signature.output_specs, strict=True):
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise CaptureError(f"output {spec.arg}: expected a value that the model returns; found {spec.kind.name}")
        values.append(reader.value(value))
    return values


class _quiet:
    """Silences torch.export's own warnings and logging while it runs; errors still arrive as exceptions."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._logger = logging.getLogger("torch.export")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *exc: object) -> None:
        self._logger.setLevel(self._level)
        self._warnings.__exit__(None, None, None)
