"""The curve of best plans over one budget, from prices that are already known."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.plan import Decision, Plan
from ..ir.resources import RESOURCES
from ..report.data import ParetoPoint
from .allocation_stage import Allocation, allocate, predicted
from .prepared import Prepared
from .stages import Progress, silent

POINTS = 12
GAP = 1e-4
"""A point of a curve needs no tighter proof."""

WORK = 0.2
"""Deterministic seconds of the solver for one point: a report says the same on a fast and on a slow machine."""

MARGIN = 1e-9
"""What is added to the smallest feasible value, so that rounding does not make it infeasible."""


def curve(prepared: Prepared, plan: Plan | None = None, points: int = POINTS) -> tuple[ParetoPoint, ...]:
    """Best predicted loss for ``points`` sizes between the smallest possible and the original, and the chosen plan.

    Empty without layers to decide about, and for a plan that no budget asked for: what was not searched for a
    compilation is not searched for its report.
    """
    if not prepared.prices or (plan is not None and not plan.budgets):
        return ()
    found = list(sweep(prepared, "size", points))
    if plan is not None:
        found.append(_point(prepared, plan.decisions, chosen=True))
    return tuple(sorted(found, key=lambda p: p.nbytes))


def sweep(
    prepared: Prepared,
    resource: str,
    points: int = POINTS,
    others: Budget | None = None,
    progress: Progress = silent,
) -> tuple[ParetoPoint, ...]:
    """Distinct best plans for ``points`` values of one budget, from the smallest possible to the float model's.

    Args:
        prepared: the priced model.
        resource: ``size``, ``latency`` or ``ops``.
        points: at most; fewer where neighbours are the same plan.
        others: bounds on other resources that every plan meets.
        progress: told about every point.

    Raises:
        InfeasibleError: no plan meets ``others``.
    """
    found: dict[ParetoPoint, None] = {}
    for number, limit in enumerate(_limits(prepared, resource, points, others), 1):
        allocation = _best(prepared, resource, limit, others)
        found[_point(prepared, allocation.decisions)] = None
        progress("sweep", f"{resource} {number} of {points}")
    return tuple(found)


def _limits(prepared: Prepared, resource: str, points: int, others: Budget | None) -> Iterator[float]:
    """Values in equal ratios, from the least that the options allow."""
    low = _smallest(prepared, resource, others) * (1.0 + MARGIN)
    ratio = max(prepared.totals.rows[resource].original, low) / low
    for step in range(points):
        yield low * ratio ** (step / max(points - 1, 1))


def _smallest(prepared: Prepared, resource: str, others: Budget | None) -> float:
    try:
        _best(prepared, resource, 0.0, others)
    except InfeasibleError as error:
        if resource not in error.smallest:
            raise
        return max(error.smallest[resource], 1e-12)
    return 1e-12


def _best(prepared: Prepared, resource: str, limit: float, others: Budget | None) -> Allocation:
    given = others.to_mapping() if others is not None else {}
    budget = Budget.from_mapping({**given, resource: RESOURCES[resource].impossible})
    search = prepared.pipeline.search
    with prepared.stages.time("allocate"):
        return allocate(
            prepared.prices,
            budget,
            prepared.totals,
            limits=prepared.totals.limits(budget) | {resource: limit},
            tie_shared_inputs="latency" in budget.limits,
            time_limit_s=search.time_limit_s,
            gap=max(search.gap, GAP),
            seed=prepared.pipeline.seed,
            work_limit=WORK,
        )


def _point(prepared: Prepared, decisions: tuple[Decision, ...], *, chosen: bool = False) -> ParetoPoint:
    used = predicted(decisions, prepared.totals)
    loss = sum(d.chosen.loss for d in decisions)
    milliseconds = used["latency"] if prepared.latencies else None
    return ParetoPoint(int(used["size"]), loss, milliseconds, chosen=chosen, bops=int(used["ops"]))
