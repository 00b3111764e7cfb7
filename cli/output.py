"""How results reach the screen: as wide as the terminal, or whole where they go to a file or another program."""

from __future__ import annotations

import os

from rich.console import Console, RenderableType
from rich.measure import Measurement

UNLIMITED = 100_000
"""Columns of a line that no screen ends."""


def show(console: Console, result: RenderableType) -> None:
    """Print a table or a text.

    Without a terminal nothing is folded or abbreviated, unless the variable ``COLUMNS`` says how wide a line may be;
    and no line ends in spaces.
    """
    if console.is_terminal:
        console.print(result)
        return
    if "COLUMNS" not in os.environ:
        free = console.options.update(max_width=UNLIMITED)
        console.width = max(Measurement.get(console, free, result).maximum, 1)
    with console.capture() as captured:
        console.print(result)
    lines = (line.rstrip() for line in captured.get().splitlines())
    console.out("\n".join(lines), highlight=False)
