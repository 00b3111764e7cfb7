"""Loss against one budget: the same problem solved for many limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...ir.errors import ScheduleError, nearest
from .problem import AllocationProblem, AllocationSolution
from .solver import solve


def sweep(
    problem: AllocationProblem,
    budget_name: str,
    limits: Iterable[int],
    time_limit_s: float = 60.0,
    relative_gap: float = 0.0,
    seed: int = 0,
    workers: int = 1,
) -> list[AllocationSolution]:
    """One solution per limit of the named budget, in the given order; all other budgets stay as they are.

    Args:
        problem: the problem; its own limit of this budget is ignored.
        budget_name: which budget to vary.
        limits: its limits, in its unit. Limits that cannot be met give ``infeasible`` solutions.
        time_limit_s: seconds for each limit.
        relative_gap: as in ``solve``.
        seed: as in ``solve``.
        workers: as in ``solve``.

    Raises:
        ScheduleError: there is no such budget.
    """
    names = [budget.name for budget in problem.budgets]
    if budget_name not in names:
        raise ScheduleError(f"sweep: expected the name of a budget, found {budget_name!r}{nearest(budget_name, names)}")
    return [
        solve(with_limit(problem, budget_name, limit), time_limit_s, relative_gap, seed, workers) for limit in limits
    ]


def with_limit(problem: AllocationProblem, budget_name: str, limit: int) -> AllocationProblem:
    """The same problem with another limit for one budget."""
    budgets = tuple(replace(b, limit=limit) if b.name == budget_name else b for b in problem.budgets)
    return replace(problem, budgets=budgets)
