"""The plots of a report as plain Plotly data, from the report's content."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from . import words

Content = dict[str, Any]
Figure = dict[str, Any]

TOP = 20
"""Bars in a plot of layers; the others are one bar."""

NAMED = 64
"""Up to so many layers the strip along the network has names on its axis."""

INK, MUTED, GRID, BEFORE, ACCENT, ALARM = "#1f2933", "#66727f", "#e4e8ec", "#d5dbe1", "#1f5fa8", "#c2410c"
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


def figures(content: Content) -> dict[str, Figure]:
    """Name of a plot -> its Plotly figure. Plots without any data are left out."""
    layers = content["layers"]
    drawn: dict[str, Figure | None] = {
        "strip": strip(layers),
        "sizes": sizes(layers),
        "errors": errors(layers),
        "pareto": pareto(content["pareto"]),
        "quality": quality(content["quality_search"], content["headline"]["quality_original"]),
        "losses": losses(content["losses"]),
        "stages": times("seconds", content["stages"]),
        "passes": times("seconds", content["passes"]),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def colour(bits: int) -> str:
    """The colour of the nearest width that has one."""
    return COLOURS[min(COLOURS, key=lambda known: (abs(known - bits), known))]


def escape(text: str) -> str:
    """Plotly reads a little HTML in labels; a layer's name is none."""
    return html.escape(text, quote=False)


def layout(height: int, **more: Any) -> Content:
    """What all plots share."""
    return {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 8, "b": 44},
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
            "size": 12,
            "color": INK,
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "bordercolor": MUTED, "font": {"color": INK}},
        "showlegend": False,
        **more,
    }


def axis(title: str = "", **more: Any) -> Content:
    """A quiet axis."""
    return {
        "title": {"text": title},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "automargin": True,
        **more,
    }


def hover(layer: Content) -> str:
    """What a layer's bar says."""
    shape = " x ".join(str(n) for n in layer["shape"])
    lines = [
        f"<b>{escape(layer['name'])}</b>",
        f"{layer['kind']} {shape}",
        escape(layer["option"]),
        f"{words.size(layer['original_nbytes'])} → {words.size(layer['nbytes'])}",
        f"share of the predicted loss: {words.percent(layer['loss_share'])}",
    ]
    return "<br>".join(lines)


def strip(layers: Sequence[Content]) -> Figure | None:
    """One cell per layer along the network, coloured by the bits of its format."""
    if not layers:
        return None
    data = [_cells(layers, bits) for bits in sorted({layer["bits"] for layer in layers})]
    named = len(layers) <= NAMED
    ticks: Content = {
        "tickvals": list(range(len(layers))),
        "ticktext": [escape(words.shorten(n["name"], 24)) for n in layers],
    }
    x = axis("" if named else "position in the network", showgrid=False, range=[-0.5, len(layers) - 0.5])
    x |= ticks | {"tickangle": -55, "tickfont": {"size": 10}} if named else {}
    shared = layout(250 if named else 150, barmode="overlay", bargap=0.06 if named else 0.0, xaxis=x, showlegend=True)
    shared |= {"yaxis": {"visible": False, "range": [0, 1], "fixedrange": True}}
    shared |= {"legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}}
    return {"data": data, "layout": shared | {"margin": {"l": 8, "r": 8, "t": 30, "b": 44}}}


def _cells(layers: Sequence[Content], bits: int) -> Content:
    mine = [(i, layer) for i, layer in enumerate(layers) if layer["bits"] == bits]
    formats = list(dict.fromkeys(layer["format"] for _, layer in mine))
    label = ", ".join(formats[:3]) + ("…" if len(formats) > 3 else "")
    text = [str(bits)] * len(mine) if len(layers) <= NAMED else None
    return {
        **_bars([1] * len(mine), [i for i, _ in mine], colour(bits), [hover(layer) for _, layer in mine], turned=False),
        "name": escape(f"{words.plural(bits, 'bit')}: {label} ({words.plural(len(mine), 'layer')})"),
        "text": text,
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
    }


def _bars(
    values: Sequence[Any], names: Sequence[Any], fill: Any, texts: Sequence[str], *, turned: bool = True
) -> Content:
    along, across = ("x", "y") if turned else ("y", "x")
    return {
        "type": "bar",
        "orientation": "h" if turned else "v",
        along: values,
        across: names,
        "marker": {"color": fill},
        "hovertext": texts,
        "hoverinfo": "text",
    }


def sizes(layers: Sequence[Content]) -> Figure | None:
    """Bytes before (grey) and after (coloured by bits), largest first."""
    if not layers:
        return None
    top, rest = _largest(layers, "original_nbytes")
    before = [layer["original_nbytes"] / 1e6 for layer in top]
    after = [layer["nbytes"] / 1e6 for layer in top]
    fills, texts, names = [colour(layer["bits"]) for layer in top], [hover(n) for n in top], _names(top)
    if rest:
        before.append(sum(layer["original_nbytes"] for layer in rest) / 1e6)
        after.append(sum(layer["nbytes"] for layer in rest) / 1e6)
        fills.append(MUTED)
        texts.append(f"{_others(rest)}<br>{words.size(before[-1] * 1e6)} → {words.size(after[-1] * 1e6)}")
        names.append(_others(rest))
    places = list(range(len(names)))
    data = [_bars(before, places, BEFORE, texts), _bars(after, places, fills, texts)]
    data[1]["width"] = 0.5
    return {"data": data, "layout": _rows(names, "MB before (grey) and after (coloured)", barmode="overlay")}


def errors(layers: Sequence[Content]) -> Figure | None:
    """Share of the predicted loss per layer, largest first; None where nothing is lost."""
    lossy = [layer for layer in layers if layer["loss_share"]]
    if not lossy:
        return None
    top, rest = _largest(lossy, "loss_share")
    values = [100 * layer["loss_share"] for layer in top]
    fills, texts, names = [colour(layer["bits"]) for layer in top], [hover(n) for n in top], _names(top)
    if rest:
        values.append(100 * sum(layer["loss_share"] for layer in rest))
        fills.append(MUTED)
        texts.append(f"{_others(rest)}<br>{words.percent(values[-1] / 100)}")
        names.append(_others(rest))
    return {
        "data": [_bars(values, list(range(len(names))), fills, texts)],
        "layout": _rows(names, "% of the predicted loss"),
    }


def _largest(layers: Iterable[Content], key: str) -> tuple[list[Content], list[Content]]:
    ordered = sorted(layers, key=lambda layer: -layer[key])
    return (ordered, []) if len(ordered) <= TOP + 1 else (ordered[:TOP], ordered[TOP:])


def _names(layers: Iterable[Content]) -> list[str]:
    return [words.shorten(layer["name"], 30) for layer in layers]


def _others(rest: Sequence[Content]) -> str:
    return f"{len(rest):,} other layers"


def _rows(names: Sequence[str], title: str, **more: Any) -> Content:
    """The layout of horizontal bars, first on top; places are numbers, since two shortened names may be alike."""
    ticks: Content = {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(n) for n in names],
        "tickfont": {"size": 11},
    }
    y = axis(showgrid=False, range=[len(names) - 0.5, -0.5], **ticks)
    return layout(64 + 20 * len(names), xaxis=axis(title, rangemode="tozero"), yaxis=y, bargap=0.25, **more)


def pareto(points: Sequence[Content]) -> Figure | None:
    """Predicted loss against size, the chosen plan marked."""
    if not points:
        return None
    ordered = sorted(points, key=lambda p: p["nbytes"])
    chosen = [p for p in ordered if p["chosen"]]
    data = [_curve(ordered, "best plan", ACCENT, 7, "lines+markers")]
    data += [_curve(chosen, "chosen", ALARM, 14, "markers")] if chosen else []
    positive = all((p["predicted_loss"] or 0) > 0 for p in ordered)
    y = (
        axis("predicted loss", type="log", **_decades([p["predicted_loss"] for p in ordered]))
        if positive
        else axis("predicted loss")
    )
    return {"data": data, "layout": layout(320, xaxis=axis("MB", rangemode="tozero"), yaxis=y)}


def _curve(points: Sequence[Content], name: str, fill: str, width: int, mode: str) -> Content:
    texts: list[str] = []
    for point in points:
        time = "" if point["latency_ms"] is None else f"<br>{words.milliseconds(point['latency_ms'])}"
        texts.append(
            f"<b>{name}</b><br>{words.size(point['nbytes'])}<br>loss {words.loss(point['predicted_loss'])}{time}"
        )
    return _points([p["nbytes"] / 1e6 for p in points], [p["predicted_loss"] for p in points], fill, width, texts, mode)


def _points(
    x: Sequence[float], y: Sequence[float], fill: str, width: int, texts: Sequence[str], mode: str = "markers"
) -> Content:
    marker = {"color": fill, "size": width, "line": {"color": "#ffffff", "width": 1}}
    return {
        "type": "scatter",
        "mode": mode,
        "x": x,
        "y": y,
        "marker": marker,
        "line": {"color": fill, "width": 2},
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _decades(values: Iterable[float]) -> Content:
    """A logarithmic axis over the values with a little room; ticks at 1, 2 and 5 where it spans little."""
    known = [v for v in values if v and v > 0]
    low, high = math.log10(min(known)), math.log10(max(known))
    room = max(0.05 * (high - low), 0.05)
    span = high - low
    return {"range": [low - room, high + room], "dtick": 1 if span > 2 else "D2"}


def quality(points: Sequence[Content], original: float | None) -> Figure | None:
    """The user's metric against size for every model the search tried."""
    if not points:
        return None
    data = [
        _points(
            [p["nbytes"] / 1e6 for p in points if p["accepted"] is accepted],
            [p["quality"] for p in points if p["accepted"] is accepted],
            fill,
            10,
            [
                f"<b>{name}</b><br>{words.size(p['nbytes'])}<br>{p['quality']}"
                for p in points
                if p["accepted"] is accepted
            ],
        )
        | {"name": name}
        for accepted, fill, name in ((True, ACCENT, "good enough"), (False, ALARM, "too bad"))
    ]
    lines = [] if original is None else [_level(original)]
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    shared = layout(320, xaxis=axis("MB"), yaxis=axis("your metric"), showlegend=True, legend=legend, shapes=lines)
    return {"data": data, "layout": shared | {"margin": {"l": 56, "r": 16, "t": 30, "b": 44}}}


def _level(value: float) -> Content:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line}


def losses(pairs: Content) -> Figure | None:
    """Measured against predicted loss on logarithmic axes; on the dotted line they are equal."""
    groups = ((pairs["random"], MUTED, 8), ([pairs["chosen"]] if pairs["chosen"] else [], ALARM, 14))
    usable = [([p for p in group if _positive(p)], fill, width) for group, fill, width in groups]
    values = [p[key] for group, _, _ in usable for p in group for key in ("predicted", "measured")]
    if not values:
        return None
    data = [
        _points([p["predicted"] for p in g], [p["measured"] for p in g], fill, width, [_pair(p) for p in g])
        for g, fill, width in usable
        if g
    ]
    low, high = min(values), max(values)
    equal = {
        "type": "line",
        "x0": low,
        "y0": low,
        "x1": high,
        "y1": high,
        "line": {"color": MUTED, "width": 1, "dash": "dot"},
    }
    x, y = (axis(f"{name} loss", type="log", **_decades(values)) for name in ("predicted", "measured"))
    return {"data": data, "layout": layout(340, xaxis=x, yaxis=y, shapes=[equal])}


def _positive(pair: Content) -> bool:
    return (pair["predicted"] or 0) > 0 and (pair["measured"] or 0) > 0


def _pair(pair: Content) -> str:
    numbers = f"predicted {words.loss(pair['predicted'])}<br>measured {words.loss(pair['measured'])}"
    size = f"<br>{words.size(pair['nbytes'])}" if pair["nbytes"] else ""
    return f"<b>{escape(pair['label'])}</b><br>{numbers}{size}"


def times(key: str, rows: Sequence[Content]) -> Figure | None:
    """Seconds per stage or pass, in the order in which they ran."""
    if not rows:
        return None
    texts = [f"<b>{escape(row['name'])}</b><br>{words.seconds(row[key])}" for row in rows]
    bars = _bars([row[key] for row in rows], list(range(len(rows))), ACCENT, texts)
    return {"data": [bars], "layout": _rows([words.shorten(row["name"], 30) for row in rows], "seconds")}
