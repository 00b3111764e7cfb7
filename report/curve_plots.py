"""Plots of plans: best plans over a budget, the search for the smallest model, predicted against measured loss."""

from __future__ import annotations

from collections.abc import Sequence

from . import words
from .plotting import (
    ACCENT,
    ALARM,
    LEGEND,
    MUTED,
    Bar,
    Content,
    Figure,
    axis,
    decades,
    escape,
    horizontal,
    layout,
    line,
    points,
)

AXES = {"size": ("nbytes", "MB", 1e6), "latency": ("latency_ms", "ms", 1.0), "ops": ("bops", "GBOPS", 1e9)}
"""Resource -> its field in a point, the unit on the axis, and how many of the field's units that is."""


def pareto(rows: Sequence[Content], resource: str = "size", *, as_error: bool = False) -> Figure | None:
    """Predicted loss against a budget, the chosen plan marked. Points without the budget's value are left out.

    ``as_error`` shows the square root in percent: the error of the outputs, where the loss is its square.
    """
    if as_error:
        rows = [{**p, "predicted_loss": _percent(p["predicted_loss"])} for p in rows]
    key, title, scale = AXES[resource]
    known = sorted((p for p in rows if p[key] is not None and p["predicted_loss"] is not None), key=lambda p: p[key])
    if not known:
        return None
    best, chosen = ([p for p in known if p["chosen"] is picked] for picked in (False, True))
    what = "error {} %" if as_error else "loss {}"
    data = [_curve(best, key, scale, f"best plan for this {resource}", ACCENT, 7, "lines+markers", what)]
    data += [_curve(chosen, key, scale, "chosen plan", ALARM, 14, "markers", what)] if chosen else []
    values = [p["predicted_loss"] for p in known if p["predicted_loss"] > 0]
    title_of_losses = "predicted error, %" if as_error else "predicted loss"
    y = axis(title_of_losses, **(decades(values) if len(values) == len(known) else {"rangemode": "tozero"}))
    return {"data": data, "layout": layout(320, xaxis=axis(title, rangemode="tozero"), yaxis=y)}


def _percent(loss: float | None) -> float | None:
    return None if loss is None else 100.0 * max(loss, 0.0) ** 0.5


def _curve(
    rows: Sequence[Content], key: str, scale: float, name: str, fill: str, width: int, mode: str, what: str
) -> Figure:
    texts: list[str] = []
    for row in rows:
        time = "" if row["latency_ms"] is None else f"<br>{words.milliseconds(row['latency_ms'])}"
        texts.append(
            f"<b>{name}</b><br>{words.size(row['nbytes'])}{time}<br>{what.format(words.loss(row['predicted_loss']))}"
        )
    return points([r[key] / scale for r in rows], [r["predicted_loss"] for r in rows], fill, width, texts, mode)


def quality(rows: Sequence[Content], original: float | None) -> Figure | None:
    """The user's metric against size for every model that the search tried."""
    known = [row for row in rows if row["quality"] is not None]
    if not known:
        return None
    groups = ((True, ACCENT, "within what you allow"), (False, ALARM, "worse than you allow"))
    data = [_tried([r for r in known if r["accepted"] is accepted], fill, name) for accepted, fill, name in groups]
    lines = [] if original is None else [line(0, original, 1, original, xref="paper")]
    shared = layout(320, xaxis=axis("MB"), yaxis=axis("your metric"), showlegend=True, legend=LEGEND, shapes=lines)
    return {"data": data, "layout": shared | {"margin": {"l": 56, "r": 16, "t": 30, "b": 44}}}


def _tried(rows: Sequence[Content], fill: str, name: str) -> Figure:
    texts = [f"<b>{name}</b><br>{words.size(r['nbytes'])}<br>{words.figures(r['quality'], 5)}" for r in rows]
    return {**points([r["nbytes"] / 1e6 for r in rows], [r["quality"] for r in rows], fill, 10, texts), "name": name}


def losses(pairs: Content) -> Figure | None:
    """Measured against predicted loss on logarithmic axes; on the dotted line they are equal.

    None without random plans: one point says no more than its two numbers.
    """
    if not pairs["random"]:
        return None
    groups = ((pairs["random"], MUTED, 8), ([pairs["chosen"]] if pairs["chosen"] else [], ALARM, 14))
    usable = [([p for p in group if _positive(p)], fill, width) for group, fill, width in groups]
    values = [p[key] for group, _, _ in usable for p in group for key in ("predicted", "measured")]
    if not values:
        return None
    data = [
        points([p["predicted"] for p in group], [p["measured"] for p in group], fill, width, [_pair(p) for p in group])
        for group, fill, width in usable
        if group
    ]
    x, y = (axis(f"{name} loss", **decades(values)) for name in ("predicted", "measured"))
    equal = line(min(values), min(values), max(values), max(values))
    return {"data": data, "layout": layout(340, xaxis=x, yaxis=y, shapes=[equal])}


def _positive(pair: Content) -> bool:
    return (pair["predicted"] or 0) > 0 and (pair["measured"] or 0) > 0


def _pair(pair: Content) -> str:
    numbers = f"predicted {words.loss(pair['predicted'])}<br>measured {words.loss(pair['measured'])}"
    size = f"<br>{words.size(pair['nbytes'])}" if pair["nbytes"] else ""
    return f"<b>{escape(pair['label'])}</b><br>{numbers}{size}"


def times(rows: Sequence[Content]) -> Figure | None:
    """Seconds per stage or pass, in the order in which they ran."""
    if not rows:
        return None
    bars = [
        Bar(
            r["name"],
            r["seconds"],
            words.seconds(r["seconds"]),
            f"<b>{escape(r['name'])}</b><br>{words.seconds(r['seconds'])}",
        )
        for r in rows
    ]
    return horizontal(bars, "seconds")
