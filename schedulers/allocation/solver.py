"""``solve``: problem in, checked solution out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version

from ...ir.errors import ScheduleError
from ..status import Status
from .checker import check
from .dominance import reduce_problem
from .infeasibility import explain_infeasible
from .minimise import Limits, minimise
from .pairwise_terms import scale_of
from .problem import AllocationProblem, AllocationSolution, BindingBudget, Infeasibility

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
    found = _with_pairs(problem, stop) if problem.pairs else _without_pairs(problem, stop)
    solution = _solution(problem, found, stop)
    if found.infeasible:
        more = replace(stop, deadline=time.perf_counter() + time_limit_s)
        solution = replace(solution, infeasible=found.explain(more))
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


@dataclass(frozen=True)
class _Found:
    """What a search found: losses in units of ``2**-precision``, prices in units of ``2**-price_bits``."""

    assignment: dict[str, str]
    objective: int
    bound: int
    prices: tuple[Fraction, ...]
    infeasible: bool
    precision: int
    price_bits: int
    pruned: int
    explain: Callable[[Limits], tuple[Infeasibility, ...]]


def _without_pairs(problem: AllocationProblem, stop: Limits) -> _Found:
    reduced = reduce_problem(problem)
    outcome = minimise([layer.options for layer in reduced.layers], reduced.limits, stop)
    chosen = {
        member: name
        for layer, pick in zip(reduced.layers, outcome.picks or (), strict=outcome.picks is not None)
        for member, name in zip(layer.members, layer.options[pick].names, strict=True)
    }
    return _Found(
        {layer.name: chosen[layer.name] for layer in problem.layers if chosen},
        outcome.objective >> reduced.guard,
        outcome.bound >> reduced.guard,
        outcome.prices,
        outcome.infeasible,
        reduced.precision,
        reduced.precision + reduced.guard,
        reduced.pruned,
        lambda more: explain_infeasible(problem, reduced, more),
    )


def _with_pairs(problem: AllocationProblem, stop: Limits) -> _Found:
    from .pairwise import explain_pairs, solve_pairs  # most problems have none

    outcome = solve_pairs(problem, stop)
    precision, guard = scale_of(problem)
    pairs = zip(problem.layers, outcome.places or (), strict=outcome.places is not None)
    return _Found(
        {layer.name: layer.choices[place].name for layer, place in pairs},
        outcome.objective >> guard,
        outcome.bound >> guard,
        outcome.prices,
        outcome.infeasible,
        precision,
        precision + guard,
        0,
        lambda more: explain_pairs(problem, more),
    )


def _solution(problem: AllocationProblem, found: _Found, stop: Limits) -> AllocationSolution:
    empty = not found.assignment and bool(problem.layers)
    nothing = found.infeasible or empty
    unit = Fraction(1, 1 << found.precision)
    gap = None if nothing else _gap(found.objective, found.bound)
    used = {} if nothing else _used(problem, found.assignment)
    return AllocationSolution(
        status=_status(found, gap, stop),
        assignment=found.assignment,
        objective=None if nothing else float(found.objective * unit),
        bound=None if found.infeasible else _round_down(found.bound * unit, closed=gap == 0.0),
        gap=gap,
        wall_s=0.0,
        used=used,
        binding=_binding(problem, found, used),
        seed=stop.seed,
        workers=stop.workers,
        solver=f"cp-sat {version('ortools')}",
        relative_gap=stop.relative_gap,
        pruned=found.pruned,
    )


def _used(problem: AllocationProblem, assignment: dict[str, str]) -> dict[str, int]:
    taken = {*assignment.items()}
    costs = [layer.choice(assignment[layer.name]).costs for layer in problem.layers]
    costs += [pair.costs for pair in problem.pairs if pair.costs and {pair.first, pair.second} <= taken]
    return {budget.name: sum(row[position] for row in costs) for position, budget in enumerate(problem.budgets)}


def _gap(objective: int, bound: int) -> float:
    missing = objective - bound
    return float(Fraction(missing, max(abs(objective), abs(bound)))) if missing else 0.0


def _status(found: _Found, gap: float | None, stop: Limits) -> Status:
    if found.infeasible:
        return "infeasible"
    if gap is None:
        return "timeout"
    return "optimal" if gap <= max(stop.relative_gap, ROUNDING) else "feasible"


def _round_down(exact: Fraction, *, closed: bool) -> float:
    """The bound as a float that is not above it, unless bound and objective are the same number (``closed``)."""
    nearest = float(exact)
    return nearest if closed or Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)


def _binding(problem: AllocationProblem, found: _Found, used: dict[str, int]) -> tuple[BindingBudget, ...]:
    if not used:
        return ()
    prices = (float(price / (1 << found.price_bits)) for price in found.prices)
    return tuple(
        BindingBudget(budget.name, budget.limit - used[budget.name], price)
        for budget, price in zip(problem.budgets, prices, strict=True)
        if price
    )
