"""The curve of best plans over size, from prices that are already known."""

from __future__ import annotations

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.plan import Plan
from ..report.data import ParetoPoint
from .allocation_stage import allocate, predicted
from .prepared import Prepared

POINTS = 12


def curve(prepared: Prepared, plan: Plan | None = None, points: int = POINTS) -> tuple[ParetoPoint, ...]:
    """Best predicted loss for ``points`` sizes between the smallest possible and the original, and the chosen plan."""
    if not prepared.prices:
        return ()
    fixed = prepared.totals.fixed_nbytes
    low = fixed + sum(min(o.nbytes for o in p.options) for p in prepared.prices)
    high = fixed + sum(p.original.nbytes for p in prepared.prices)
    found: list[ParetoPoint] = []
    for step in range(points):
        size = int(low * (high / max(low, 1)) ** (step / max(points - 1, 1))) + 1
        found += _point(prepared, size)
    if plan is not None:
        found.append(_chosen(prepared, plan))
    return tuple(sorted(found, key=lambda p: p.nbytes))


def _point(prepared: Prepared, size: int) -> list[ParetoPoint]:
    try:
        allocation = allocate(
            prepared.prices, Budget(size=size), prepared.totals, time_limit_s=5.0, gap=1e-4, seed=prepared.pipeline.seed
        )
    except InfeasibleError:
        return []
    used = predicted(allocation.decisions, prepared.totals)
    loss = sum(d.chosen.loss for d in allocation.decisions)
    return [ParetoPoint(int(used["size"]), loss, used["latency"] if prepared.latencies else None)]


def _chosen(prepared: Prepared, plan: Plan) -> ParetoPoint:
    used = predicted(plan.decisions, prepared.totals)
    milliseconds = used["latency"] if prepared.latencies else None
    return ParetoPoint(int(used["size"]), plan.predicted_loss, milliseconds, chosen=True)
