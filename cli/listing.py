"""What ``instar passes`` prints: passes, formats, encoders and kernels, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass

from rich.table import Table
from rich.text import Text

SPELLINGS = {"fp": "", "int": ":channel or :g16 to :g256, :asym"}
"""What may follow the name of a format, by the name without its bits."""


def listing() -> Table:
    """One row per pass, format, encoder and kernel: name, options with defaults, first line of its documentation."""
    from ..passes.encoders import ENCODERS
    from ..passes.formats import FORMATS
    from ..passes.registry import PASSES

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "options", "what it does"):
        table.add_column(title, overflow="fold")
    for name, cls in PASSES.items():
        table.add_row("pass", name, Text(", ".join(options(cls))), Text(summary(cls)))
    for name, cls in _together(FORMATS):
        table.add_row("format", name, SPELLINGS.get(name.split(",")[0].rstrip("0123456789"), ""), Text(summary(cls)))
    for name, cls in ENCODERS.items():
        table.add_row("encoder", name, Text(", ".join(options(cls))), Text(summary(cls)))
    for name, target, what in _kernels():
        table.add_row("kernel", name, f"target {target}", Text(what))
    return table


def _together(registry: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Names of the same class in one row."""
    names: dict[object, list[str]] = {}
    for name, cls in registry.items():
        names.setdefault(cls, []).append(name)
    for cls, found in names.items():
        yield ", ".join(found), cls


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
