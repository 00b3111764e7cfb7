"""Progress of long work: one line that spins while the error output is a terminal, nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

Report = Callable[[str, str], None]


@contextmanager
def progress(console: Console) -> Generator[Report | None]:
    """What ``compile(progress=...)`` takes; ``None`` where nobody watches."""
    if not console.is_terminal:
        yield None
        return
    with console.status("starting") as status:

        def report(stage: str, what: str) -> None:
            status.update(f"[bold]{escape(stage)}[/] {escape(what)}")

        yield report
