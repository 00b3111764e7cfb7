"""What a notebook shows for a report: the terminal's table as HTML."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

WIDTH = 120
"""Columns of the table."""

_FORMAT = '<pre style="line-height:normal;overflow-x:auto">{code}</pre>'


def as_html(content: RenderableType) -> str:
    """Something rich can print as an HTML element, its styles inside."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_jupyter=False)
    console.print(content)
    return console.export_html(inline_styles=True, code_format=_FORMAT)
