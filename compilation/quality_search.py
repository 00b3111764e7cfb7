"""The smallest, or the fastest, model within the user's own metric: bisection over the bound on that resource."""

from __future__ import annotations

import os

from ..ir.errors import InfeasibleError
from ..ir.evaluate import evaluate
from ..ir.options import PricedOption
from ..ir.resources import RESOURCES
from ..report.data import QualityPoint
from .allocation_stage import decide, predicted
from .budgets import build_least
from .compiled import AsModel, Compiled
from .finish import finish
from .judged import Judged
from .minimising import Minimising
from .prepared import Prepared

STEPS = 7
"""Bisection steps: the least value is known to within a hundredth of the range."""


def least_within_drop(aim: Minimising, checkpoint: str | os.PathLike[str] | None = None) -> Compiled:
    """Bisect over a resource; every candidate is judged by the user's metric, the last one as a built artifact.

    Args:
        aim: what is made small.
        checkpoint: of the calibration; plans that were judged are kept beside it, and not judged again.

    Raises:
        ConfigError: what is kept there was made for another model or metric.
        InfeasibleError: even the largest candidate loses more than ``max_drop``, or no plan meets the other bounds.
    """
    prepared, request = aim.prepared, aim.prepared.request
    metric, allowed = request.quality, request.max_drop
    if metric is None or allowed is None:
        raise InfeasibleError(f"minimise {aim.resource}: expected quality= and max_drop=; found none")
    with prepared.stages.time("quality"):
        original = metric(request.original or AsModel(lambda i: evaluate(prepared.graph, i), request.captured))
    judged = Judged.beside(checkpoint, request.fingerprint, original)
    tried: dict[float, QualityPoint] = {}
    low = aim.least()
    high = max(largest(aim), low)
    if _judge(aim, high, original - allowed, tried, judged):
        for _ in range(STEPS):
            middle = (low * high) ** 0.5
            if _judge(aim, middle, original - allowed, tried, judged):
                high = middle
            else:
                low = middle
    if not any(p.accepted for p in tried.values()):
        raise InfeasibleError(
            f"minimise {aim.resource}: expected a model within max_drop={allowed} of {original:.6g}; the best that was "
            f"tried has {max(p.quality for p in tried.values()):.6g}; allow a larger drop, or more formats"
        )
    return _build(aim, original, tried)


def largest(aim: Minimising) -> float:
    """The most of the resource that the options can take, by prediction."""

    def cost(option: PricedOption) -> float:
        return RESOURCES[aim.resource].of(option) or 0.0

    prepared = aim.prepared
    decisions = tuple(decide(p, max(p.options, key=cost).option.name) for p in prepared.prices)
    return predicted(decisions, prepared.totals)[aim.resource]


def _judge(aim: Minimising, value: float, floor: float, tried: dict[float, QualityPoint], judged: Judged) -> bool:
    """Whether the best plan at a value keeps the quality. The graph is judged: building each would take longer."""
    prepared, request = aim.prepared, aim.prepared.request
    allocation = aim.at(value)
    used = predicted(allocation.decisions, prepared.totals)
    quality = judged.get(allocation.decisions)
    if quality is None:
        graph = prepared.unchecked(prepared.plan(allocation))
        with prepared.stages.time("quality"):
            quality = (
                request.quality(AsModel(lambda i: evaluate(graph, i), request.captured)) if request.quality else 0.0
            )
        judged.put(allocation.decisions, quality)
    milliseconds = used["latency"] if prepared.latencies is not None else None
    tried[value] = QualityPoint(int(used["size"]), quality, quality >= floor, milliseconds)
    request.stages.progress("quality", f"{_shown(prepared, used)}: {quality:.5g}")
    return tried[value].accepted


def _shown(prepared: Prepared, used: dict[str, float]) -> str:
    latency = f", {used['latency']:.3g} ms" if prepared.latencies is not None else ""
    return f"{used['size'] / 1e6:.3g} MB{latency}"


def _build(aim: Minimising, original: float, tried: dict[float, QualityPoint]) -> Compiled:
    floor = original - (aim.prepared.request.max_drop or 0.0)
    points = tuple(tried.values())
    for value in sorted(v for v, point in tried.items() if point.accepted):
        compiled = finish(aim.prepared, build_least(aim, value), search=points, quality_original=original)
        final = compiled.report.data.quality_final
        if final is not None and final >= floor:
            return compiled
    raise InfeasibleError(
        f"minimise {aim.resource}: the graph keeps the quality but no built artifact does; the target's arithmetic "
        "costs the difference; allow a larger drop"
    )
