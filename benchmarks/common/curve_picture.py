"""Curves as SVG, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from instar.ir.files import atomic_write_text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 72, 24, 44, 44
TICKS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Series:
    """A line: its name, its colour, its points ``(x, y)``, all positive."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels."""
        return self.start + math.log(value / self.low) / math.log(self.high / self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Values at lines of the grid."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [t * 10.0**d for d in decades for t in TICKS if self.low <= t * 10.0**d <= self.high]


def write_picture(path: Path, title: str, lines: Sequence[Series]) -> None:
    """Write the picture; nothing where no line has a point."""
    xs = [x for line in lines for x, _ in line.points if x > 0]
    ys = [y for line in lines for _, y in line.points if y > 0]
    if not xs or not ys:
        return
    x = Axis(0.9 * min(xs), 1.1 * max(xs), LEFT, WIDTH - RIGHT)
    y = Axis(0.8 * min(ys), 1.25 * max(ys), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 24, title),
        *(_grid(x.ticks(), y.ticks(), x, y)),
        *(_line(line, x, y) for line in lines),
        *(_legend(number, line) for number, line in enumerate(lines)),
        "</svg>",
    ]
    atomic_write_text(path, "\n".join(parts) + "\n")


def _grid(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis) -> list[str]:
    rule = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#e5e7eb"/>'
    found = [rule.format(x(v), TOP, x(v), HEIGHT - BOTTOM) + _text(x(v), HEIGHT - 18, f"{v:g}", "middle") for v in xs]
    return found + [
        rule.format(LEFT, y(v), WIDTH - RIGHT, y(v)) + _text(LEFT - 6, y(v) + 4, f"{v:g}", "end") for v in ys
    ]


def _line(line: Series, x: Axis, y: Axis) -> str:
    places = [(x(a), y(b)) for a, b in line.points if a > 0 and b > 0]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{line.colour}"/>' for a, b in places)
    return f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>{dots}'


def _legend(number: int, line: Series) -> str:
    top = TOP + 18 * (number + 1)
    mark = f'<circle cx="{WIDTH - 150}" cy="{top - 4}" r="4" fill="{line.colour}"/>'
    return mark + _text(WIDTH - 140, top, line.name)


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="#374151">{escape(words)}</text>'
