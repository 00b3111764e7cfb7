"""``dynamic_shapes`` is checked before torch.export sees it: its own errors for a wrong entry come from deep inside."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.export import AdditionalInputs, ShapesCollection

from ..errors import CaptureError


def spelled_out(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> Any:
    """The shapes as a nest of entries, also where torch's builders of such a nest were given."""
    if isinstance(dynamic_shapes, ShapesCollection | AdditionalInputs):
        try:
            return cast(Any, dynamic_shapes).dynamic_shapes(model, args, kwargs)
        except (ValueError, TypeError) as problem:
            raise CaptureError(f"dynamic_shapes: expected shapes for the example inputs; found: {problem}") from problem
    return dynamic_shapes


def check_shapes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any) -> None:
    """Refuse entries that name no size of an example input; whether the nesting fits is left to torch.export.

    Raises:
        CaptureError: says which entry, what was expected and what was found.
    """
    if dynamic_shapes is None:
        return
    if not isinstance(dynamic_shapes, Mapping | list | tuple):
        raise CaptureError(
            "dynamic_shapes: expected a tuple with an entry for every input, or a dict from the names of arguments; "
            f"found {_shown(dynamic_shapes)}; for example ({{0: torch.export.Dim('batch')}},)"
        )
    try:
        inputs = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:  # inputs that do not fit forward: torch.export says so
        return
    values = inputs if isinstance(dynamic_shapes, Mapping) else list(inputs.values())
    for where, value, entry in _entries("dynamic_shapes", values, dynamic_shapes):
        _check(where, value, entry)


def _entries(where: str, value: Any, entry: Any) -> Iterator[tuple[str, Any, Any]]:
    """(place, input, entry) of every input that is not a collection, as far as both are nested alike."""
    pairs: Iterable[tuple[Any, Any, Any]]
    if isinstance(value, Mapping) and isinstance(entry, Mapping):
        known, given = cast("Mapping[Any, Any]", value), cast("Mapping[Any, Any]", entry)
        pairs = [(repr(key), known[key], given[key]) for key in given if key in known]
    elif isinstance(value, list | tuple) and isinstance(entry, list | tuple):
        parts, entries = cast("Sequence[Any]", value), cast("Sequence[Any]", entry)
        pairs = [(i, v, e) for i, (v, e) in enumerate(zip(parts, entries, strict=False))]
    elif isinstance(value, Mapping | list | tuple):
        return
    else:
        yield where, value, entry
        return
    for key, part, sub in pairs:
        yield from _entries(f"{where}[{key}]", part, sub)


def _check(where: str, value: Any, entry: Any) -> None:
    if not isinstance(value, torch.Tensor):
        if entry is not None and isinstance(value, bool | int | float | str | None):
            raise CaptureError(f"{where}: expected None for {_shown(value)}, which is no tensor; found {_shown(entry)}")
        return
    if entry is None:
        return
    shape = list(value.shape)
    if isinstance(entry, Mapping):
        sizes = dict(cast("Mapping[Any, Any]", entry))
    elif isinstance(entry, list | tuple):
        sizes = dict(enumerate(cast("Sequence[Any]", entry)))
        if len(sizes) != len(shape):
            raise CaptureError(f"{where}: expected {len(shape)} sizes for an input {shape}; found {len(sizes)}")
    else:
        raise CaptureError(
            f"{where}: expected None, or a dict from axes of an input {shape} to torch.export.Dim; "
            f"found {_shown(entry)}"
        )
    if sizes and not shape:
        raise CaptureError(f"{where}: expected None or {{}} for an input without axes; found {_shown(entry)}")
    for axis, size in sizes.items():
        _check_axis(where, shape, axis, size)


def _check_axis(where: str, shape: list[int], axis: Any, size: Any) -> None:
    if not isinstance(axis, int) or isinstance(axis, bool) or not 0 <= axis < len(shape):
        raise CaptureError(f"{where}: expected axes from 0 to {len(shape) - 1} of an input {shape}; found {axis!r}")
    fixed = isinstance(size, int) and not isinstance(size, bool)
    if fixed and size != shape[axis]:
        raise CaptureError(
            f"{where}[{axis}]: expected the example's own size {shape[axis]}, or a torch.export.Dim; found {size}"
        )
    if isinstance(size, str | bool | float):
        raise CaptureError(f"{where}[{axis}]: expected None, a torch.export.Dim or Dim.AUTO; found {_shown(size)}")


def _shown(value: Any) -> str:
    text, kind = repr(value), type(value).__name__
    return (text if value is None or text.startswith(kind) else f"{kind} {text}")[:80]
