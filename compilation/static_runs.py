"""Latency of statically quantized runs: measured on the whole network, because it is a property of runs, not of layers.

Inside a run activations stay in integers: additions and activations get faster with the convolutions, and entering or
leaving a run costs a conversion and a change of layout. Single layers measured alone show none of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..ir.graph import Graph, Node
from ..ir.layers import Layer
from ..ir.options import STATIC_INT8, Option, PricedOption
from ..ir.plan import Decision, Plan, StaticQuantization
from ..ir.text import node_names
from ..passes.apply_plan import ApplyPlan
from ..passes.pricing import LayerPricer
from ..targets.base import Latencies, LayerLatency, Target


def with_static_runs(
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    static: Mapping[Node, StaticQuantization],
    latencies: Latencies,
    target: Target,
    example: Sequence[Tensor],
) -> Latencies:
    """Latencies in which static options cost what they cost together.

    The network is built once with every layer that can be static being so. The time of both networks is spread over
    these layers by their share of the float time.
    """
    chosen = {layer.name: o for layer in layers for o in options[layer.name] if o.activation == STATIC_INT8}
    if not chosen:
        return latencies
    together = _measure(graph, layers, chosen, static, target, example)
    float_ms = sum(latencies.layers[name].original_ms for name in chosen)
    table = dict(latencies.layers)
    for name in chosen:
        share = latencies.layers[name].original_ms / max(float_ms, 1e-12)
        table[name] = _spread(options[name], share * latencies.model_ms, share * together)
    source = (
        f"{latencies.source}; static int8 measured as a whole: {together:.3g} ms against {latencies.model_ms:.3g} ms"
    )
    return replace(latencies, layers=table, source=source)


def _spread(options: Sequence[Option], float_ms: float, static_ms: float) -> LayerLatency:
    times = {o.name: static_ms if o.activation == STATIC_INT8 else float_ms for o in options}
    return LayerLatency(float_ms, times)


def _measure(
    graph: Graph,
    layers: Sequence[Layer],
    chosen: Mapping[str, Option],
    static: Mapping[Node, StaticQuantization],
    target: Target,
    example: Sequence[Tensor],
) -> float:
    members = [layer for layer in layers if layer.name in chosen]
    decisions = tuple(_decision(layer, chosen[layer.name]) for layer in members)
    encodings = {m.name: LayerPricer(m, None).encode(chosen[m.name].format, "rtn").tensors for m in members}
    names = node_names(graph)
    quantized = ApplyPlan(decisions, encodings, {names[n]: q for n, q in static.items()})(graph).graph
    plan = Plan(decisions, graph.fingerprint(), target.name)
    return target.latency_ms(target.build(quantized, plan, [example]), example)


def _decision(layer: Layer, option: Option) -> Decision:
    original = PricedOption(Option("fp32"), layer.weight.handle.nbytes, None, 0, 0.0)
    return Decision(layer.name, layer.kind, layer.shape, replace(original, option=option), original)
