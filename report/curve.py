"""A swept budget: the best plan for each of several limits, as HTML, JSON and a terminal table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words
from .content import plain
from .data import ParetoPoint
from .saving import save

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Curve:
    """Best plans over one budget.

    Attributes:
        model: name of the model.
        target: name of the target.
        resource: the budget that was swept: size, latency or ops.
        points: one per plan, in any order.
        notes: what a user should know.
    """

    model: str
    target: str
    resource: str
    points: tuple[ParetoPoint, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything that the HTML shows, as strict JSON data; points by increasing size."""
        ordered = sorted(self.points, key=lambda p: (p.nbytes, -p.predicted_loss))
        shown = {"model": self.model, "target": self.target, "resource": self.resource, "summary": self.summary}
        return {"instar_curve": 1, **shown, "points": plain(ordered), "notes": list(self.notes)}

    @property
    def summary(self) -> str:
        """The curve in words."""
        if not self.points:
            return "No budget could be met."
        found = sorted(self.points, key=lambda p: p.nbytes)
        small, large = found[0], found[-1]
        return (
            f"{words.plural(len(found), 'plan')} from {words.size(small.nbytes)} with a predicted loss of "
            f"{words.loss(small.predicted_loss)} to {words.size(large.nbytes)} with {words.loss(large.predicted_loss)}."
        )

    def html(self) -> str:
        """One HTML document with everything inside."""
        from .curve_plots import pareto
        from .page import document

        content = self.to_json()
        figure = pareto(content["points"], self.resource)
        return document("curve.html", content, {"pareto": figure} if figure is not None else {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the curve atomically, by the suffix of ``path``: ``.html`` or ``.json``.

        Raises:
            ConfigError: another suffix, or the folder does not exist.
        """
        save(path, self.to_json, self.html)

    def table(self) -> RenderableType:
        """The curve for a terminal."""
        from .terminal import curve

        return curve(self.to_json())
