"""The tensors of an exported program as constant handles: one handle per distinct tensor, however many names it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ..constants import ConstantHandle
from ..errors import CaptureError
from ..types import DTYPE_NAMES
from .errors import listed


def read_constants(program: ExportedProgram, state: Mapping[str, Any]) -> dict[str, ConstantHandle]:
    """Name -> handle for every parameter, buffer and lifted constant that the program takes.

    Names that share a tensor share its handle, and are its aliases: tied embeddings stay one constant. Views that share
    memory only in part are constants of their own.

    Args:
        program: the functional program.
        state: the model's whole state_dict, with the names that torch left out because it had seen their tensor before.

    Raises:
        CaptureError: tensors that are not dense or have a dtype that instar does not know; lists all of them.
    """
    tensors = {name: (kind, tensor) for name, kind, tensor in _tensors(program)}
    _refuse_unusual({name: tensor for name, (_, tensor) in tensors.items()})
    groups: dict[Any, list[str]] = {}
    for name, (_, tensor) in tensors.items():
        groups.setdefault(_identity(tensor), []).append(name)
    for name, value in state.items():
        same = groups.get(_identity(value)) if isinstance(value, torch.Tensor) else None
        if same is not None and name not in same:
            same.append(name)
    handles: dict[str, ConstantHandle] = {}
    for names in groups.values():
        kind, tensor = tensors[names[0]]
        handles |= dict.fromkeys(names, ConstantHandle.of(names[0], tensor, kind, tuple(names[1:])))
    return handles


def _tensors(program: ExportedProgram) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(name, kind, value): kind is ``parameter``, ``buffer``, or ``constant`` for what a state_dict leaves out."""
    for spec in program.graph_signature.input_specs:
        if spec.target is None or spec.kind is InputKind.USER_INPUT:
            continue
        stored = spec.target in program.state_dict
        value = program.state_dict[spec.target] if stored else program.constants.get(spec.target)
        if not isinstance(value, torch.Tensor):
            raise CaptureError(
                f"constant {spec.target}: expected a tensor; found {type(value).__name__}; register it as a buffer"
            )
        yield (
            spec.target,
            ("parameter" if spec.kind is InputKind.PARAMETER else "buffer" if stored else "constant"),
            value,
        )


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for two views of exactly the same memory; tensors without elements are only equal to themselves."""
    if tensor.numel() == 0 or tensor.layout is not torch.strided:
        return id(tensor)
    return (
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
    )


def _refuse_unusual(tensors: dict[str, torch.Tensor]) -> None:
    found = [
        f"{name}: {tensor.dtype}, {str(tensor.layout).removeprefix('torch.')}"
        for name, tensor in tensors.items()
        if tensor.layout is not torch.strided or tensor.dtype not in DTYPE_NAMES
    ]
    if found:
        raise CaptureError(
            "model: expected dense tensors of a floating point, integer, complex or bool dtype; convert these before "
            f"compiling:\n{listed(found)}"
        )
