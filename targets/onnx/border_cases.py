"""What it takes to enter and to leave a run of integer convolutions, as cases to time: a chain of three as emitted.

A convolution in float, one between integers and another one in float, all of one tap, so that they say nothing about
the layers. What the runtime does between the first and the second is entering (rounding, and turning its own layout for
float convolutions into that for integer ones), what it does between the second and the third is leaving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ...ir.constants import ConstantHandle
from ...ir.context import Context
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, Layer
from ...ir.options import Option
from ...ir.types import TensorType
from ...passes.static_runs import Border, borders
from ..base import LayerLatency
from ..integer_runs import NO_RUNS, Crossing, IntegerRuns
from .cases import Case
from .options import OnnxOptions

SCALE, ZERO = 0.03, 128
FLOAT, INTEGER = "Conv|FusedConv", "QLinearConv"


@dataclass(frozen=True)
class BorderCases:
    """Of one border of a network: what is timed for entering and for leaving."""

    border: Border
    enter: Case
    leave: Case


def border_cases(
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    sizes: Mapping[str, int],
    written: OnnxOptions,
) -> tuple[BorderCases, ...]:
    """The borders of all convolutions that may run between integers, with what is timed for each."""
    static = [
        layer for layer in layers if layer.kinds == {CONV} and any(o.activation.is_static for o in options[layer.name])
    ]
    made: dict[tuple[int, ...], tuple[Case, Case]] = {}
    found: list[BorderCases] = []
    for border in borders(graph, static) if static else ():
        shape = tuple(border.value.tensor_type.sizes(sizes))
        if len(shape) in (3, 4, 5):
            if shape not in made:
                made[shape] = _cases(shape, written)
            found.append(BorderCases(border, *made[shape]))
    return tuple(found)


def with_runs(
    layers: Mapping[str, LayerLatency],
    options: Mapping[str, Sequence[Option]],
    found: Sequence[BorderCases],
    times: Mapping[str, float],
) -> tuple[dict[str, LayerLatency], IntegerRuns]:
    """Layers with what they always pay, and what two of them pay together.

    A value is converted once for all of its readers, which share that.
    """
    if not found:
        return dict(layers), NO_RUNS
    static = {n: frozenset(o.name for o in group if o.activation.is_static) for n, group in options.items()}
    own: dict[str, float] = {}
    runs = IntegerRuns((), {name: names for name, names in static.items() if names})
    for one in found:
        source, readers = one.border.source, one.border.readers
        enter, leave = times[one.enter.key], times[one.leave.key]
        if not readers:
            own[source] = own.get(source, 0.0) + leave
        for reader in readers:
            share = 1.0 / len(readers)
            if not source:
                own[reader] = own.get(reader, 0.0) + share * enter
            elif source != reader:
                runs = runs.plus(IntegerRuns((Crossing(source, reader, share * enter, share * leave),)))
    return {n: _with_own(known, static.get(n, frozenset()), own.get(n, 0.0)) for n, known in layers.items()}, runs


def _with_own(known: LayerLatency, static: frozenset[str], more: float) -> LayerLatency:
    times = {name: time + more if name in static else time for name, time in known.options_ms.items()}
    return replace(known, options_ms=times)


def _cases(shape: tuple[int, ...], options: OnnxOptions) -> tuple[Case, Case]:
    graph = _chain(shape)
    feeds = [torch.randn(shape, generator=torch.Generator().manual_seed(0))]
    words = f"a run of integer convolutions at {'x'.join(map(str, shape))}"
    return (
        Case(f"entering {words}", graph, feeds, options, between=(FLOAT, INTEGER)),
        Case(f"leaving {words}", graph, feeds, options, between=(INTEGER, FLOAT)),
    )


def _chain(shape: tuple[int, ...]) -> Graph:
    """Float, integer and float convolution of one tap, from as many channels to as many."""
    context = Context()
    channels, rank = shape[1], len(shape) - 2
    ones, zeros = (1,) * rank, (0,) * rank
    taps = (channels, channels, *ones)
    first, last = (_constant(context, name, torch.full(taps, 0.01)) for name in ("first", "last"))
    integers = _constant(context, "integers", torch.ones(taps, dtype=torch.int8))
    scale = _constant(context, "scale", torch.full((channels,), SCALE))
    conv = f"aten.conv{rank}d"
    x = context.input("x", TensorType(torch.float32, shape))
    codes = context.node("instar.quantize_static", context.node(conv, x, first), SCALE, ZERO)
    made = context.node(
        "instar.conv_int8", codes, SCALE, ZERO, integers, scale, None, SCALE, ZERO, ones, zeros, ones, 1
    )
    back = context.node("instar.dequantize_apart", made, SCALE, ZERO, 1, channels)
    return context.graph([x], [context.node(conv, back, last)])


def _constant(context: Context, name: str, value: torch.Tensor) -> Node:
    return context.constant_of(ConstantHandle.of(name, value, "derived"))
