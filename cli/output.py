"""Where results go: to a folder that is there before any work, and to the screen, a file or another program."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console, RenderableType
from rich.measure import Measurement

from ..ir.errors import ConfigError
from ..ir.files import make_folder

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


@contextmanager
def output_folder(path: Path) -> Generator[Path]:
    """The folder for the results, made before the work that fills it; what was made goes if nothing came of it.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    made = [part for part in (path, *path.parents) if not part.exists()]
    make_folder(path, "--out")
    if not os.access(path, os.W_OK):
        raise ConfigError(f"--out: expected a folder that can be written to, found '{path}'; choose another one")
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            for part in made:
                part.rmdir()
        raise
