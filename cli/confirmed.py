"""What a device answered to a check of a compiled model: a table, and the report of the compilation with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from .output import show

if TYPE_CHECKING:
    from ..tools.confirm import Confirmed

FAILURE = 1


def show_confirmed(console: Console, confirmed: Confirmed, report: Path | None) -> None:
    """Prints the table; writes the report where a file is given; exit code 1 where something is not as promised.

    Raises:
        ConfigError: the report cannot be written, or the bundle lacks it.
    """
    if report is not None:
        confirmed.save_report(report)
    show(console, confirmed.table())
    if report is not None:
        console.print(f"wrote {report}", highlight=False)
    if confirmed.problems:
        raise typer.Exit(FAILURE)
