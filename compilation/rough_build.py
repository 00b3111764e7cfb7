"""A network built before its accuracy is known: weights rounded to nearest. Only its bytes and its time count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..ir.graph import Graph, Node
from ..ir.layers import Layer
from ..ir.options import KEPT, Option, PricedOption
from ..ir.plan import Decision, Plan, StaticQuantization
from ..ir.text import node_names
from ..passes.apply_plan import ApplyPlan
from ..passes.pricing import LayerPricer
from ..targets.base import Artifact, Target
from ..targets.legalize import legalize


def build_rough(
    graph: Graph,
    layers: Sequence[Layer],
    chosen: Mapping[str, Option],
    static: Mapping[Node, StaticQuantization],
    target: Target,
    example: Sequence[Tensor],
    versions: Mapping[str, str] | None = None,
) -> Artifact:
    """The artifact with these options for the named layers; the other layers stay as they are.

    Its file takes as many bytes as that of the plan with the same options and ``versions`` that is made in the end.

    Raises:
        FormatError: a format cannot store a layer's weight.
        LoweringError: the target cannot run the result.
    """
    members = [layer for layer in layers if layer.name in chosen]
    decisions = tuple(_decision(layer, chosen[layer.name]) for layer in members)
    stored = [m for m in members if not chosen[m.name].keeps_weight]
    encodings = {m.name: LayerPricer(m, None).encode(chosen[m.name].format, "rtn").tensors for m in stored}
    names = node_names(graph)
    quantized = ApplyPlan(decisions, encodings, {names[n]: q for n, q in static.items()})(graph).graph
    plan = Plan(decisions, graph.fingerprint(), target.name, versions=versions or {})
    legal, _ = legalize(target, quantized, plan)
    return target.build(legal, plan, [example])


def _decision(layer: Layer, option: Option) -> Decision:
    """A decision whose accuracy nobody promises: no check of the artifact must end it."""
    original = PricedOption(KEPT, layer.weight.handle.nbytes, None, 0, 0.0)
    return Decision(
        layer.name, layer.kind, layer.shape, replace(original, option=option, activation_loss=math.inf), original
    )
