"""What ``instar passes`` prints: passes, formats, encoders and kernels, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..ir.plugins import Registry


def listing() -> Table:
    """One row per pass, format, encoder and kernel: name, options with defaults, first line of its documentation."""
    from ..passes.encoders import ENCODERS
    from ..passes.formats import FORMATS
    from ..passes.registry import PASSES
    from ..passes.transforms import TRANSFORMS
    from ..targets.registry import TARGETS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "options", "what it does"):
        table.add_column(title, overflow="fold")
    for name, cls in PASSES.items():
        table.add_row("pass", name, Text(", ".join(options(cls))), Text(_described(PASSES, name)))
    for name, first in _together(FORMATS):
        known = FORMATS[first]
        spelled = f"{known.options}; {known.example(first)}" if known.options else ""
        table.add_row("format", name, spelled, Text(_described(FORMATS, first)))
    for name, cls in ENCODERS.items():
        table.add_row("encoder", name, Text(", ".join(options(cls))), Text(_described(ENCODERS, name)))
    for name, cls in TRANSFORMS.items():
        table.add_row("transform", name, Text(", ".join(options(cls))), Text(_described(TRANSFORMS, name)))
    for name in TARGETS:
        table.add_row("target", name, "", Text(_described(TARGETS, name)))
    for name, target, what in _kernels():
        table.add_row("kernel", name, f"target {target}", Text(what))
    for registry in (PASSES, FORMATS, ENCODERS, TRANSFORMS, TARGETS):
        for name, origin in registry.shadowed().items():
            table.add_row(registry.kind, "", "", Text(f"{name} of {origin} is not used: instar has its own"))
    return table


def _described(registry: Registry[Any], name: str) -> str:
    """The first line of the documentation, and the package of what is not our own."""
    origin = registry.origin(name)
    found = registry[name]
    return (getattr(found, "summary", "") or summary(found)) + (f" ({origin})" if origin is not None else "")


def _together(registry: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Names of the same class in one row, and the first of them."""
    names: dict[object, list[str]] = {}
    for name, cls in registry.items():
        names.setdefault(cls, []).append(name)
    for found in names.values():
        yield ", ".join(found), found[0]


def _kernels() -> Iterator[tuple[str, str, str]]:
    from ..targets.registry import TARGETS, kernels

    for target in TARGETS:
        for name, what in kernels(target).items():
            yield name, target, what


def options(cls: object) -> Iterator[str]:
    """``name=default`` for each option of a pass."""
    if not is_dataclass(cls):
        return
    for item in fields(cls):
        if item.init and item.name != "name":
            yield item.name if item.default is MISSING else f"{item.name}={item.default!r}"


def summary(cls: object) -> str:
    """The first line of the documentation, code in single backticks."""
    return (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "`")
