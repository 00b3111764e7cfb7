"""A benchmark in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..report import words
from ..report.grid import open_grid

if TYPE_CHECKING:
    from .bench import Bench


def table(bench: Bench) -> RenderableType:
    """One row per model."""
    grid = open_grid("model", ">size", ">", ">latency", ">", ">output error")
    base = bench.baseline
    for row in bench.rows:
        size, latency = (words.percent(share) for share in (row.nbytes / base.nbytes, row.latency_ms / base.latency_ms))
        numbers = words.size(row.nbytes), size, words.milliseconds(row.latency_ms), latency, words.percent(row.error)
        grid.add_row(Text(row.name), *numbers)
    threads, runs = words.plural(bench.threads, "thread"), words.plural(bench.repeats, "run")
    runtimes = ", ".join(dict.fromkeys(row.runtime for row in bench.rows))
    how = (
        f"{runtimes}; median of {runs} taking turns, {threads}; latency and output error on the example inputs "
        f"{', '.join(bench.inputs)}"
    )
    return Group(grid, Text(), Text(how, style="dim"), *(Text(f"note: {note}", style="yellow") for note in bench.notes))
