"""Bounded dynamic programming: partial assignments layer by layer, as few as bounds and dominance leave.

A partial assignment goes where another costs no more and loses no more, and where its loss plus the Lagrangian bound of
what is left (``bounded_core.py``) is not below the best assignment known. Every survivor is also completed by what the
prices choose, which is how assignments improve. If more than ``width`` survive, those with the smallest bounds stay;
the smallest bound that was cut off then bounds all assignments, so a search that is too wide still ends with a proven
gap. Without a cut, the assignment is proven optimal.

Losses are compared in floating point with margins above the rounding error, and in whole numbers where that does not
decide; costs always are whole numbers. The scheme is the dynamic programming of Dyer, Riha and Walker (J. Comput. Appl.
Math. 58, 1995) and Pisinger (EJOR 83, 1995) with bounds from several vectors of prices, so that it needs no change for
several budgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .bounded_core import Core, CoreLayer, Suffixes
from .table import EPSILON, Floats, Integers

NEIGHBOURS = 48
"""With several budgets, dominance is looked for among as many predecessors in the order of loss."""

COMPLETED = 256
"""Partial assignments per layer, smallest bound first, that are completed."""

ROWS = 4096
"""Partial assignments that are bounded at a time."""


@dataclass(frozen=True)
class States:
    """Partial assignments: ``cost`` ``[states, budgets]``, ``loss`` in floats and ``exact`` in whole units."""

    cost: Integers
    loss: Floats
    exact: NDArray[np.object_]


@dataclass
class Work:
    """Evaluations that are left: a search ends at the same place in every run."""

    left: int


class BoundedSearch:
    """One pass over the core's layers.

    Args:
        core: the open layers.
        tails: their bounds.
        shift: as in the table.
        incumbent: exact loss of the best assignment known, or ``None``.
        gap: an assignment within this fraction of the best one is good enough.
    """

    def __init__(self, core: Core, tails: Suffixes, shift: int, incumbent: int | None, gap: float = 0.0) -> None:
        self._core, self._tails, self._shift, self._gap = core, tails, shift, Fraction(gap)
        self._parents: list[tuple[Integers, Integers]] = []
        reach = sum((float(np.abs(layer.loss).max()) for layer in core.layers), 0.0)
        self._margin = (len(core.layers) + 8) * EPSILON * reach + (len(core.layers) + 2.0 if shift else 0.0)
        self.best, self.picks, self.cut = incumbent, None, math.inf
        self._limit = self._worthwhile()

    best: int | None
    """Exact loss of the best assignment."""
    picks: tuple[int, ...] | None
    """Its options of the core's layers, if this search found it."""
    cut: float
    """Smallest bound that was cut off although it is below the best assignment; relative to the core's base."""

    def run(self, width: int, work: Work, expired: Callable[[], bool]) -> bool:
        """Search; false if work or time ran out before the last layer, so that ``cut`` says nothing."""
        states = States(np.zeros((1, len(self._core.room)), np.int64), np.zeros(1), np.array([0], dtype=object))
        for t, layer in enumerate(self._core.layers):
            work.left -= len(states.loss) * len(layer.loss)
            if work.left <= 0 or expired():
                return False
            states = self._step(t, layer, states, width, work)
            if not len(states.loss):
                return True
        self._offer(len(self._core.layers), min(range(len(states.exact)), key=states.exact.__getitem__), 0)
        return True

    def _step(self, t: int, layer: CoreLayer, states: States, width: int, work: Work) -> States:
        """All extensions by one layer that may lead to something better."""
        room = self._core.room - self._tails.least[t + 1]
        fitting = [np.flatnonzero((states.cost + cost <= room).all(axis=1)) for cost in layer.cost]
        parent = np.concatenate(fitting)
        option = np.repeat(np.arange(len(fitting)), [len(each) for each in fitting])
        cost, loss = states.cost[parent] + layer.cost[option], states.loss[parent] + layer.loss[option]
        bound = self._bound(t + 1, cost, loss, work)
        self._parents.append((parent, option))
        self._complete(t + 1, cost, loss, bound)
        kept = np.flatnonzero(bound < self._limit)
        exact = states.exact[parent[kept]] + np.array(layer.exact, dtype=object)[option[kept]]
        below = undominated(States(cost[kept], loss[kept], exact), self._margin)
        below = self._narrowed(below, bound[kept], width)
        kept, exact = kept[below], exact[below]
        self._parents[-1] = (parent[kept], option[kept])
        return States(cost[kept], loss[kept], exact)

    def _bound(self, t: int, cost: Integers, loss: Floats, work: Work) -> Floats:
        """Below every completion by the layers from ``t`` on: the best prices first, all prices where it matters."""
        tails, left = self._tails, (self._core.room - cost).astype(np.float64)
        bound = loss + tails.value[t, 0] - left @ tails.prices[0]
        promising = np.flatnonzero(bound < self._limit)
        work.left -= len(promising) * len(tails.prices) // 8
        for start in range(0, len(promising), ROWS):
            rows = promising[start : start + ROWS]
            bound[rows] = (loss[rows, None] + tails.value[t] - left[rows] @ tails.prices.T).max(axis=1)
        return bound

    def _complete(self, t: int, cost: Integers, loss: Floats, bound: Floats) -> None:
        """Complete the most promising states by what each vector of prices chooses; keep what is better."""
        tails = self._tails
        rows = np.flatnonzero(bound < self._limit)
        rows = rows[np.argsort(bound[rows], kind="stable")[:COMPLETED]]
        if not len(rows):
            return
        left = self._core.room - cost[rows]
        fits = (tails.cost[t][None] <= left[:, None]).all(axis=2)
        total = np.where(fits, loss[rows][:, None] + tails.loss[t][None], math.inf)
        place = int(total.argmin())
        if total.flat[place] < self._limit:
            self._offer(t, int(rows[place // len(tails.prices)]), place % len(tails.prices))

    def _offer(self, t: int, state: int, prices: int) -> None:
        """Take the state, completed under the prices, if it is better in whole units."""
        chosen: list[int] = []
        for parent, option in reversed(self._parents):
            chosen.append(int(option[state]))
            state = int(parent[state])
        picks = (*reversed(chosen), *(int(option) for option in self._tails.pick[t:, prices]))
        exact = self._core.base + sum(layer.exact[pick] for layer, pick in zip(self._core.layers, picks, strict=True))
        if self.best is None or exact < self.best:
            self.best, self.picks = exact, picks
            self._limit = self._worthwhile()

    def _worthwhile(self) -> float:
        """A bound from here on cannot lead to a better assignment, or not to one that is enough better."""
        if self.best is None:
            return math.inf
        wanted = self.best - math.floor(self.best * self._gap) - self._core.base
        limit = float(wanted >> self._shift)
        if self._gap:
            self.cut = min(self.cut, limit)
        return limit + abs(limit) * EPSILON + (2.0 if self._shift else 0.0)

    def _narrowed(self, kept: Integers, bound: Floats, width: int) -> Integers:
        """At most ``width`` of them, smallest bounds first; what is cut off is remembered by its bound."""
        if len(kept) <= width:
            return kept
        order = np.argsort(bound[kept], kind="stable")
        self.cut = min(self.cut, float(bound[kept[order[width]]]))
        return np.sort(kept[order[:width]])


def undominated(states: States, margin: float) -> Integers:
    """Positions of states that none of those compared with them beats in every respect; ties leave the first."""
    return _undominated_line(states, margin) if states.cost.shape[1] == 1 else _undominated_near(states, margin)


def _undominated_line(states: States, margin: float) -> Integers:
    """One budget: in the order of loss, the cost must fall."""
    order = np.lexsort((states.cost[:, 0], states.loss))
    cost, loss = states.cost[order, 0], states.loss[order]
    lowest = np.minimum.accumulate(cost)
    kept = np.ones(len(order), dtype=bool)
    kept[1:] = cost[1:] < lowest[:-1]
    holder = np.maximum.accumulate(np.where(kept, np.arange(len(order)), 0))
    for place in np.flatnonzero(~kept & (loss - loss[holder] <= margin)):
        kept[place] = states.exact[order[holder[place]]] > states.exact[order[place]]
    return np.sort(order[kept])


def _undominated_near(states: States, margin: float) -> Integers:
    """Several budgets: compared with some predecessors in the order of loss."""
    order = np.lexsort((*states.cost.T, states.loss))
    cost, loss, exact = states.cost[order], states.loss[order], states.exact[order]
    kept = np.ones(len(order), dtype=bool)
    for distance in range(1, min(NEIGHBOURS, len(order))):
        beaten = np.all(cost[:-distance] <= cost[distance:], axis=1)
        close = np.flatnonzero(beaten & (loss[distance:] - loss[:-distance] <= margin))
        beaten[close] = exact[close] <= exact[close + distance]
        kept[distance:] &= ~beaten
    return np.sort(order[kept])
