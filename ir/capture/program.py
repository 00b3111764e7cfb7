"""Capture: nn.Module, ExportedProgram or GraphModule -> Graph, through torch.export without decompositions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from ..constants import ConstantHandle
from ..context import Context
from ..errors import CaptureError
from ..graph import Graph, Node, Signature
from .accepted import (
    advice_on_writes,
    refuse_modes,
    refuse_quantized,
    refuse_scripted,
    refuse_training,
    refuse_unusual_inputs,
    refuse_without_values,
)
from .any_size import AnySize
from .constants import read_constants
from .dims import DimNames, argument_names, name_dims
from .errors import explain, listed, quiet, refuse_unrunnable, unexplained
from .examples import enlarged
from .functional import functional, live_nodes
from .fx import FxReader
from .shapes import check_shapes, spelled_out
from .writes import Writes


def capture(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any] | torch.Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Graph:
    """The graph of a model.

    Args:
        model: a module in evaluation mode (a GraphModule from ``symbolic_trace`` is one), or an ExportedProgram.
        args: example positional inputs; a single tensor may be given bare.
        kwargs: example keyword inputs.
        dynamic_shapes: as ``torch.export.export`` takes it; the names of ``torch.export.Dim`` become the names of
            the dimensions.

    Raises:
        CaptureError: the model cannot be captured; names the user's source line and what to do.
    """
    refuse_modes()
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    named = dict(kwargs or {})
    if isinstance(model, nn.Module):
        refuse_scripted(model)
        dynamic_shapes = spelled_out(model, args, named, dynamic_shapes)
    program = model if isinstance(model, ExportedProgram) else _export(model, args, named, dynamic_shapes)
    state = model.state_dict if isinstance(model, ExportedProgram) else model.state_dict()
    return read_program(program, state, args, named, dynamic_shapes=dynamic_shapes)


def read_program(
    program: ExportedProgram,
    state: Mapping[str, Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Graph:
    """The graph of an exported program, its writes turned into new values.

    Args:
        program: the program.
        state: the model's ``state_dict``, for the other names of tensors that two layers share.
        args: the example inputs, which say where the names in ``dynamic_shapes`` belong.
        kwargs: the same by keyword.
        dynamic_shapes: as for :func:`capture`.

    Raises:
        CaptureError: the program writes to its inputs or buffers, holds operations that cannot be captured, or
            cannot be made functional.
    """
    program, writes = functional(program)
    _refuse_mutation(program)
    handles = read_constants(program, state)
    return _read(program, name_dims(program, dynamic_shapes, args, dict(kwargs or {})), handles, writes)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> ExportedProgram:
    if not isinstance(cast(object, model), nn.Module):
        raise CaptureError(
            f"model: expected an nn.Module, an ExportedProgram or an fx.GraphModule; found {type(model).__name__}"
        )
    refuse_training(model)
    refuse_without_values(model)
    refuse_quantized(model)
    refuse_unusual_inputs(args, kwargs)
    check_shapes(model, args, kwargs, dynamic_shapes)
    args, kwargs = enlarged(model, *_distinct(model, args, kwargs), dynamic_shapes)
    try:
        with quiet(), torch.no_grad(), AnySize():
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:
        explained = explain(error, model, args, kwargs, dynamic_shapes)
        if explained is None:
            refuse_unrunnable(model, args, kwargs)
            raise unexplained(error) from error
        raise explained from None  # torch's pages of advice add nothing to it


def _distinct(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs with copies in place of repeated tensors: torch.export would merge them into one input."""
    seen = {id(t) for t in (*model.parameters(), *model.buffers())}

    def separate(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        repeated = id(leaf) in seen
        seen.add(id(leaf))
        return leaf.detach().clone() if repeated or leaf.is_inference() else leaf

    return cast("tuple[tuple[Any, ...], dict[str, Any]]", pytree.tree_map(separate, (args, kwargs)))


def _refuse_mutation(program: ExportedProgram) -> None:
    signature = program.graph_signature
    found = [f"buffer {name}" for name in signature.buffers_to_mutate.values()]
    found += [f"input {name}" for name in signature.user_inputs_to_mutate.values()]
    if found:
        raise CaptureError(
            "model: expected a forward pass without side effects; found writes; "
            f"{advice_on_writes(found)}:\n{listed(found)}"
        )


# ------------------------------------------------------------------------------------------------ reading
def _read(program: ExportedProgram, names: DimNames, handles: Mapping[str, ConstantHandle], writes: Writes) -> Graph:
    context = Context(names.ranges)
    reader = FxReader(context, names, writes)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    inputs: list[Node] = []
    fixed: dict[str, tuple[Any] | None] = {}
    for placeholder, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            fixed[placeholder.name] = _user_input(reader, placeholder, spec.arg, inputs)
        elif spec.target is not None:
            reader.bind(placeholder, context.constant_of(handles[spec.target]))
        else:
            raise CaptureError(
                f"model: input {spec.arg} of kind {spec.kind.name} is not supported; pass it as a tensor"
            )
    reader.run(n for n in live_nodes(program.graph) if n.op not in ("placeholder", "output"))
    outputs = _outputs(program, reader)
    call = program.call_spec
    spec = Signature(call.in_spec, call.out_spec, tuple(fixed.values()), argument_names(program))
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
    raise CaptureError(
        f"input {placeholder.name}: expected a tensor or a constant; found {type(arg).__name__}; pass a tensor"
    )


def _outputs(program: ExportedProgram, reader: FxReader) -> list[Any]:
    (output,) = [n for n in program.graph.nodes if n.op == "output"]
    values: list[Any] = []
    for value, spec in zip(cast(Sequence[Any], output.args[0]), program.graph_signature.output_specs, strict=True):
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise CaptureError(f"output {spec.arg}: expected a value that the model returns; found {spec.kind.name}")
        values.append(reader.value(value))
    return values
