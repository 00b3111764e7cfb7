"""The report of one compilation: HTML, JSON, a terminal table and an explanation from the same content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .content import content
from .data import ReportData
from .saving import save

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Report:
    """What was decided and why.

    Args:
        data: the values to show.
    """

    data: ReportData

    def __repr__(self) -> str:
        """One line: model, target, bytes, what the layers became."""
        return f"<Report of {self.data.headline()}>"

    def _repr_html_(self) -> str:
        """The table of the terminal, for notebooks."""
        from .notebook import as_html

        return as_html(self.table())

    def to_json(self) -> dict[str, Any]:
        """Everything that the HTML shows, as strict JSON data; infinities and NaN are null."""
        return content(self.data)

    def html(self) -> str:
        """One HTML document with everything inside: no file beside it and no network is needed to read it."""
        from .page import render

        return render(self.to_json())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report atomically, by the suffix of ``path``: ``.html`` or ``.json``.

        Raises:
            ConfigError: another suffix, or the folder does not exist.
        """
        save(path, self.to_json, self.html)

    def table(self, *, every_layer: bool = False) -> RenderableType:
        """The report for a terminal: headline, budgets, the largest layers, warnings and notes.

        Args:
            every_layer: show all layers instead of the ten largest.
        """
        from .terminal import table

        return table(self.to_json(), every_layer=every_layer)

    def explain(self) -> RenderableType:
        """Why each layer became what it is: see :func:`instar.report.explain_plan`."""
        from .explanation import explain

        return explain(self.data.plan)
