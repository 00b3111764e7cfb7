"""Why no assignment meets the budgets: which one cannot be met, and the smallest limit that can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .dominance import Option, ReducedProblem
from .minimise import Limits, minimise
from .problem import AllocationProblem, Infeasibility


@dataclass(frozen=True)
class Least:
    """The smallest sum of one cost that was found, and whether none is smaller."""

    value: int
    proven: bool


Minimum = Callable[[int, Sequence[int]], Least | None]
"""The least of one budget while others are held; ``None`` if those cannot be met together, or time is up."""


def explain_infeasible(problem: AllocationProblem, reduced: ReducedProblem, stop: Limits) -> tuple[Infeasibility, ...]:
    """``explain`` for problems without pairs."""
    exact = replace(stop, relative_gap=0.0)

    def least(budget: int, held: Sequence[int]) -> Least | None:
        layers = [
            [Option(o.names, o.costs[budget], tuple(o.costs[b] for b in held)) for o in layer.options]
            for layer in reduced.layers
        ]
        outcome = minimise(layers, [reduced.limits[b] for b in held], exact)
        return None if outcome.picks is None else Least(outcome.objective, outcome.bound == outcome.objective)

    return explain(problem, least)


def explain(problem: AllocationProblem, least: Minimum) -> tuple[Infeasibility, ...]:
    """The budgets that cannot be met, each with its smallest feasible value; at least one.

    If some limits are below what even the cheapest choices cost, these are named, each minimised while the attainable
    ones are held. Otherwise the budgets conflict: every budget is named whose increase alone makes it feasible.
    If no single increase does, budgets are held one after the other in the problem's order, and the first that does
    not go with the ones before it is named.
    """
    everything = range(len(problem.budgets))
    alone = [_entry(problem, b, (), least(b, ())) for b in everything]
    hopeless = [b for b in everything if (entry := alone[b]) is not None and entry.smallest_feasible > entry.limit]
    if hopeless:
        held = [b for b in everything if b not in hopeless]
        entries = (_entry(problem, b, held, least(b, held)) or alone[b] for b in hopeless)
        return tuple(entry for entry in entries if entry is not None)
    others = ([other for other in everything if other != b] for b in everything)
    found = [_entry(problem, b, held, least(b, held)) for b, held in zip(everything, others, strict=True)]
    named = tuple(entry for entry in found if entry is not None and entry.smallest_feasible > entry.limit)
    return named or _first_conflict(problem, least)


def _first_conflict(problem: AllocationProblem, least: Minimum) -> tuple[Infeasibility, ...]:
    for budget in range(len(problem.budgets)):
        held = list(range(budget))
        entry = _entry(problem, budget, held, least(budget, held))
        if entry is not None and entry.smallest_feasible > entry.limit:
            return (entry,)
    return ()


def _entry(problem: AllocationProblem, budget: int, held: Sequence[int], found: Least | None) -> Infeasibility | None:
    if found is None:
        return None
    names = tuple(problem.budgets[other].name for other in held)
    asked = problem.budgets[budget]
    return Infeasibility(asked.name, asked.limit, found.value, names, found.proven)
