"""A report in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from . import words
from .grid import LayerName, open_grid

SHOWN = 10
"""Layers in the short table."""

Content = dict[str, Any]


def table(content: Content, *, every_layer: bool = False) -> RenderableType:
    """Headline, warnings, budgets, latency at each shape, layers and notes."""
    parts: list[RenderableType] = [headline(content["headline"]), Text(content["summary"])]
    parts += [Text(f"warning: {text}", style="bold red") for text in content["warnings"]]
    if content["budgets"]:
        parts.append(budgets(content["budgets"]))
    if content["shapes"]:
        parts.append(shapes(content["shapes"]))
    if content["layers"]:
        parts.append(layers(content["layers"], len(content["layers"]) if every_layer else SHOWN))
        if any(row["sqnr_db"] is not None for row in content["layers"]) and content["sqnr_words"]:
            parts.append(Text(content["sqnr_words"], style="dim"))
    parts += [Text(f"note: {text}", style="yellow") for text in content["notes"]]
    return Group(*_spaced(parts))


def _spaced(parts: list[RenderableType]) -> Iterator[RenderableType]:
    for number, part in enumerate(parts):
        lines = isinstance(part, Text) and number > 0 and isinstance(parts[number - 1], Text)
        yield part if number == 0 or lines else Padding(part, (1, 0, 0, 0))


def headline(head: Content) -> Table:
    """Before and after of what matters most; rows without any value are left out."""
    grid = open_grid(str(head["model"]), ">before", ">after", ">share")
    grid.add_row("size", words.size(head["original_nbytes"]), words.size(head["artifact_nbytes"]), _share(head, "size"))
    after = head["artifact_ms"] if head["artifact_ms"] is not None else head["predicted_ms"]
    if head["original_ms"] is not None or after is not None:
        label = "latency" if head["artifact_ms"] is not None else "latency, predicted"
        before = words.milliseconds(head["original_ms"])
        grid.add_row(label, before, words.milliseconds(after), _share(head, "latency"))
    if head["measured_error"] is not None:
        grid.add_row("output error, measured", "0 %", words.percent(head["measured_error"]), "")
        grid.add_row("output error, predicted", "0 %", words.percent(head["predicted_error"]), "")
    if head["quality_final"] is not None:
        original = head["quality_original"]
        before = words.MISSING if original is None else words.figures(original, 4)
        grid.add_row("quality", before, words.figures(head["quality_final"], 4), "")
    return grid


def _share(head: Content, what: str) -> str:
    return words.percent(head[f"{what}_share"])


def budgets(rows: list[Content]) -> Table:
    """One row per budget."""
    grid = open_grid("budget", ">limit", ">used", ">measured", "what it costs")
    for row in rows:
        limit, used, measured = (words.amount(row["resource"], row[key]) for key in ("limit", "used", "measured"))
        grid.add_row(row["key"], limit, used, measured, Text(_cost(row)))
    return grid


def _cost(row: Content) -> str:
    """The part of the budget's words that says whether it binds."""
    return str(row["words"]).partition("; ")[2]


def shapes(rows: list[Content]) -> Table:
    """One row per shape; the column of bounds only where each shape has one."""
    bounded = any(row["limit_ms"] is not None for row in rows)
    titles = ("latency at", ">weight", ">original", ">predicted", ">measured", ">ratio")
    grid = open_grid(*titles, *([">budget", ""] if bounded else []))
    for row in rows:
        times = (words.milliseconds(row[key]) for key in ("original_ms", "predicted_ms", "artifact_ms"))
        bound = (words.milliseconds(row["limit_ms"]), "over" if row["exceeded"] else "") if bounded else ()
        grid.add_row(row["shape"], words.percent(row["weight"]), *times, words.percent(row["ratio"]), *bound)
    return grid


def layers(rows: list[Content], shown: int) -> Table:
    """The largest layers, the others summed up in the last row."""
    ordered = sorted(rows, key=lambda row: -row["original_nbytes"])
    grid = open_grid("layer", "became", ">before", ">after", ">ms saved", ">error share", ">SQNR")
    for row in ordered[:shown]:
        grid.add_row(*_layer(row))
    rest = ordered[shown:]
    if rest:
        grid.add_section()
        grid.add_row(*_rest(rest), style="dim")
    return grid


def _layer(row: Content) -> tuple[RenderableType, ...]:
    name = LayerName(row["name"])
    became = Text(row["option"])
    sizes = words.size(row["original_nbytes"]), words.size(row["nbytes"])
    latency = words.MISSING if row["saved_ms"] is None else words.figures(row["saved_ms"])
    return name, became, *sizes, latency, words.percent(row["loss_share"]), words.decibels(row["sqnr_db"])


def _rest(rows: list[Content]) -> tuple[str, ...]:
    before, after = (words.size(sum(row[key] for row in rows)) for key in ("original_nbytes", "nbytes"))
    known = [row["saved_ms"] for row in rows if row["saved_ms"] is not None]
    latency = words.figures(sum(known)) if known else words.MISSING
    shares = [row["loss_share"] for row in rows if row["loss_share"] is not None]
    label = f"{len(rows):,} smaller layer{'s' if len(rows) > 1 else ''}"
    return label, "", before, after, latency, words.percent(sum(shares)) if shares else words.MISSING, ""


BAR = 32
"""Width of the longest bar in the table of a curve."""


def curve(content: Content) -> RenderableType:
    """Points by increasing size; the bars have the length of the loss's logarithm."""
    grid = open_grid(">size", ">latency", ">operations", ">predicted loss", "(log)", "")
    lengths = _bars([p["predicted_loss"] or 0.0 for p in content["points"]])
    for point, length in zip(content["points"], lengths, strict=True):
        cells = words.size(point["nbytes"]), words.milliseconds(point["latency_ms"]), words.amount("ops", point["bops"])
        grid.add_row(*cells, words.loss(point["predicted_loss"]), "█" * length, "chosen" if point["chosen"] else "")
    title = Text(f"{content['model']} for {content['target']}: {content['summary']}")
    return Group(title, Text(), grid, *(Text(f"note: {note}", style="yellow") for note in content["notes"]))


def _bars(losses: list[float]) -> list[int]:
    """Lengths from 1, for the smallest loss that is one, to :data:`BAR`, for the largest; losses span decades."""
    logs = [math.log(loss) for loss in losses if loss > 0]
    low, span = min(logs, default=0.0), max(logs, default=0.0) - min(logs, default=0.0)
    return [(1 + round((BAR - 1) * (math.log(x) - low) / span) if span else BAR) if x > 0 else 0 for x in losses]
