"""The comparison as Markdown: one table per network."""

from __future__ import annotations

from collections.abc import Mapping

from .networks import METRICS, NAMES, TASKS
from .store import Row, table


def render(rows: Mapping[str, Row]) -> str:
    """A table per network, and below it what failed and why."""
    parts: list[str] = []
    for name in NAMES:
        own = {k.partition("/")[2]: row for k, row in rows.items() if k.startswith(f"{name}/")}
        if own:
            parts += [f"## {name}", _network(name, own), *_remarks(own)]
    return "\n\n".join(parts)


def _network(name: str, rows: Mapping[str, Row]) -> str:
    shapes = list(dict.fromkeys(shape for row in rows.values() for shape in row.get("ms", {})))
    columns = ["candidate", "MB", "bits/parameter", METRICS[TASKS[name]], "drop", "output error"]
    for shape in shapes:
        columns += [f"ms {shape}", "x fp32", "x dynamic"]
    columns += ["made in s", "required", "met"]
    return table(columns, [[candidate, *_cells(row, shapes)] for candidate, row in rows.items()])


def _cells(row: Row, shapes: list[str]) -> list[object]:
    numbers = [row["nbytes"] / 1e6 if "nbytes" in row else None]
    numbers += [row.get(key) for key in ("bits_per_parameter", "metric", "drop", "output_error")]
    for shape in shapes:
        numbers += [row.get(key, {}).get(shape) for key in ("ms", "vs_fp32", "vs_dynamic")]
    return [*numbers, row.get("compile_s"), row.get("requirement"), row.get("passed")]


def _remarks(rows: Mapping[str, Row]) -> list[str]:
    lines: list[str] = []
    for candidate, row in rows.items():
        if "error" in row:
            lines.append(f"* {candidate}: {' '.join(str(row['error']).split())}")
        elif row.get("failed"):
            lines.append(f"* {candidate} misses: {'; '.join(row['failed'])}")
        if "chosen" in row:
            layers = f"{row['layer_bits']:.2f} bits per layer weight: {row['chosen']}"
            lines.append(f"* {candidate}: budget {row['budget']}; {layers}")
    return ["\n".join(lines)] if lines else []
