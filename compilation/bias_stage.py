"""Stage: correct the biases of the layers that a plan changes; and tell which corrections an edited plan still has."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from ..ir.graph import Graph
from ..ir.layers import CONV, Layer
from ..ir.plan import Plan
from ..ir.plan_findings import BiasCorrection
from ..passes.apply_plan import ApplyPlan
from ..passes.transforms.bias_correction import CorrectBias, Corrupted, FloatOutputs


def correctable(graph: Graph, layers: Sequence[Layer], when: str) -> tuple[Layer, ...]:
    """The layers whose biases a plan moves.

    Args:
        graph: after the exact passes.
        layers: of that graph.
        when: ``calibration.bias_correction``; ``auto`` is for networks with convolutions.
    """
    if when == "never" or (when == "auto" and not any(layer.kind == CONV for layer in layers)):
        return ()
    sites, _ = CorrectBias().sites(graph, layers)
    return tuple(layer for layer in layers if layer.name in sites)


def correct_biases(graph: Graph, layers: Sequence[Layer], plan: Plan, reference: FloatOutputs) -> Plan:
    """The plan with the corrected bias of every layer that it changes and that has one.

    The method: :mod:`instar.passes.transforms.bias_correction`.

    Args:
        graph: after the exact passes, without the plan.
        layers: of that graph.
        plan: with encoded weights; corrections that it has are replaced.
        reference: outputs of the float network.
    """
    if not reference.layers:
        return plan
    changed = {d.layer for d in plan.decisions if not d.chosen.option.unchanged}
    after = ApplyPlan(plan.decisions, plan.encodings, plan.static)(graph).graph
    affected = [layer for layer in layers if layer.name in changed]
    found = CorrectBias().fit(graph, affected, Corrupted(after, reference))
    made_for = digests(graph, layers, plan)
    corrections = {name: BiasCorrection(entry.shift, made_for[name]) for name, entry in found.items()}
    return replace(plan, corrections=corrections, biases={name: entry.bias for name, entry in found.items()})


def without_stale(graph: Graph, layers: Sequence[Layer], plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """The plan without the corrections that were found under other options, and the layers that lost theirs.

    A correction takes back what the options of its layer and of all layers before it do to the mean; after an edit of
    any of them it would add a shift instead.
    """
    made_for = digests(graph, layers, plan) if plan.corrections else {}
    valid = {n: c for n, c in plan.corrections.items() if made_for.get(n) == c.made_for}
    stale = tuple(name for name in plan.corrections if name not in valid)
    biases = {name: bias for name, bias in plan.biases.items() if name in valid}
    return replace(plan, corrections=valid, biases=biases), stale


def digests(graph: Graph, layers: Sequence[Layer], plan: Plan) -> dict[str, str]:
    """Layer -> digest of its option, of those of the layers that it depends on, and of all static quantization."""
    options = {d.layer: d.chosen.option.words for d in plan.decisions}
    static = {name: dataclasses.asdict(q) for name, q in plan.static.items()}
    found: dict[str, str] = {}
    for layer, before in _layers_before(graph, layers).items():
        parts = {"options": {n: options[n] for n in before if n in options}, "static": static}
        found[layer] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return found


def _layers_before(graph: Graph, layers: Sequence[Layer]) -> dict[str, list[str]]:
    """Layer -> the layers that its outputs depend on, itself included; sets of layers are the bits of a number."""
    own: dict[object, int] = {}
    for number, layer in enumerate(layers):
        for use in layer.uses:
            own[use.node] = own.get(use.node, 0) | 1 << number
    reached: dict[object, int] = {}
    for node in graph.nodes():
        bits = own.get(node, 0)
        for source in node.inputs:
            bits |= reached[source]
        reached[node] = bits
    found: dict[str, list[str]] = {}
    for layer in layers:
        bits = 0
        for use in layer.uses:
            bits |= reached[use.node]
        found[layer.name] = [other.name for number, other in enumerate(layers) if bits >> number & 1]
    return found
