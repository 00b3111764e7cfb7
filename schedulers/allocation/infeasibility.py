"""Why no assignment meets the budgets: which one cannot be met, and the smallest limit that can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .dominance import Option, ReducedProblem
from .minimise import Limits, Outcome, minimise
from .problem import AllocationProblem, Infeasibility


def explain_infeasible(problem: AllocationProblem, reduced: ReducedProblem, stop: Limits) -> tuple[Infeasibility, ...]:
    """The budgets that cannot be met, each with its smallest feasible value; at least one.

    If some limits are below what even the cheapest choices cost, these are named, each minimised while the attainable
    ones are held. Otherwise the budgets conflict: every budget is named whose increase alone makes it feasible.
    If no single increase does, budgets are held one after the other in the problem's order, and the first that does
    not go with the ones before it is named.
    """
    search = _Minima(problem, reduced, replace(stop, relative_gap=0.0))
    everything = range(len(problem.budgets))
    hopeless = [b for b in everything if search.alone(b) > reduced.limits[b]]
    if hopeless:
        held = [b for b in everything if b not in hopeless]
        return tuple(search.entry(b, held) or search.entry_alone(b) for b in hopeless)
    found = [search.entry(b, [other for other in everything if other != b]) for b in everything]
    named = tuple(entry for entry in found if entry is not None and entry.smallest_feasible > entry.limit)
    return named or search.first_conflict()


class _Minima:
    """Smallest values of single budgets while others are held."""

    def __init__(self, problem: AllocationProblem, reduced: ReducedProblem, stop: Limits) -> None:
        self._problem, self._reduced, self._stop = problem, reduced, stop

    def alone(self, budget: int) -> int:
        return sum(min(option.costs[budget] for option in layer.options) for layer in self._reduced.layers)

    def entry(self, budget: int, held: Sequence[int]) -> Infeasibility | None:
        """The smallest value while ``held`` are met, or ``None`` if those cannot be met together (or time is up)."""
        outcome = self._minimise(budget, held)
        if outcome.picks is None:
            return None
        names = tuple(self._problem.budgets[other].name for other in held)
        value, proven = outcome.objective, outcome.bound == outcome.objective
        return Infeasibility(self._problem.budgets[budget].name, self._reduced.limits[budget], value, names, proven)

    def entry_alone(self, budget: int) -> Infeasibility:
        return Infeasibility(self._problem.budgets[budget].name, self._reduced.limits[budget], self.alone(budget))

    def first_conflict(self) -> tuple[Infeasibility, ...]:
        held: list[int] = []
        for budget, limit in enumerate(self._reduced.limits):
            entry = self.entry(budget, held)
            if entry is not None and entry.smallest_feasible > limit:
                return (entry,)
            held.append(budget)
        return ()

    def _minimise(self, budget: int, held: Sequence[int]) -> Outcome:
        layers = [
            [Option(o.name, o.costs[budget], tuple(o.costs[b] for b in held)) for o in layer.options]
            for layer in self._reduced.layers
        ]
        return minimise(layers, [self._reduced.limits[b] for b in held], self._stop)
