"""What tables in the terminal share: an open grid, and names of layers that fit it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from . import words

NARROW = 24
"""Characters that the name of a layer keeps however narrow the terminal is."""


def open_grid(*columns: str) -> Table:
    """An open table; ``>`` before a title aligns its column to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        table.add_column(Text(column.removeprefix(">")), justify="right" if right else "left", overflow="fold")
    return table


@dataclass(frozen=True)
class LayerName:
    """The name of a layer: whole where there is room, with its first parts abbreviated where there is not."""

    name: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line as wide as the column allows."""
        yield Text(words.shorten(self.name, options.max_width))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From what it takes abbreviated to its whole length."""
        return Measurement(min(len(self.name), NARROW), len(self.name)).clamp(max_width=options.max_width)
