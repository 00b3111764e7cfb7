"""Exact minimisation: prices, then a small core, then a proof on what the small core left open.

1. The linear relaxation prices the budgets; the Lagrangian bound with these prices is exact (``lagrangian.py``).
2. Options close to their layer's priced minimum form the core. Solving the core gives a good assignment.
3. Any better assignment only has options whose reduced loss is below ``objective - bound``. CP-SAT searches all of
   those relative to the assignment at hand, until none is better. Nothing is left out and nothing is rounded away.

The idea of the core is from Pisinger, "A minimal algorithm for the multiple-choice knapsack problem" (EJOR 83, 1995).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .core import CoreResult, Effort, solve_core
from .dominance import Option
from .lagrangian import Relaxation, relax

FIRST_CORE = 256
"""Options in the first core beyond one per layer."""
FIRST_STEPS = 1.0
"""Deterministic time of a core that only looks for an assignment; doubled whenever the core grows."""


@dataclass(frozen=True)
class Limits:
    """When to stop: a moment of ``time.perf_counter``, a gap as a fraction of the objective; seed and workers."""

    deadline: float
    relative_gap: float = 0.0
    seed: int = 0
    workers: int = 1

    def remaining_s(self) -> float:
        """Seconds left, possibly negative."""
        return self.deadline - time.perf_counter()

    def effort(self, steps: float = float("inf")) -> Effort:
        """What one call of the solver may use."""
        return Effort(self.remaining_s(), steps, self.seed, self.workers)


@dataclass(frozen=True)
class Outcome:
    """``picks`` (``None`` without an assignment), their loss, a lower bound, and the budgets' prices, in loss units."""

    picks: tuple[int, ...] | None
    objective: int
    bound: int
    prices: tuple[int, ...]
    infeasible: bool = False


def minimise(layers: Sequence[Sequence[Option]], limits: Sequence[int], stop: Limits) -> Outcome:
    """The options with the least summed loss whose costs stay within the limits.

    Args:
        layers: options per layer, at least one each.
        limits: one per cost.
        stop: time limit, gap, seed, workers.
    """
    active = [p for p, limit in enumerate(limits) if _total(layers, p, max) > limit]
    if any(_total(layers, position, min) > limits[position] for position in active):
        return Outcome(None, 0, 0, tuple(0 for _ in limits), infeasible=True)
    if not active:
        return _unlimited(layers, limits)
    rows = [[Option(o.name, o.loss, tuple(o.costs[p] for p in active)) for o in options] for options in layers]
    outcome = _Search(rows, [limits[position] for position in active], stop).run()
    prices = dict(zip(active, outcome.prices, strict=True))
    spread = tuple(prices.get(position, 0) for position in range(len(limits)))
    return Outcome(outcome.picks, outcome.objective, outcome.bound, spread, outcome.infeasible)


def _unlimited(layers: Sequence[Sequence[Option]], limits: Sequence[int]) -> Outcome:
    """No budget can be exceeded: every layer takes its best option."""
    picks = tuple(min(range(len(options)), key=[option.loss for option in options].__getitem__) for options in layers)
    objective = sum(options[j].loss for options, j in zip(layers, picks, strict=True))
    return Outcome(picks, objective, objective, tuple(0 for _ in limits))


def _total(layers: Sequence[Sequence[Option]], position: int, which: Callable[[Iterable[int]], int]) -> int:
    return sum(which(option.costs[position] for option in options) for options in layers)


class _Search:
    """One minimisation: the incumbent and the bound, improved until they meet or time is up."""

    def __init__(self, layers: Sequence[Sequence[Option]], limits: Sequence[int], stop: Limits) -> None:
        self._layers, self._limits, self._stop = layers, limits, stop
        self._relaxation: Relaxation = relax(layers, limits, stop.remaining_s())
        cheapest = sum(min(option.loss for option in options) for options in layers)
        self._bound = max(self._relaxation.bound, cheapest)
        self._picks: tuple[int, ...] | None = None
        self._objective = 0

    def run(self) -> Outcome:
        """Find a first assignment, then improve and prove it."""
        if self._find():
            return Outcome(None, 0, 0, self._relaxation.prices, infeasible=True)
        while self._picks is not None and self._open() and self._stop.remaining_s() > 0 and self._improve():
            pass
        return Outcome(self._picks, self._objective, self._bound, self._relaxation.prices)

    def _find(self) -> bool:
        """Solve growing cores until one holds an assignment; true if there is none at all."""
        distances = sorted(value for row in self._relaxation.reduced for value in row)
        size, steps = len(self._layers) + FIRST_CORE, FIRST_STEPS
        while self._picks is None and self._stop.remaining_s() > 0:
            everything = size >= len(distances)
            kept = self._within(distances[min(size, len(distances)) - 1]) if distances else []
            reference = [min(self._layers[i][j].loss for j in row) for i, row in enumerate(kept)]
            result = self._solve(kept, reference, float("inf") if everything else steps)
            if everything and result.status == "infeasible":
                return True
            if everything and self._picks is not None:
                self._raise_bound(sum(reference) + result.above)
            size, steps = size * 4, steps * 2
        return False

    def _improve(self) -> bool:
        """Search everything that may beat the incumbent; true if it was beaten and may be again."""
        before, picks = self._objective, self._picks or ()
        kept = self._within(before - self._relaxation.bound)
        result = self._solve(kept, [self._layers[i][j].loss for i, j in enumerate(picks)], float("inf"))
        if result.status == "infeasible":  # cannot be: the incumbent is among the options
            return False
        self._raise_bound(min(before, before + result.above))
        return self._objective < before

    def _within(self, distance: int) -> list[list[int]]:
        """Positions of the options whose reduced loss is at most ``distance``."""
        return [[j for j, value in enumerate(row) if value <= distance] for row in self._relaxation.reduced]

    def _solve(self, kept: Sequence[Sequence[int]], reference: Sequence[int], steps: float) -> CoreResult:
        options = [[self._layers[i][j] for j in row] for i, row in enumerate(kept)]
        target = self._good_enough() - sum(reference)
        result = solve_core(options, self._limits, reference, target, self._stop.effort(steps))
        if result.picks:
            self._offer(tuple(row[place] for row, place in zip(kept, result.picks, strict=True)))
        return result

    def _offer(self, picks: tuple[int, ...]) -> None:
        objective = sum(self._layers[i][j].loss for i, j in enumerate(picks))
        if self._picks is None or objective < self._objective:
            self._picks, self._objective = picks, objective

    def _raise_bound(self, bound: int) -> None:
        self._bound = min(max(self._bound, bound), self._objective)

    def _good_enough(self) -> int:
        """The largest loss that is within the gap of the bound: ``(loss - bound) <= gap * loss``."""
        return self._bound + int(self._bound * Fraction(self._stop.relative_gap))

    def _open(self) -> bool:
        return self._objective > self._good_enough()
