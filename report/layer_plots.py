"""Plots of layers: bits along the network, bytes, share of the error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import words
from .plotting import LEGEND, Bar, Content, Figure, axis, colour, escape, horizontal, layout

TOP = 20
"""Bars in a plot of layers; the others are one line."""

NAMED = 64
"""Up to so many layers the strip along the network has names on its axis."""

Layers = Sequence[Content]


def strip(layers: Layers) -> Figure | None:
    """One cell per layer along the network, coloured by the bits of its format."""
    if not layers:
        return None
    named = len(layers) <= NAMED
    data = [_cells(layers, bits, numbered=named) for bits in sorted({layer["bits"] for layer in layers})]
    shared = layout(290 if named else 150, barmode="overlay", xaxis=_along(layers, named))
    shared |= {"yaxis": {"visible": False, "range": [0, 1], "fixedrange": True}, "showlegend": True, "legend": LEGEND}
    return {"data": data, "layout": shared | {"margin": {"l": 8, "r": 8, "t": 30, "b": 44}}}


def _along(layers: Layers, named: bool) -> Figure:
    ends = [-0.5, len(layers) - 0.5]
    if not named:
        return axis("position in the network", showgrid=False, range=ends)
    names = [escape(name) for name in words.shorten_all([layer["name"] for layer in layers], 28)]
    ticks: Figure = {
        "tickvals": list(range(len(layers))),
        "ticktext": names,
        "tickangle": -90,
        "tickfont": {"size": 10},
    }
    return axis(showgrid=False, range=ends, **ticks)


def _cells(layers: Layers, bits: int, *, numbered: bool) -> Figure:
    mine = [(place, layer) for place, layer in enumerate(layers) if layer["bits"] == bits]
    formats = list(dict.fromkeys(layer["format"] for _, layer in mine))
    label = ", ".join(formats[:3]) + ("…" if len(formats) > 3 else "")
    number: Figure = {
        "text": [str(bits)] * len(mine),
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
    }
    return {
        "type": "bar",
        "x": [place for place, _ in mine],
        "y": [1] * len(mine),
        "width": 0.94 if numbered else 1.0,
        "marker": {"color": colour(bits)},
        "hovertext": [hover(layer) for _, layer in mine],
        "hoverinfo": "text",
        "name": escape(f"{words.plural(bits, 'bit')}: {label} ({words.plural(len(mine), 'layer')})"),
        **(number if numbered else {}),
    }


def hover(layer: Content) -> str:
    """What a layer says when pointed at."""
    lines = [
        f"<b>{escape(layer['name'])}</b>",
        f"{layer['kind']} {' x '.join(str(n) for n in layer['shape'])}",
        escape(layer["option"]),
        f"{words.size(layer['original_nbytes'])} → {words.size(layer['nbytes'])}",
        f"share of the predicted loss: {words.percent(layer['loss_share'])}",
    ]
    return "<br>".join(lines)


def sizes(layers: Layers) -> Figure | None:
    """Bytes before (grey) and after (coloured by bits), largest first."""
    if not layers:
        return None
    return horizontal(_bars(layers, "original_nbytes", _size, _sizes), "MB")


def _size(layer: Content) -> Bar:
    label, before, after = _change(layer["original_nbytes"], layer["nbytes"])
    return Bar(layer["name"], after, label, hover(layer), colour(layer["bits"]), before)


def _sizes(name: str, rest: Layers) -> Bar:
    label, _, _ = _change(*(sum(layer[key] for layer in rest) for key in ("original_nbytes", "nbytes")))
    return Bar(name, 0.0, f"{label} in all", f"<b>{name}</b><br>{label}")


def _change(before: int, after: int) -> tuple[str, float, float]:
    return f"{words.size(before)} → {words.size(after)}", before / 1e6, after / 1e6


def errors(layers: Layers) -> Figure | None:
    """Share of the predicted loss per layer, largest first; None where nothing is lost."""
    lossy = [layer for layer in layers if layer["loss_share"]]
    return horizontal(_bars(lossy, "loss_share", _error, _errors), "% of the loss") if lossy else None


def _error(layer: Content) -> Bar:
    share = layer["loss_share"]
    return Bar(layer["name"], 100 * share, words.percent(share), hover(layer), colour(layer["bits"]))


def _errors(name: str, rest: Layers) -> Bar:
    share = sum(layer["loss_share"] for layer in rest)
    return Bar(name, 0.0, f"{words.percent(share)} in all", f"<b>{name}</b><br>{words.percent(share)}")


def _bars(layers: Layers, key: str, one: Callable[[Content], Bar], others: Callable[[str, Layers], Bar]) -> list[Bar]:
    """The layers with the most of something; the others are numbers without a bar, which would dwarf the rest."""
    ordered: list[Any] = sorted(layers, key=lambda layer: -layer[key])
    shown = len(ordered) if len(ordered) <= TOP + 1 else TOP
    rest = ordered[shown:]
    return [one(layer) for layer in ordered[:shown]] + ([others(f"{len(rest):,} other layers", rest)] if rest else [])
