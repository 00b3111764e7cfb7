"""Exact minimisation: prices, a first assignment, then a search of what may still be better, until nothing is.

1. The linear relaxation prices the budgets (``prices.py``); rounding gives an assignment (``rounding.py``).
2. A better assignment only has options whose distance from their layer's priced minimum is below what is open between
   assignment and bound. These form the core, and it shrinks with every better assignment.
3. Bounded dynamic programming (``bounded_search.py``) with growing width improves the assignment and proves it.
4. What it cannot close within its work is left to CP-SAT (``core.py``), on the same core, with the same bounds.

Every claim is made in whole numbers: objectives are summed exactly, bounds computed in floats are lowered by more than
their rounding errors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np

from .bounded_core import build_core, price_vectors, suffixes
from .bounded_search import BoundedSearch, Work
from .dominance import Option
from .effort import CoreResult, Effort
from .prices import dual_prices
from .rounding import first_assignment
from .table import EPSILON, Integers, tabulate

WIDTHS = (32, 512, 8192, 65536)
"""Partial assignments per layer in one pass of the bounded search, then in the next."""

BLIND_WIDTH = 512
"""Without any assignment at this width, CP-SAT looks for one."""

MOST_WORK = 6_000_000
"""Evaluations of the bounded search; what they cannot close is left to CP-SAT."""

WORK_PER_S = 5_000_000
"""Evaluations that count as one deterministic second."""

CLOSER = 1.0 - 2.0**-20
"""Share of the gap that the bounded search leaves open, so that what it proves, rounded down, is within the gap."""

FIRST_CORE = 256
"""Options in the first core beyond one per layer."""
FIRST_STEPS = 1.0
"""Deterministic time of a core that only looks for an assignment; doubled whenever the core grows."""


@dataclass(frozen=True)
class Limits:
    """When to stop: a moment of ``time.perf_counter``, a gap as a fraction of the objective; seed and workers.

    ``work`` is in deterministic seconds, the same amount in every run.
    """

    deadline: float
    relative_gap: float = 0.0
    seed: int = 0
    workers: int = 1
    work: float = math.inf

    def remaining_s(self) -> float:
        """Seconds left, possibly negative."""
        return self.deadline - time.perf_counter()

    def effort(self, steps: float = float("inf")) -> Effort:
        """What one call of the solver may use."""
        return Effort(self.remaining_s(), min(steps, self.work), self.seed, self.workers)

    def evaluations(self) -> int:
        """What the bounded search may use."""
        return int(min(MOST_WORK, self.work * WORK_PER_S))


@dataclass(frozen=True)
class Outcome:
    """``picks`` (``None`` without an assignment), their loss, a lower bound, and the budgets' prices, in loss units."""

    picks: tuple[int, ...] | None
    objective: int
    bound: int
    prices: tuple[Fraction, ...]
    infeasible: bool = False


def minimise(layers: Sequence[Sequence[Option]], limits: Sequence[int], stop: Limits) -> Outcome:
    """The options with the least summed loss whose costs stay within the limits.

    Args:
        layers: options per layer, at least one each.
        limits: one per cost.
        stop: time limit, gap, seed, workers.
    """
    least, most = _totals(layers, len(limits))
    active = [position for position, limit in enumerate(limits) if most[position] > limit]
    if any(least[position] > limits[position] for position in active):
        return Outcome(None, 0, 0, tuple(Fraction(0) for _ in limits), infeasible=True)
    if not active:
        return _unlimited(layers, limits)
    if len(active) == len(limits):
        return _Search(layers, limits, stop).run()
    rows = [[Option(o.names, o.loss, tuple(o.costs[p] for p in active)) for o in options] for options in layers]
    outcome = _Search(rows, [limits[position] for position in active], stop).run()
    prices = dict(zip(active, outcome.prices, strict=True))
    spread = tuple(prices.get(position, Fraction(0)) for position in range(len(limits)))
    return Outcome(outcome.picks, outcome.objective, outcome.bound, spread, outcome.infeasible)


def _unlimited(layers: Sequence[Sequence[Option]], limits: Sequence[int]) -> Outcome:
    """No budget can be exceeded: every layer takes its best option."""
    picks = tuple(min(range(len(options)), key=[option.loss for option in options].__getitem__) for options in layers)
    objective = sum(options[j].loss for options, j in zip(layers, picks, strict=True))
    return Outcome(picks, objective, objective, tuple(Fraction(0) for _ in limits))


def _totals(layers: Sequence[Sequence[Option]], budgets: int) -> tuple[list[int], list[int]]:
    """The least and the largest sum of every cost."""
    if not layers or not budgets:
        return [0] * budgets, [0] * budgets
    sizes = [len(options) for options in layers]
    first = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    costs = chain.from_iterable(option.costs for options in layers for option in options)
    cost = np.fromiter(costs, np.int64).reshape(sum(sizes), budgets)
    least, most = np.minimum.reduceat(cost, first).sum(axis=0), np.maximum.reduceat(cost, first).sum(axis=0)
    return least.tolist(), most.tolist()


class _Search:
    """One minimisation: the incumbent and the bound, improved until they meet or time is up."""

    def __init__(self, layers: Sequence[Sequence[Option]], limits: Sequence[int], stop: Limits) -> None:
        self._layers, self._limits, self._stop = layers, limits, stop
        self._table = tabulate(layers, limits)
        self._exact = [option.loss for options in layers for option in options]
        self._prices = dual_prices(self._table)
        self._value = self._table.value(self._prices)
        self._least = self._table.least(self._value)
        self._margin = self._rounding()
        cheapest = sum(min(option.loss for option in options) for options in layers)
        relaxed = float(self._least.sum() - self._prices @ self._table.room)
        self._relaxed = relaxed - self._margin
        self._bound = max(math.floor(self._relaxed) << self._table.shift, cheapest)
        self._picks: tuple[int, ...] | None = None
        self._objective = 0

    def _rounding(self) -> float:
        """More than the rounding error of the relaxation's bound."""
        size = float(self._least.sum() + self._prices @ np.abs(self._table.room))
        return (len(self._layers) + 16) * EPSILON * size + 2.0 * len(self._layers) * bool(self._table.shift)

    def run(self) -> Outcome:
        """Find a first assignment, then improve and prove it."""
        if self._relaxed > self._largest():
            return self._outcome(infeasible=True)
        rounded = first_assignment(self._table, self._prices)
        if rounded is not None:
            self._offer(rounded)
        if self._search():
            return self._outcome(infeasible=True)
        if self._picks is None and self._find():
            return self._outcome(infeasible=True)
        while self._picks is not None and self._open() and self._stop.remaining_s() > 0 and self._improve():
            pass
        return self._outcome()

    def _largest(self) -> float:
        """More than any assignment loses: a bound above it proves that there is none."""
        largest = float(np.maximum.reduceat(self._table.loss, self._table.first[:-1]).sum())
        return largest * (1.0 + len(self._layers) * EPSILON) + len(self._layers)

    def _outcome(self, *, infeasible: bool = False) -> Outcome:
        prices = tuple(Fraction(float(price)) * (1 << self._table.shift) for price in self._prices)
        if infeasible:
            return Outcome(None, 0, 0, prices, infeasible=True)
        return Outcome(self._picks, self._objective, self._bound, prices)

    def _search(self) -> bool:
        """Bounded dynamic programming, each time wider; true if it proves that there is no assignment."""
        work = Work(self._stop.evaluations())
        for width in WIDTHS:
            if (self._picks is not None and not self._open()) or self._expired():
                return False
            core = build_core(self._table, self._exact, self._prices, self._kept())
            tails = suffixes(core, price_vectors(self._prices, core.room), self._table.shift)
            known = None if self._picks is None else self._objective
            search = BoundedSearch(core, tails, self._table.shift, known, self._stop.relative_gap * CLOSER)
            complete = search.run(width, work, self._expired)
            if search.picks is not None:
                chosen = core.picks.copy()
                for layer, pick in zip(core.layers, search.picks, strict=True):
                    chosen[self._table.layer[layer.position[pick]]] = layer.position[pick]
                self._offer(chosen)
            if not complete:
                return False
            if self._picks is None:
                if math.isinf(search.cut):
                    return True
                if width >= BLIND_WIDTH:
                    return False
            if self._picks is not None:
                beyond = self._objective if math.isinf(search.cut) else core.base + self._whole(search.cut)
                self._raise_bound(beyond)
        return False

    def _whole(self, value: float) -> int:
        return math.floor(value) << self._table.shift

    def _expired(self) -> bool:
        return self._stop.remaining_s() <= 0

    def _kept(self) -> Integers:
        """Positions in the table of the options that a better assignment may have."""
        table = self._table
        if self._picks is None:
            return np.arange(len(table.loss))
        open_ = float(self._objective >> table.shift) * (1.0 + EPSILON) + 1.0 - self._relaxed
        error = (len(self._limits) + 4) * EPSILON * (self._value + self._least[table.layer]) + 2.0 * bool(table.shift)
        return np.flatnonzero(self._value - self._least[table.layer] - error <= open_)

    def _find(self) -> bool:
        """Solve growing cores until one holds an assignment; true if there is none at all."""
        distance = self._value - self._least[self._table.layer]
        order = np.argsort(distance, kind="stable")
        size, steps = len(self._layers) + FIRST_CORE, FIRST_STEPS
        while self._picks is None and self._stop.remaining_s() > 0:
            everything = size >= len(order)
            kept = np.flatnonzero(distance <= distance[order[min(size, len(order)) - 1]])
            references = [min(self._exact[p] for p in row) for row in self._rows(kept)]
            result = self._solve(kept, references, float("inf") if everything else steps)
            if everything and self._picks is not None:
                self._raise_bound(sum(references) + result.above)
            if everything:
                return result.status == "infeasible"
            size, steps = size * 4, steps * 2
        return False

    def _improve(self) -> bool:
        """Search everything that may beat the incumbent; true if it was beaten and may be again."""
        before, picks = self._objective, self._picks or ()
        references = [options[pick].loss for options, pick in zip(self._layers, picks, strict=True)]
        result = self._solve(self._kept(), references, float("inf"))
        if result.status == "infeasible":  # cannot be: the incumbent is among the options
            return False
        self._raise_bound(min(before, before + result.above))
        return self._objective < before

    def _rows(self, kept: Integers) -> list[list[int]]:
        """The positions by layer."""
        rows: list[list[int]] = [[] for _ in self._layers]
        for position in kept:
            rows[int(self._table.layer[position])].append(int(position))
        return rows

    def _solve(self, kept: Integers, references: Sequence[int], steps: float) -> CoreResult:
        from .core import solve_core  # CP-SAT takes half a second to load, and is rarely needed

        rows, first = self._rows(kept), self._table.first
        options = [[self._layers[i][p - int(first[i])] for p in row] for i, row in enumerate(rows)]
        target = self._good_enough() - sum(references)
        result = solve_core(options, self._limits, references, target, self._stop.effort(steps))
        if result.picks:
            self._offer(np.array([row[place] for row, place in zip(rows, result.picks, strict=True)]))
        return result

    def _offer(self, positions: Integers) -> None:
        """Positions in the table, one per layer, that meet the limits."""
        objective = sum(self._exact[int(position)] for position in positions)
        if self._picks is None or objective < self._objective:
            first = self._table.first
            self._picks = tuple(int(position - first[i]) for i, position in enumerate(positions))
            self._objective = objective
            self._bound = min(self._bound, objective)

    def _raise_bound(self, bound: int) -> None:
        self._bound = min(max(self._bound, bound), self._objective)

    def _good_enough(self) -> int:
        """The largest loss that is within the gap of the bound: ``(loss - bound) <= gap * loss``."""
        return math.floor(self._bound / (1 - Fraction(self._stop.relative_gap)))

    def _open(self) -> bool:
        return self._objective > self._good_enough()
