"""Predicted against confirmed, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..report import words
from ..report.grid import open_grid

if TYPE_CHECKING:
    from .confirm import Confirmed


def table(confirmed: Confirmed) -> RenderableType:
    """One row for every shape; latencies are shares of the original's where that was measured."""
    found = confirmed.found
    grid = open_grid("inputs", ">predicted", ">confirmed", ">ratio", ">of the original", ">spread", ">outputs apart")
    for shape in found.shapes:
        known, base, measured = shape.predicted.artifact_ms, shape.predicted.original_ms, shape.median_ms
        grid.add_row(
            Text(shape.predicted.sizes),
            "" if known is None else words.milliseconds(known),
            "does not run" if measured is None else words.milliseconds(measured),
            "" if known is None or measured is None else f"{measured / known:.2f}",
            "" if base is None or measured is None else words.percent(measured / base),
            "" if shape.spread is None else words.percent(shape.spread),
            "" if shape.difference is None else f"{shape.difference:.2g}",
        )
    size = f"{found.promise.model}: {words.size(found.nbytes)} there, {words.size(found.promise.nbytes)} promised"
    where = (
        f"{found.runtime}, {found.cpu}, {words.plural(found.threads, 'thread')}; predicted by {found.promise.source}"
    )
    problems = [Text(f"not as promised: {line}", style="red") for line in confirmed.problems]
    slower = [Text(line, style="yellow") for line in found.slower]
    return Group(grid, Text(), Text(size), Text(where, style="dim"), *problems, *slower)
