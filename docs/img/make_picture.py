"""Draws the picture of README as SVG: ``python docs/img/make_picture.py``.

It shows the results of the benchmarks where there are any, else ``minilm.json`` of ``examples/size_curve.py``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
OUTPUT = HERE / "minilm.svg"

INSTAR = "instar"
COLOURS = {INSTAR: "#0f766e", "one format for all layers": "#9ca3af", "other tools": "#c2410c"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 24, 44, 52
LARGEST_ERROR = 1.0
"""A model whose outputs are off by more than their own length is broken: it is not drawn."""


@dataclass(frozen=True)
class Point:
    """One model file."""

    series: str
    label: str
    mb: float
    error: float


@dataclass(frozen=True)
class Scale:
    """Logarithmic on both axes, from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def main() -> None:
    """Draw."""
    about, points = from_benchmarks() or from_file(HERE / "minilm.json")
    OUTPUT.write_text(draw(about, points), encoding="utf-8")


def from_benchmarks() -> tuple[str, list[Point]] | None:
    """Plans of the allocation, uniform plans and other tools, all on the benchmark's evaluation data."""
    if not all((RESULTS / name).exists() for name in ("compare.json", "plans.json")):
        return None
    points: list[Point] = []
    for key, row in rows("plans.json").items():
        what = key.partition("/")[2]
        for plan, numbers in row["plans"].items():
            series = {"instar": INSTAR, "uniform": "one format for all layers"}.get(plan)
            if series is not None:
                label = what.removeprefix("uniform ") if plan == "uniform" else ""
                points.append(Point(series, label, numbers["nbytes"] / 1e6, numbers["error"]))
    for key, row in rows("compare.json").items():
        name = key.partition("/")[2]
        if name.startswith("ort ") and "output_error" in row:
            points.append(Point("other tools", name, row["nbytes"] / 1e6, row["output_error"]))
    return "all-MiniLM-L6-v2; error of 512 held-out sentence vectors", points


def rows(name: str) -> dict[str, Any]:
    """Rows of MiniLM."""
    found = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
    return {key: row for key, row in found.items() if key.startswith("minilm/")}


def from_file(path: Path) -> tuple[str, list[Point]]:
    """What ``measure_minilm.py`` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["about"], [Point(**point) for point in found["points"]]


def draw(about: str, points: list[Point]) -> str:
    """The picture."""
    shown = sorted((p for p in points if 0 < p.error <= LARGEST_ERROR), key=lambda p: p.mb)
    x = Scale(0.9 * min(p.mb for p in shown), 1.25 * max(p.mb for p in shown), LEFT, WIDTH - RIGHT)
    y = Scale(0.8 * min(p.error for p in shown), 1.2 * max(p.error for p in shown), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 22, "Size of the model against the error of its outputs: lower left is better", weight="600"),
        *grid(x, y),
        *(series(name, [p for p in shown if p.series == name], x, y) for name in COLOURS),
        *legend([name for name in COLOURS if any(p.series == name for p in shown)]),
        text(WIDTH - RIGHT, HEIGHT - 12, f"{about}; MB, both axes logarithmic", anchor="end", fill="#6b7280", size=12),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def grid(x: Scale, y: Scale) -> list[str]:
    """Lines and numbers of both axes."""
    parts: list[str] = []
    for value in (5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 90):
        if x.low <= value <= x.high:
            parts.append(line(x(value), TOP, x(value), HEIGHT - BOTTOM))
            parts.append(text(x(value), HEIGHT - BOTTOM + 18, f"{value} MB", anchor="middle", fill="#6b7280"))
    for value in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0):
        if y.low <= value <= y.high:
            parts.append(line(LEFT, y(value), WIDTH - RIGHT, y(value)))
            parts.append(text(LEFT - 8, y(value) + 4, f"{100 * value:g} %", anchor="end", fill="#6b7280"))
    return parts


def series(name: str, points: list[Point], x: Scale, y: Scale) -> str:
    """Dots with labels; the allocation's plans are joined."""
    colour = COLOURS[name]
    parts: list[str] = []
    if name == INSTAR and points:
        path = " ".join(f"{x(p.mb):.1f},{y(p.error):.1f}" for p in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
    for point in points:
        parts.append(f'<circle cx="{x(point.mb):.1f}" cy="{y(point.error):.1f}" r="4.5" fill="{colour}"/>')
        if point.label:
            place = x(point.mb) + 8, y(point.error) - 6
            parts.append(
                text(*place, point.label, fill=colour if name != "one format for all layers" else "#6b7280", size=11)
            )
    return "\n".join(parts)


def legend(names: list[str]) -> list[str]:
    """One entry per series."""
    parts: list[str] = []
    for number, name in enumerate(names):
        top = TOP + 16 + 20 * number
        parts.append(f'<circle cx="{WIDTH - 210}" cy="{top - 4}" r="4.5" fill="{COLOURS[name]}"/>')
        parts.append(text(WIDTH - 198, top, f"{name}: a format per layer" if name == INSTAR else name))
    return parts


def line(x0: float, y0: float, x1: float, y1: float) -> str:
    """A line of the grid."""
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#e5e7eb"/>'


def text(
    x: float, y: float, words: str, anchor: str = "start", fill: str = "#111827", size: int = 13, weight: str = "400"
) -> str:
    """A label."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{fill}" font-size="{size}" font-weight="{weight}">{escape(words)}</text>'


if __name__ == "__main__":
    main()
