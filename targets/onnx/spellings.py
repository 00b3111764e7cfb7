"""Which of several exact spellings is written: decided by measuring on the example inputs, and kept in the plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...ir.evaluate import bind_dims, evaluate
from ...ir.graph import Graph, Node
from ...ir.types import evaluate_dim
from ...passes.run import run_passes
from .cases import MaskedSoftmax
from .cases_attention import AttentionShape, unfused
from .kernels.attention import FUSED, UNFUSED
from .kernels.softmax import CLAMPED, HIDES, PLAIN
from .latency import LatencyTable
from .legalize import passes
from .options import FUSED_OPSET, OnnxOptions
from .runtimes.kept import ATTENTION as REQUIRED
from .runtimes.kept import has

SOFTMAX, ATTENTION = "masked_softmax", "attention"
"""The options that are decided here."""


def choose(graph: Graph, inputs: Sequence[Tensor], table: LatencyTable, given: OnnxOptions) -> dict[str, str]:
    """The options that a user left open and that make a difference for this graph, as they are fastest.

    Args:
        graph: after the exact passes.
        inputs: the example: its sizes, and how much of it is padding, decide.
        table: measures.
        given: options of the target as the user gave them.
    """
    found: dict[str, str] = {}
    sites = attention_sites(graph, inputs) if not given.attention and allows_fused(given) else Counter()
    if sites:
        found = _attention(sites, table, given.masked_softmax)
    if given.masked_softmax or SOFTMAX in found:
        return found
    shapes = masked_softmaxes(run_passes(graph, passes(replace(given, **found)))[0], bind_dims(graph, inputs))
    return found | _softmax(shapes, table)


def allows_fused(given: OnnxOptions) -> bool:
    """Whether operator set, format version and runtime, where a user fixed them, have the kernel's operator."""
    opset, version = given.opset, given.ir_version
    if not has(given.runtime, REQUIRED):
        return False
    return (opset is None or opset >= FUSED_OPSET[0]) and (version is None or version >= FUSED_OPSET[1])


def _attention(sites: Counter[AttentionShape], table: LatencyTable, softmax: str | None) -> dict[str, str]:
    """One kernel, or products around a softmax; of the latter the faster softmax, unless one is given."""
    ways = _attention_ways(softmax)
    cases = {(site, kernel): site.case(kernel) for site in sites for kernel in ways}
    times = table.milliseconds(cases.values())
    total = {k: sum(count * times[cases[site, k].key] for site, count in sites.items()) for k in ways}
    return ways[min(total, key=lambda kernel: total[kernel])]


def fused_gain_ms(graph: Graph, inputs: Sequence[Tensor], table: LatencyTable, given: OnnxOptions) -> float:
    """Milliseconds that attention as one kernel would save where the runtime to keep to does not have it."""
    sites = Counter() if has(given.runtime, REQUIRED) else attention_sites(graph, inputs)
    if not sites:
        return 0.0
    cases = {(site, k): site.case(k) for site in sites for k in (FUSED, unfused(given.masked_softmax or CLAMPED))}
    times = table.milliseconds(cases.values())
    total = [
        math.fsum(n * times[cases[site, k].key] for site, n in sites.items())
        for k in dict.fromkeys(k for _, k in cases)
    ]
    return max(total[1] - total[0], 0.0)


def _attention_ways(softmax: str | None) -> dict[str, dict[str, str]]:
    """Kernel of :data:`~.cases_attention.KERNELS` -> the options that it takes where one softmax may be given."""
    ways = {FUSED: {ATTENTION: FUSED}}
    for way in (CLAMPED, PLAIN) if softmax is None else (softmax,):
        ways[unfused(way)] = {ATTENTION: UNFUSED} | ({} if softmax else {SOFTMAX: way})
    return ways


def ways(graph: Graph, inputs: Sequence[Tensor], given: OnnxOptions) -> tuple[dict[str, str], ...]:
    """All that :func:`choose` would choose among, for whoever measures whole networks instead."""
    if not given.attention and allows_fused(given) and attention_sites(graph, inputs):
        return tuple(_attention_ways(given.masked_softmax).values())
    if given.masked_softmax or not masked_softmaxes(run_passes(graph, passes(given))[0], bind_dims(graph, inputs)):
        return ({},)
    return ({SOFTMAX: CLAMPED}, {SOFTMAX: PLAIN})


def _softmax(shapes: Sequence[MaskedSoftmax], table: LatencyTable) -> dict[str, str]:
    cases = [max(shapes).case(way) for way in (CLAMPED, PLAIN)] if shapes else []
    if not cases:
        return {}
    times = table.milliseconds(cases)
    clamped, plain = (times[case.key] for case in cases)
    return {SOFTMAX: PLAIN if plain < clamped else CLAMPED}


# ------------------------------------------------------------------------------------------------ what there is
def attention_sites(graph: Graph, inputs: Sequence[Tensor]) -> Counter[AttentionShape]:
    """Every attention that can be one kernel, with the share of it that the example hides."""
    legal, _ = run_passes(graph, passes(OnnxOptions(attention=FUSED)))
    nodes = [n for n in legal.nodes() if n.op.short_name in ("instar_ort.attention", "instar_ort.causal_attention")]
    hidden = _hidden(legal, inputs, nodes)
    sizes = bind_dims(graph, inputs)
    return Counter(_site(node, sizes, hidden.get(node.inputs[-1], 0.0)) for node in nodes)


def _hidden(graph: Graph, inputs: Sequence[Tensor], sites: Sequence[Node]) -> dict[Node, float]:
    """The share of hidden scores by mask; masks are often equal for all sites."""
    masks = {n.argument("mask") for n in sites if n.op.short_name == "instar_ort.attention"} - {None}
    found: dict[Node, float] = {}

    def observe(node: Node, value: Any) -> None:
        if node in masks:
            found[node] = float((value <= HIDES).double().mean())

    if masks:
        with torch.no_grad():
            evaluate(graph, inputs, observe)
    return found


def _site(node: Node, sizes: Mapping[str, int], hidden: float) -> AttentionShape:
    causal = node.op.short_name == "instar_ort.causal_attention"
    query, key, value = (
        [evaluate_dim(d, sizes) for d in node.argument(a).tensor_type.shape] for a in ("query", "key", "value")
    )
    heads, shared = node.argument("heads"), node.argument("key_heads")
    if heads:
        query, key, value = (
            [shape[0], count, shape[1], shape[2] // count]
            for shape, count in ((query, heads), (key, shared), (value, shared))
        )
    mask = None if causal else node.argument("mask")
    static = isinstance(node.argument("query").tensor_type.shape[1 if heads else 2], int)
    return AttentionShape(
        query[0], query[1], key[1], query[2], key[2], query[3], value[3],
        split=bool(heads), causal=("static" if static else "dynamic") if causal else "",
        hidden=-1 if mask is None else round(hidden * 16),
    )  # fmt: skip


def masked_softmaxes(legalized: Graph, sizes: Mapping[str, int]) -> list[MaskedSoftmax]:
    """Every softmax of masked scores that may be clamped or not."""
    found: list[MaskedSoftmax] = []
    for node in legalized.nodes():
        if node.op.name == "instar_ort.softmax_clamped.default":
            scores = [evaluate_dim(d, sizes) for d in node.tensor_type.shape]
        elif node.op.short_name == "aten.scaled_dot_product_attention" and node.argument("is_causal"):
            key = node.argument("key").tensor_type.shape
            scores = [evaluate_dim(d, sizes) for d in (*node.argument("query").tensor_type.shape[:-1], key[-2])]
        else:
            continue
        found.append(MaskedSoftmax(math.prod(scores[:-1]), scores[-1]))
    return found
