"""What ``instar passes`` prints: passes, formats, encoders and kernels, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..ir.plugins import Registry
    from ..targets.declaration import Declaration
    from ..targets.registry import NamedKernel


NAMES_A_LINE = 8
"""Of one class: there are dozens of small floats, and without a terminal a column is as wide as its widest line."""


def listing() -> Table:
    """One row per pass, format, encoder and kernel: name, options with defaults, first line of its documentation.

    What a broken package offers has a row that says why it cannot be used.
    """
    from ..passes.encoders import ENCODERS
    from ..passes.formats import FORMATS
    from ..passes.registry import PASSES
    from ..passes.transforms import TRANSFORMS
    from ..targets.registry import KERNELS, TARGETS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "options", "what it does"):
        table.add_column(title, overflow="fold")
    rows = (_optional(PASSES), _formats(FORMATS), _optional(ENCODERS), _optional(TRANSFORMS), _targets(TARGETS))
    for row in (*chain(*rows), *_kernels(TARGETS, KERNELS)):
        table.add_row(*map(Text, row))
    for registry in (PASSES, FORMATS, ENCODERS, TRANSFORMS, TARGETS, KERNELS):
        for name, reason in registry.sound()[1].items():
            table.add_row(registry.kind, name, "", Text(f"cannot be used: {reason}", style="red"))
        for name, origin in registry.shadowed().items():
            table.add_row(registry.kind, "", "", Text(f"{name} of {origin} is not used: instar has its own"))
    return table


Row = tuple[str, str, str, str]


def _optional(registry: Registry[Any]) -> Iterator[Row]:
    for name, found in registry.sound()[0].items():
        yield registry.kind, name, ", ".join(options(found)), _described(registry, name, found)


def _formats(registry: Registry[Any]) -> Iterator[Row]:
    for names, first, known in _together(registry.sound()[0]):
        spelled = f"{known.options}; {known.example(first)}" if known.options else ""
        yield registry.kind, names, spelled, _described(registry, first, known)


def _targets(registry: Registry[Declaration]) -> Iterator[Row]:
    for name, found in registry.sound()[0].items():
        yield registry.kind, name, "", _described(registry, name, found)


def _kernels(targets: Registry[Declaration], registry: Registry[NamedKernel]) -> Iterator[Row]:
    kernels = registry.sound()[0]
    for target, declared in targets.sound()[0].items():
        for name, about in declared.kernels.items():
            if isinstance(about, str):
                yield registry.kind, name, f"target {target}", about
        for name, kernel in kernels.items():
            if kernel.target == target:
                yield registry.kind, name, f"target {target}", kernel.summary


def _described(registry: Registry[Any], name: str, found: object) -> str:
    """The first line of the documentation, and the package of what is not our own."""
    origin = registry.origin(name)
    return (getattr(found, "summary", "") or summary(found)) + (f" ({origin})" if origin is not None else "")


def _together(registry: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Names of the same class in one row, the first of them, and the class."""
    names: dict[Any, list[str]] = {}
    for name, cls in registry.items():
        names.setdefault(cls, []).append(name)
    for cls, found in names.items():
        lines = (", ".join(found[i : i + NAMES_A_LINE]) for i in range(0, len(found), NAMES_A_LINE))
        yield ",\n".join(lines), found[0], cls


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
