"""What ``instar passes`` prints: passes, formats and encoders with their options."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass

from rich.table import Table


def listing() -> Table:
    """One row per pass, format and encoder: name, options with defaults, first line of its documentation."""
    from ..passes.encoders import ENCODERS
    from ..passes.formats import FORMATS

    passes: Mapping[str, type] = importlib.import_module("..compiler", __package__).PASSES
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "name", "options", "what it does"):
        table.add_column(title, overflow="fold")
    for kind, registry in (("pass", passes), ("format", FORMATS), ("encoder", ENCODERS)):
        for name, cls in registry.items():
            table.add_row(kind, name, ", ".join(options(cls)), summary(cls))
    return table


def options(cls: object) -> Iterator[str]:
    """``name=default`` for each option of a pass."""
    if not is_dataclass(cls):
        return
    for item in fields(cls):
        if item.init and item.name != "name":
            yield item.name if item.default is MISSING else f"{item.name}={item.default!r}"


def summary(cls: object) -> str:
    """The first line of the documentation."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]
