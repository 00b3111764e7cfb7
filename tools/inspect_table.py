"""An inspection in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..report import words
from ..report.grid import LayerName, open_grid

if TYPE_CHECKING:
    from .inspect import InspectedLayer, InspectedOp, Inspection

SHOWN_LAYERS = 12
SHOWN_OPS = 12
SHOWN_REASONS = 6


def table(found: Inspection) -> RenderableType:
    """Totals, ops, layers, kernels, passes, and what stands in the way."""
    parts = [
        _headline(found),
        _ops(found.ops),
        _layers(found.layers),
        _kernels(found.layers),
        _passes(found),
        _remarks(found),
    ]
    return Group(*(part if number == 0 else Padding(part, (1, 0, 0, 0)) for number, part in enumerate(parts)))


def _headline(found: Inspection) -> Text:
    model = found.model
    lines = [
        f"{model.name} for {found.target}: {words.count(model.parameters)} parameters, {words.size(model.nbytes)}, "
        f"{words.unit(model.flops, 'FLOP')} per run, at most {words.size(found.peak_nbytes)} of values alive",
        f"inputs: {', '.join(model.inputs)}",
        f"outputs: {', '.join(model.outputs)}",
    ]
    if model.dims:
        lines.append(f"dynamic: {', '.join(model.dims)}")
    layers, sites = words.plural(len(found.layers), "layer"), words.plural(len(found.attention), "attention site")
    lines.append(
        f"{words.plural(model.nodes_captured, 'node')} as captured, {model.nodes_optimized:,} after the exact passes; "
        f"{layers} to decide about, {sites}"
    )
    return Text("\n".join(lines))


def _ops(ops: Sequence[InspectedOp]) -> Table:
    grid = open_grid("operator", ">count", ">FLOP", ">bytes moved")
    for op in ops[:SHOWN_OPS]:
        grid.add_row(op.name, f"{op.count:,}", words.count(op.flops), words.size(op.nbytes_moved))
    rest = ops[SHOWN_OPS:]
    if rest:
        count, work, moved = (sum(getattr(op, key) for op in rest) for key in ("count", "flops", "nbytes_moved"))
        grid.add_row(f"{len(rest)} more", f"{count:,}", words.count(work), words.size(moved), style="dim")
    return grid


def _layers(layers: Sequence[InspectedLayer]) -> Table:
    grid = open_grid("layer", "kind", ">shape", ">bytes", ">FLOP", "kernels")
    ordered = sorted(layers, key=lambda layer: -layer.nbytes)
    for layer in ordered[:SHOWN_LAYERS]:
        shape = "x".join(map(str, layer.shape))
        cells = words.size(layer.nbytes), words.count(layer.flops), " ".join(layer.kernels)
        grid.add_row(LayerName(layer.name), layer.kind, shape, *cells)
    rest = ordered[SHOWN_LAYERS:]
    if rest:
        nbytes, work = sum(layer.nbytes for layer in rest), sum(layer.flops for layer in rest)
        grid.add_row(f"{len(rest)} smaller", "", "", words.size(nbytes), words.count(work), "", style="dim")
    return grid


def _kernels(layers: Sequence[InspectedLayer]) -> Table:
    """What could be stored how, under which kernel; and how much of the model that is."""
    total = sum(layer.nbytes for layer in layers) or 1
    grid = open_grid("kernel", ">layers", ">of their bytes", "formats")
    for kernel in dict.fromkeys(name for layer in layers for name in layer.kernels):
        users = [layer for layer in layers if kernel in layer.kernels]
        formats = dict.fromkeys(text for layer in users for text in layer.kernels[kernel])
        share = words.percent(sum(layer.nbytes for layer in users) / total)
        grid.add_row(kernel, f"{len(users):,}", share, ", ".join(formats))
    return grid


def _passes(found: Inspection) -> Table:
    grid = open_grid("pass", ">nodes", ">largest error", "what it did")
    for record in found.passes:
        fired = ", ".join(f"{name} x{count}" for name, count in sorted(record.fired.items()))
        nodes = f"{record.nodes_before:,} -> {record.nodes_after:,}"
        error = words.loss(record.check.max_error) if record.check else "not checked"
        grid.add_row(record.name, nodes, error, Text(fired or "nothing"))
    return grid


def _remarks(found: Inspection) -> Text:
    lines = [f"cannot be exported: {entry.op} at {_some(entry.places)}" for entry in found.unsupported]
    refusals = Counter(f"{record.name}: {r.rule}: {r.reason}" for record in found.passes for r in record.refused)
    lines += _counted("left as it is", refusals)
    lines += _counted(
        "not possible", Counter(reason for layer in found.layers for reason in words.grouped(layer.refused))
    )
    lines += _counted("not a layer", Counter(found.skipped))
    return Text("\n".join(lines) or "nothing was refused and every op is supported")


def _counted(title: str, reasons: Counter[str]) -> Iterator[str]:
    for reason, count in reasons.most_common(SHOWN_REASONS):
        yield f"{title}: {reason}{f' (x{count})' if count > 1 else ''}"
    hidden = len(reasons) - SHOWN_REASONS
    if hidden > 0:
        yield f"{title}: {words.plural(hidden, 'more reason')}"


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - 3} more places" if len(places) > 3 else ""
    return ", ".join(places[:3]) + more
