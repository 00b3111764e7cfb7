"""``budget="smallest"``: the smallest model within the user's own metric, by bisection over the size budget."""

from __future__ import annotations

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.evaluate import evaluate
from ..report.data import QualityPoint
from .budgets import build_plan
from .compiled import AsModel, Compiled
from .finish import finish
from .prepared import Prepared

STEPS = 7
"""Bisection steps: the size is known to within a hundredth of the range."""


def smallest_within(prepared: Prepared) -> Compiled:
    """Bisect over size; every candidate is judged by the user's metric, the last one as a built artifact.

    Raises:
        InfeasibleError: even the largest candidate loses more than ``max_drop``.
    """
    request = prepared.request
    metric, allowed = request.quality, request.max_drop
    if metric is None or allowed is None:
        raise InfeasibleError("budget 'smallest': expected quality= and max_drop=; found none")
    with prepared.stages.time("quality"):
        original = metric(request.original or AsModel(lambda i: evaluate(prepared.graph, i), request.captured))
    tried: list[QualityPoint] = []
    low, high = size_range(prepared)
    best: int | None = None
    if _judge(prepared, high, original - allowed, tried):
        best = high
    for _ in range(STEPS):
        middle = int((low * high) ** 0.5)
        if _judge(prepared, middle, original - allowed, tried):
            best = high = middle
        else:
            low = middle
    if best is None:
        raise InfeasibleError(
            f"budget 'smallest': expected a model within max_drop={allowed} of {original:.6g}; the best that was tried "
            f"has {max(p.quality for p in tried):.6g}; allow a larger drop, or more formats"
        )
    return _build(prepared, best, original, tried)


def size_range(prepared: Prepared) -> tuple[int, int]:
    """Smallest and largest model size that the options allow, in bytes."""
    fixed = prepared.totals.fixed_nbytes
    low = fixed + sum(min(o.nbytes for o in p.options) for p in prepared.prices)
    high = fixed + sum(max(o.nbytes for o in p.options) for p in prepared.prices)
    return max(low, 1), max(high, 1)


def _judge(prepared: Prepared, size: int, floor: float, tried: list[QualityPoint]) -> bool:
    """Whether the best plan of a size keeps the quality. The graph is judged: building each would take longer."""
    plan = prepared.plan(prepared.allocate(Budget(size=size)))
    graph, request = prepared.unchecked(plan), prepared.request
    with prepared.stages.time("quality"):
        quality = request.quality(AsModel(lambda i: evaluate(graph, i), request.captured)) if request.quality else 0.0
    accepted = quality >= floor
    tried.append(QualityPoint(size, quality, accepted))
    request.stages.progress("quality", f"{size / 1e6:.3g} MB: {quality:.5g}")
    return accepted


def _build(prepared: Prepared, size: int, original: float, tried: list[QualityPoint]) -> Compiled:
    floor = original - (prepared.request.max_drop or 0.0)
    accepted = sorted({p.nbytes for p in tried if p.accepted and p.nbytes >= size})
    for candidate in accepted:
        built = build_plan(prepared, prepared.plan(prepared.allocate(Budget(size=candidate))))
        compiled = finish(prepared, built, search=tried, quality_original=original)
        final = compiled.report.data.quality_final
        if final is not None and final >= floor:
            return compiled
    raise InfeasibleError(
        "budget 'smallest': the graph keeps the quality but no built artifact does; the target's arithmetic costs the "
        "difference; allow a larger drop"
    )
