"""What a terminal shows."""

from __future__ import annotations

from rich.console import Console, RenderableType


def terminal(renderable: RenderableType, width: int = 140) -> str:
    """The text on a terminal of a width."""
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
