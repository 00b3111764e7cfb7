"""Layer latencies are fitted to the whole network: what layers gain alone is not what they gain together.

Layers are timed alone, perhaps on another day, from a cache. In a network, quantizing one value serves several layers,
and runs of integer layers keep their additions and activations in integers. So the network is built once with every
layer at its fastest option; it takes turns with the original, and every layer's gain is scaled so that the sum of the
gains is what was measured. What entering and leaving runs of integer layers costs is timed apart, and a term of two
layers (:mod:`instar.targets.integer_runs`); what a whole run gains beyond its layers, such as additions in integers, is
shared out among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..ir.graph import Graph, Node
from ..ir.layers import Layer, taken_together
from ..ir.options import Option
from ..ir.plan import StaticQuantization
from ..passes.formats import format as parse_format
from ..targets.base import Latencies, LayerLatency, Target
from .known_networks import LEAST_SCALE, fit_to_known
from .rough_build import build_rough


def fit_to_network(
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    static: Mapping[Node, StaticQuantization],
    latencies: Latencies,
    target: Target,
    example: Sequence[Tensor],
) -> Latencies:
    """The same latencies with every difference from float scaled to what the whole network shows."""
    fastest = {layer.name: _fastest(layer, options[layer.name], latencies.layers[layer.name]) for layer in layers}
    chosen = _agreeing(layers, {name: option for name, option in fastest.items() if option is not None})
    if latencies.networks is not None:
        return fit_to_known(latencies, options, latencies.networks)
    if not chosen:
        return latencies
    together = _measure(graph, layers, chosen, static, target, example)
    integer = _all_static(layers, options, latencies, chosen)
    if integer is not None:
        run = _measure(graph, layers, integer, static, target, example)
        if run < together:
            return _fit_to_runs(latencies, options, integer, run)
    crossings = latencies.runs.milliseconds({name: option.name for name, option in chosen.items()})
    alone = sum(latencies.change_ms(name, option.name) for name, option in chosen.items())
    scale = max((together - latencies.model_ms - crossings) / min(alone, -1e-9), LEAST_SCALE)
    table = {name: _scaled(known, scale) for name, known in latencies.layers.items()}
    source = (
        f"{latencies.source}; the network with every layer at its fastest takes {together:.3g} ms against "
        f"{latencies.model_ms:.3g} ms in float: gains of single layers are scaled by {scale:.2f}"
    )
    return replace(latencies, layers=table, source=source)


def _all_static(
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    latencies: Latencies,
    fastest: Mapping[str, Option],
) -> dict[str, Option] | None:
    """Every layer that can run between static integers does so, the others at their fastest; None where none can."""
    found: dict[str, Option] = {}
    for layer in layers:
        static = [o for o in options[layer.name] if o.activation.is_static]
        best = _fastest(layer, static or options[layer.name], latencies.layers[layer.name], always=bool(static))
        if best is not None:
            found[layer.name] = best
    found = _agreeing(layers, found)
    same = {n: o.name for n, o in found.items()} == {n: o.name for n, o in fastest.items()}
    return None if same or not any(o.activation.is_static for o in found.values()) else found


def _agreeing(layers: Sequence[Layer], chosen: Mapping[str, Option]) -> dict[str, Option]:
    """Without kernels that take only some of the matrices of an operator; such layers stay as they are."""
    split: set[str] = set()
    for names in taken_together(layers):
        if len({chosen[name].rounds_under if name in chosen else "" for name in names}) > 1:
            split |= set(names)
    return {name: option for name, option in chosen.items() if name not in split or option.activation.is_none}


def _fit_to_runs(
    latencies: Latencies, options: Mapping[str, Sequence[Option]], integer: Mapping[str, Option], run: float
) -> Latencies:
    """What the network with all runs takes, beyond what its layers and crossings say, is shared out.

    It is shared in proportion to the layers' time in float, which additions and activations between them grow with.
    """
    members = [n for n, o in integer.items() if o.activation.is_static]
    before = sum(latencies.layers[n].original_ms for n in members)
    expected = latencies.predicted_ms({name: option.name for name, option in integer.items()})
    share = (run - expected) / max(before, 1e-9)
    table = dict(latencies.layers)
    for name in members:
        known = latencies.layers[name]
        static = {o.name for o in options[name] if o.activation.is_static}
        times = {o: t + share * known.original_ms if o in static else t for o, t in known.options_ms.items()}
        lift = max(0.0, -min(times.values()))
        table[name] = LayerLatency(known.original_ms + lift, {n: t + lift for n, t in times.items()})
    source = (
        f"{latencies.source}; the network with every convolution on integers takes {run:.3g} ms against "
        f"{latencies.model_ms:.3g} ms in float and {expected:.3g} ms by its layers: each of these changes by "
        f"{share:+.0%} of its time in float"
    )
    return replace(latencies, layers=table, source=source)


def _fastest(layer: Layer, options: Sequence[Option], known: LayerLatency, *, always: bool = False) -> Option | None:
    """The fastest option, the most accurate format among equals; None where float is as fast, unless ``always``."""

    def order(option: Option) -> tuple[float, int]:
        return known.options_ms[option.name], -parse_format(option.format).nbytes(layer.stored_shape)

    best = min(options, key=order, default=None)
    if best is None or always:
        return best
    return best if known.options_ms[best.name] < known.original_ms else None


def _scaled(known: LayerLatency, scale: float) -> LayerLatency:
    """Differences scaled; a constant keeps every time above zero and cancels in every sum."""
    times = {n: known.original_ms + scale * (t - known.original_ms) for n, t in known.options_ms.items()}
    lift = max(0.0, -min([known.original_ms, *times.values()]))
    return LayerLatency(known.original_ms + lift, {n: t + lift for n, t in times.items()})


def _measure(
    graph: Graph,
    layers: Sequence[Layer],
    chosen: Mapping[str, Option],
    static: Mapping[Node, StaticQuantization],
    target: Target,
    example: Sequence[Tensor],
) -> float:
    """Milliseconds of the network with these options, its weights rounded to nearest."""
    return target.latency_ms(build_rough(graph, layers, chosen, static, target, example), example)
