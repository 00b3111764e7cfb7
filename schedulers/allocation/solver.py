"""``solve``: problem in, checked solution out."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from fractions import Fraction

import ortools

from ...ir.errors import ScheduleError
from ..status import Status
from .checker import check
from .dominance import ReducedProblem, reduce_problem
from .infeasibility import explain_infeasible
from .minimise import Limits, Outcome, minimise
from .problem import AllocationProblem, AllocationSolution, BindingBudget

ROUNDING = 1e-12
"""Relative gap that counts as closed: differences this small come from summing floats, not from the losses."""


def solve(
    problem: AllocationProblem,
    time_limit_s: float = 60.0,
    relative_gap: float = 0.0,
    seed: int = 0,
    workers: int = 1,
    work_limit: float = math.inf,
) -> AllocationSolution:
    """The assignment with the least summed loss that meets all budgets, with a proof.

    The same problem, seed and number of workers give the same solution unless the time limit ends the search.

    Args:
        problem: layers, budgets and side conditions.
        time_limit_s: seconds after which the best assignment found so far is returned (``feasible`` or ``timeout``).
            An infeasible problem takes up to as long again to find the smallest feasible values.
        relative_gap: stop as soon as ``(objective - bound) / objective`` is at most this; 0 asks for the optimum.
        seed: seed of CP-SAT.
        workers: threads of CP-SAT; more than one are interleaved so that results stay repeatable.
        work_limit: deterministic seconds after which the best assignment found so far is returned: where a search ends
            then does not depend on the machine, and the same problem gives the same solution although it is not proven.

    Returns:
        An ``AllocationSolution``; ``infeasible`` is a result, not an error.

    Raises:
        ScheduleError: an argument is out of range, or the solution failed the independent checker (a defect).
    """
    _check_arguments(time_limit_s, relative_gap, workers, work_limit)
    started = time.perf_counter()
    stop = Limits(started + time_limit_s, relative_gap, seed, workers, work_limit)
    reduced = reduce_problem(problem)
    outcome = minimise([layer.options for layer in reduced.layers], reduced.limits, stop)
    solution = _solution(problem, reduced, outcome, stop)
    if outcome.infeasible:
        more = replace(stop, deadline=time.perf_counter() + time_limit_s)
        solution = replace(solution, infeasible=explain_infeasible(problem, reduced, more))
    solution = replace(solution, wall_s=time.perf_counter() - started)
    violations = check(problem, solution)
    if violations:
        raise ScheduleError(f"allocation: expected a valid solution, found: {'; '.join(violations)}; report this")
    return solution


def _check_arguments(time_limit_s: float, relative_gap: float, workers: int, work_limit: float) -> None:
    if not time_limit_s > 0:
        raise ScheduleError(f"time_limit_s: expected more than 0 seconds, found {time_limit_s}; allow some time")
    if not work_limit > 0:
        raise ScheduleError(f"work_limit: expected more than 0 deterministic seconds, found {work_limit}; allow some")
    if not 0 <= relative_gap < 1:
        raise ScheduleError(
            f"relative_gap: expected a fraction from 0 to below 1, found {relative_gap}; 1e-4 is 0.01 %"
        )
    if workers < 1:
        raise ScheduleError(f"workers: expected at least 1, found {workers}; 1 is repeatable and usually fast enough")


def _solution(
    problem: AllocationProblem, reduced: ReducedProblem, outcome: Outcome, stop: Limits
) -> AllocationSolution:
    assignment = _assignment(problem, reduced, outcome)
    used = {} if outcome.picks is None else _used(problem, assignment)
    unit = Fraction(1, 1 << reduced.precision)
    outcome = replace(outcome, objective=outcome.objective >> reduced.guard, bound=outcome.bound >> reduced.guard)
    gap = _gap(outcome)
    return AllocationSolution(
        status=_status(outcome, gap, stop),
        assignment=assignment,
        objective=None if outcome.picks is None else float(outcome.objective * unit),
        bound=None if outcome.infeasible else _round_down(outcome, unit),
        gap=gap,
        wall_s=0.0,
        used=used,
        binding=_binding(problem, outcome, used, reduced.precision + reduced.guard),
        seed=stop.seed,
        workers=stop.workers,
        solver=f"cp-sat {ortools.__version__}",
        relative_gap=stop.relative_gap,
        pruned=reduced.pruned,
    )


def _assignment(problem: AllocationProblem, reduced: ReducedProblem, outcome: Outcome) -> dict[str, str]:
    if outcome.picks is None:
        return {}
    chosen = {
        member: layer.options[pick].name
        for layer, pick in zip(reduced.layers, outcome.picks, strict=True)
        for member in layer.members
    }
    return {layer.name: chosen[layer.name] for layer in problem.layers}


def _used(problem: AllocationProblem, assignment: dict[str, str]) -> dict[str, int]:
    costs = [layer.choice(assignment[layer.name]).costs for layer in problem.layers]
    return {budget.name: sum(row[position] for row in costs) for position, budget in enumerate(problem.budgets)}


def _gap(outcome: Outcome) -> float | None:
    if outcome.picks is None:
        return None
    missing = outcome.objective - outcome.bound
    return float(Fraction(missing, outcome.objective)) if missing else 0.0


def _status(outcome: Outcome, gap: float | None, stop: Limits) -> Status:
    if outcome.infeasible:
        return "infeasible"
    if gap is None:
        return "timeout"
    return "optimal" if gap <= max(stop.relative_gap, ROUNDING) else "feasible"


def _round_down(outcome: Outcome, unit: Fraction) -> float:
    """The bound as a float that is not above it, unless bound and objective are the same number."""
    exact = outcome.bound * unit
    nearest = float(exact)
    closed = outcome.picks is not None and outcome.bound == outcome.objective
    return nearest if closed or Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)


def _binding(
    problem: AllocationProblem, outcome: Outcome, used: dict[str, int], bits: int
) -> tuple[BindingBudget, ...]:
    if not used:
        return ()
    return tuple(
        BindingBudget(budget.name, budget.limit - used[budget.name], float(price / (1 << bits)))
        for budget, price in zip(problem.budgets, outcome.prices, strict=True)
        if price
    )
