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
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from .best_so_far import BestSoFar, Found
from .bounded_core import Core, CoreLayer, Suffixes
from .table import EPSILON, Floats, Integers

NEIGHBOURS = 48
"""With several budgets, dominance is looked for among as many predecessors in the order of loss ..."""

ALL = 640
"""... and among all of them where there are at most as many."""

COMPLETED = 256
"""Partial assignments per layer, smallest bound first, that are completed."""

ROWS = 4096
"""Partial assignments that are bounded at a time."""


@dataclass(frozen=True)
class States:
    """Partial assignments: ``cost`` ``[budgets, states]``, ``loss`` in floats and ``exact`` in whole units."""

    cost: Integers
    loss: Floats
    exact: NDArray[np.object_]


@dataclass(frozen=True)
class _Extended:
    """States by one layer more: the ``option`` that each took after its ``parent``, and a bound of all that follows."""

    parent: Integers
    option: Integers
    cost: Integers
    loss: Floats
    bound: Floats


@dataclass
class Work:
    """Evaluations that are left: a search ends at the same place in every run."""

    left: int


class BoundedSearch(BestSoFar):
    """One pass over the core's layers.

    Args:
        core: the open layers.
        tails: their bounds.
        shift: as in the table.
        incumbent: exact loss of the best assignment known, or ``None``.
        gap: an assignment within this fraction of the best one is good enough.
    """

    def __init__(self, core: Core, tails: Suffixes, shift: int, incumbent: int | None, gap: float = 0.0) -> None:
        super().__init__(incumbent, gap, shift, core.base)
        self._core, self._tails = core, tails
        self._behind: dict[int, list[int]] = {}
        reach = sum((float(np.abs(layer.loss).max()) for layer in core.layers), 0.0)
        self._margin = (len(core.layers) + 8) * EPSILON * reach + (len(core.layers) + 2.0 if shift else 0.0)

    @property
    def picks(self) -> tuple[int, ...] | None:
        """The options of the core's layers in the best assignment, if this search found it."""
        if self._found is None:
            return None
        chosen = self._chosen(self._found)
        return (*chosen, *self._tails.pick[len(chosen) :, self._found.prices].tolist())

    def run(self, width: int, work: Work, expired: Callable[[], bool]) -> bool:
        """Search; false if work or time ran out before the last layer, so that ``cut`` says nothing."""
        budgets, number = len(self._core.room), len(self._core.layers)
        states = States(np.zeros((budgets, 1), np.int64), np.zeros(1), np.array([0], dtype=object))
        for t, layer in enumerate(self._core.layers):
            work.left -= len(states.loss) * len(layer.loss)
            if work.left <= 0 or expired():
                return False
            states = self._step(t, layer, states, width, work)
            if not len(states.loss):
                return True
        place = min(range(len(states.exact)), key=states.exact.__getitem__)
        self._offer(states.exact[place], Found(number, place, None, 0))
        return True

    def _step(self, t: int, layer: CoreLayer, states: States, width: int, work: Work) -> States:
        """All extensions by one layer that may lead to something better."""
        made = self._extended(t, layer, states, work)
        exact = np.array(layer.exact, dtype=object)
        self._complete(t, made, states, exact)
        kept = np.flatnonzero(made.bound < self._limit)
        total = states.exact[made.parent[kept]] + exact[made.option[kept]]
        below = undominated(States(made.cost[:, kept], made.loss[kept], total), self._margin)
        below = self._narrowed(below, made.bound[kept], width)
        kept = kept[below]
        self._parents.append((made.parent[kept], made.option[kept]))
        return States(made.cost[:, kept], made.loss[kept], total[below])

    def _extended(self, t: int, layer: CoreLayer, states: States, work: Work) -> _Extended:
        """All extensions by one layer that leave enough for the least costs of the others."""
        room = self._core.room - self._tails.least[t + 1]
        cost = states.cost[:, None, :] + layer.cost.T[:, :, None]
        fits = _within(cost, room[:, None, None])
        option, parent = np.nonzero(fits)
        loss = states.loss[parent] + layer.loss[option]
        return _Extended(parent, option, cost[:, fits], loss, self._bound(t + 1, cost[:, fits], loss, work))

    def _bound(self, t: int, cost: Integers, loss: Floats, work: Work) -> Floats:
        """Below every completion by the layers from ``t`` on: the best prices first, all prices where it matters."""
        tails, left = self._tails, (self._core.room[:, None] - cost).astype(np.float64)
        bound = loss + tails.value[t, 0] - tails.prices[0] @ left
        promising = np.flatnonzero(bound < self._limit)
        work.left -= len(promising) * len(tails.prices) // 8
        for start in range(0, len(promising), ROWS):
            rows = promising[start : start + ROWS]
            bound[rows] = loss[rows] + (tails.value[t][:, None] - tails.prices @ left[:, rows]).max(axis=0)
        return bound

    def _complete(self, t: int, made: _Extended, states: States, exact: NDArray[np.object_]) -> None:
        """Complete the most promising states by what each vector of prices chooses; keep what is better."""
        tails = self._tails
        rows = np.flatnonzero(made.bound < self._limit)
        if len(rows) > COMPLETED:
            rows = rows[np.argsort(made.bound[rows], kind="stable")[:COMPLETED]]
        left = self._core.room[:, None] - made.cost[:, rows]
        total = made.loss[rows] + tails.loss[t + 1][:, None]
        total[~_within(tails.cost[t + 1][:, :, None], left[:, None, :])] = math.inf
        if not total.size or total.min() >= self._limit:
            return
        prices, row = divmod(int(total.argmin()), len(rows))
        parent, option = int(made.parent[rows[row]]), int(made.option[rows[row]])
        behind = self._losses_behind(prices)[t + 1]
        self._offer(states.exact[parent] + exact[option] + behind, Found(t, parent, option, prices))

    def _losses_behind(self, prices: int) -> list[int]:
        """What the layers from each one on lose in whole units where the prices choose: ``[layers + 1]``."""
        if prices not in self._behind:
            picks = self._tails.pick[:, prices].tolist()
            losses = [layer.exact[pick] for layer, pick in zip(self._core.layers, picks, strict=True)]
            self._behind[prices] = list(accumulate(reversed(losses), initial=0))[::-1]
        return self._behind[prices]


def _within(cost: Integers, room: Integers) -> NDArray[np.bool_]:
    """Whether all costs are within what is left; both ``[budgets, ...]``, of shapes that go together."""
    fits = cost[0] <= room[0]
    for more, limit in zip(cost[1:], room[1:], strict=True):
        fits &= more <= limit
    return fits


def undominated(states: States, margin: float) -> Integers:
    """Positions of states that none of those compared with them beats in every respect; ties leave the first."""
    if not len(states.cost):
        return np.array([min(range(len(states.exact)), key=states.exact.__getitem__)][: len(states.exact)], np.int64)
    if len(states.cost) == 1:
        return _undominated_line(states, margin)
    return _undominated_of_all(states, margin) if len(states.loss) <= ALL else _undominated_near(states, margin)


def _undominated_line(states: States, margin: float) -> Integers:
    """One budget: in the order of loss, the cost must fall."""
    order = np.lexsort((states.cost[0], states.loss))
    cost, loss = states.cost[0, order], states.loss[order]
    lowest = np.minimum.accumulate(cost)
    kept = np.ones(len(order), dtype=bool)
    kept[1:] = cost[1:] < lowest[:-1]
    holder = np.maximum.accumulate(np.where(kept, np.arange(len(order)), 0))
    for place in np.flatnonzero(~kept & (loss - loss[holder] <= margin)):
        kept[place] = states.exact[order[holder[place]]] > states.exact[order[place]]
    return np.sort(order[kept])


def _undominated_of_all(states: States, margin: float) -> Integers:
    """Several budgets: compared with all predecessors in the order of loss."""
    order = np.lexsort((*states.cost, states.loss))
    cost, loss, exact = states.cost[:, order], states.loss[order], states.exact[order]
    beats = _within(cost[:, :, None], cost[:, None, :])
    beats &= _earlier()[: len(order), : len(order)]
    if (loss[1:] - loss[:-1] <= margin).any():
        first, second = np.nonzero(beats & (loss[None, :] - loss[:, None] <= margin))
        beats[first, second] = exact[first] <= exact[second]
    return np.sort(order[~beats.any(axis=0)])


@cache
def _earlier() -> NDArray[np.bool_]:
    """Whether one place comes before another: ``[ALL, ALL]``."""
    return np.triu(np.ones((ALL, ALL), dtype=bool), 1)


def _undominated_near(states: States, margin: float) -> Integers:
    """Several budgets: compared with some predecessors in the order of loss."""
    order = np.lexsort((*states.cost, states.loss))
    cost, loss, exact = states.cost[:, order], states.loss[order], states.exact[order]
    kept = np.ones(len(order), dtype=bool)
    for distance in range(1, NEIGHBOURS):
        beaten = _within(cost[:, :-distance], cost[:, distance:])
        close = np.flatnonzero(beaten & (loss[distance:] - loss[:-distance] <= margin))
        beaten[close] = exact[close] <= exact[close + distance]
        kept[distance:] &= ~beaten
    return np.sort(order[kept])
