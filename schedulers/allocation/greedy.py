"""What people do without a solver: honest baselines for the benchmarks, none of them optimal.

Each returns layer name -> choice name, or ``None`` if it ends up outside a budget. Ties, forced and forbidden choices
are respected.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ...ir.errors import ScheduleError
from .dominance import Option, SuperLayer, loss_scale, merge_ties
from .problem import AllocationProblem, Choice
from .ties import Member, groups, start


def greedy_ratio(problem: AllocationProblem) -> dict[str, str] | None:
    """From the cheapest choices, repeatedly the step with the best saved loss per fraction of the budgets that fits.

    Cheapest means the least sum of cost / limit over the budgets.
    """
    state = _Cheapest(problem)
    if not state.fits():
        return None
    steps = [state.steps(place) for place in range(len(state.layers))]
    while True:
        fitting = [
            (ratio, -place, option)
            for place, row in enumerate(steps)
            for ratio, option in [next((step for step in row if state.fits_with(place, step[1])), (0.0, None))]
            if option is not None
        ]
        if not fitting:
            return state.assignment()
        _, place, option = max(fitting, key=lambda step: step[:2])
        state.take(-place, option)
        steps[-place] = state.steps(-place)


def greedy_promote(problem: AllocationProblem) -> dict[str, str] | None:
    """Sort layers by sensitivity and promote them from the cheapest to the best choice until the budgets are spent.

    This is the scheme of NNCF's and Olive's mixed precision: two choices per layer, the most sensitive layer first
    (sensitivity: the loss of its cheapest choice), stopping at the first layer that does not fit.
    """
    state = _Cheapest(problem)
    if not state.fits():
        return None
    for place in sorted(range(len(state.layers)), key=lambda place: (-state.picks[place].loss, place)):
        best = min(state.layers[place].options, key=lambda option: (option.loss, state.weight(option)))
        if not state.fits_with(place, best):
            break
        state.take(place, best)
    return state.assignment()


def uniform(problem: AllocationProblem) -> dict[str, str] | None:
    """The one choice name that all layers may take, meets the budgets, and has the least loss."""
    refuse_pairs(problem)
    if not problem.layers:
        return {}
    found = groups(problem)
    best: tuple[Fraction, str] | None = None
    for choice in problem.layers[0].choices:
        picks = _all_named(found, choice.name)
        if picks is not None and _fits(problem, picks):
            candidate = (sum((Fraction(pick.loss) for pick in picks), Fraction(0)), choice.name)
            best = candidate if best is None else min(best, candidate)
    return None if best is None else {layer.name: best[1] for layer in problem.layers}


def refuse_pairs(problem: AllocationProblem) -> None:
    """Raise ``ScheduleError`` for what these schemes do not see."""
    if problem.pairs:
        raise ScheduleError(
            f"greedy: expected layers that add up, found {len(problem.pairs)} pairs; leave them out, or use solve"
        )


def _all_named(found: Sequence[Sequence[Member]], name: str) -> list[Choice] | None:
    """Everybody's choice of this name, if all have it and may take it together."""
    picks: list[Choice] = []
    for group in found:
        key = start(group)
        for member in group:
            own = next(((choice, classes) for choice, classes in member.choices if choice.name == name), None)
            joined = None if own is None else member.join(key, own[1])
            if own is None or joined is None:
                return None
            picks.append(own[0])
            key = joined
    return picks


def _fits(problem: AllocationProblem, picks: Sequence[Choice]) -> bool:
    return all(
        sum(choice.costs[position] for choice in picks) <= budget.limit
        for position, budget in enumerate(problem.budgets)
    )


class _Cheapest:
    """An assignment under construction, starting from the cheapest option of every tie group."""

    def __init__(self, problem: AllocationProblem) -> None:
        refuse_pairs(problem)
        self.layers: tuple[SuperLayer, ...] = merge_ties(problem, loss_scale(problem))
        self._unit = 1 << sum(loss_scale(problem))
        self._limits = [budget.limit for budget in problem.budgets]
        self._weights = [1 / max(limit, 1) for limit in self._limits]
        self.picks = [
            min(layer.options, key=lambda option: (self.weight(option), option.loss)) for layer in self.layers
        ]
        self._used = [sum(option.costs[b] for option in self.picks) for b in range(len(self._limits))]

    def weight(self, option: Option) -> float:
        """Summed fraction of the limits that the option uses."""
        return sum(cost * weight for cost, weight in zip(option.costs, self._weights, strict=True))

    def steps(self, place: int) -> list[tuple[float, Option]]:
        """The options that save loss, best ratio first."""
        loss = self.picks[place].loss
        better = [(self._ratio(place, option), option) for option in self.layers[place].options if option.loss < loss]
        return sorted(better, key=lambda step: -step[0])

    def _ratio(self, place: int, option: Option) -> float:
        """Saved loss per additional weight."""
        spent = self.weight(option) - self.weight(self.picks[place])
        return (self.picks[place].loss - option.loss) / self._unit / spent if spent > 0 else float("inf")

    def fits(self) -> bool:
        """Whether all limits are met."""
        return all(used <= limit for used, limit in zip(self._used, self._limits, strict=True))

    def fits_with(self, place: int, option: Option) -> bool:
        """Whether all limits are met after replacing one option."""
        before = self.picks[place].costs
        changes = zip(self._used, before, option.costs, self._limits, strict=True)
        return all(used - old + new <= limit for used, old, new, limit in changes)

    def take(self, place: int, option: Option) -> None:
        """Replace one option."""
        before = self.picks[place].costs
        self._used = [used - old + new for used, old, new in zip(self._used, before, option.costs, strict=True)]
        self.picks[place] = option

    def assignment(self) -> dict[str, str]:
        """Layer name to choice name."""
        pairs = zip(self.layers, self.picks, strict=True)
        return {
            member: name for layer, option in pairs for member, name in zip(layer.members, option.names, strict=True)
        }
