"""What the plots of a report share: colours, axes, bars and points as plain Plotly data."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import words

Content = Mapping[str, Any]
Figure = dict[str, Any]

INK, MUTED, GRID, BEFORE, ACCENT, ALARM = "#1f2933", "#66727f", "#e4e8ec", "#d5dbe1", "#1f5fa8", "#c2410c"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
COLOURS = {
    1: "#581c0c",
    2: "#8f1d1d",
    3: "#c2410c",
    4: "#f0a020",
    5: "#93a83c",
    6: "#2a9d84",
    7: "#3d8fc4",
    8: "#1f5fa8",
    16: "#8b97a3",
    32: BEFORE,
}
"""Bits of a weight -> colour: the fewer, the warmer; float is grey."""

LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
NAME_WIDTH = 32
ROW_HEIGHT = 20


def colour(bits: int) -> str:
    """The colour of the nearest width that has one."""
    return COLOURS[min(COLOURS, key=lambda known: (abs(known - bits), known))]


def escape(text: str) -> str:
    """Plotly reads a little HTML in labels; a layer's name is none."""
    return html.escape(text, quote=False)


def layout(height: int, **more: Any) -> Figure:
    """A quiet layout of a fixed height in pixels."""
    return {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 8, "b": 44},
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "bordercolor": MUTED, "font": {"color": INK}},
        "showlegend": False,
        **more,
    }


def axis(title: str = "", **more: Any) -> Figure:
    """A quiet axis."""
    quiet = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True, "exponentformat": "power"}
    return {"title": {"text": title}, **quiet, **more}


def decades(values: Iterable[float]) -> Figure:
    """A logarithmic axis over positive values with a little room; ticks within a decade where it spans few."""
    known = [math.log10(v) for v in values]
    low, high = min(known), max(known)
    room = max(0.05 * (high - low), 0.05)
    return {"type": "log", "range": [low - room, high + room], "dtick": 1 if high - low > 1.5 else "D2"}


def points(
    x: Sequence[float], y: Sequence[float], fill: str, width: int, texts: Sequence[str], mode: str = "markers"
) -> Figure:
    """Dots with what they say when pointed at."""
    return {
        "type": "scatter",
        "mode": mode,
        "x": x,
        "y": y,
        "marker": {"color": fill, "size": width, "line": {"color": "#ffffff", "width": 1}},
        "line": {"color": fill, "width": 2},
        "hovertext": texts,
        "hoverinfo": "text",
    }


def line(x0: float, y0: float, x1: float, y1: float, **more: Any) -> Figure:
    """A dotted line for comparison."""
    stroke = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x0, "y0": y0, "x1": x1, "y1": y1, "line": stroke, **more}


@dataclass(frozen=True)
class Bar:
    """A horizontal bar.

    Attributes:
        name: on the axis, shortened where it is long.
        value: its length.
        label: the number at its end.
        hover: what it says when pointed at; may hold Plotly's line breaks, so names in it must be escaped.
        fill: its colour.
        behind: length of a grey bar behind it, None for none.
    """

    name: str
    value: float
    label: str
    hover: str
    fill: str = ACCENT
    behind: float | None = None


def horizontal(bars: Sequence[Bar], title: str) -> Figure:
    """Bars from top to bottom; their places are numbers, since two shortened names may be alike."""
    longest = max(max(bar.value, bar.behind or 0.0) for bar in bars)
    front = _trace(bars, [bar.value for bar in bars], [bar.fill for bar in bars])
    behind = [bar.behind or 0.0 for bar in bars]
    back = _trace(bars, [max(v, b) for v, b in zip(front["x"], behind, strict=True)], "rgba(0,0,0,0)")
    back |= {"text": [bar.label for bar in bars], "textposition": "outside", "textfont": {"size": 11, "color": MUTED}}
    back |= {"cliponaxis": False, "constraintext": "none"}
    data = [back, front]
    if any(behind):
        data = [back, _trace(bars, behind, BEFORE), front | {"width": 0.5}]
    names = [escape(name) for name in words.shorten_all([bar.name for bar in bars], NAME_WIDTH)]
    y = axis(showgrid=False, range=[len(bars) - 0.5, -0.5], tickvals=list(range(len(bars))), ticktext=names)
    room = 1.1 + 0.035 * max(len(bar.label) for bar in bars)
    x = axis(title, range=[0, room * longest or 1.0])
    return {
        "data": data,
        "layout": layout(64 + ROW_HEIGHT * len(bars), xaxis=x, yaxis=y, bargap=0.25, barmode="overlay"),
    }


def _trace(bars: Sequence[Bar], values: Sequence[float], fill: str | Sequence[str]) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": list(range(len(bars))),
        "marker": {"color": fill},
        "hovertext": [bar.hover for bar in bars],
        "hoverinfo": "text",
    }
