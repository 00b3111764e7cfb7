"""Bounded dynamic programming with keys: partial assignments stage by stage, as few as bounds and dominance leave.

The search of ``bounded_search.py`` where layers are not independent. What follows a partial assignment depends on its
key, so bounds are those of its key (``pairwise_bounds.py``), and it beats only others with the same key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .best_so_far import BestSoFar, Found
from .bounded_search import COMPLETED, ROWS, States, Work, undominated
from .pairwise_bounds import Tails, path
from .pairwise_stages import Stage, Stages
from .table import EPSILON, Floats, Integers


@dataclass(frozen=True)
class _Partial:
    """Partial assignments: the ``key`` of each, and what it took."""

    key: Integers
    states: States

    def take(self, places: Integers) -> _Partial:
        s = self.states
        return _Partial(self.key[places], States(s.cost[:, places], s.loss[places], s.exact[places]))


@dataclass(frozen=True)
class _Extended:
    """Partial assignments by one stage more: the ``option`` that each took after its ``parent``."""

    parent: Integers
    option: Integers
    key: Integers
    cost: Integers
    loss: Floats
    bound: Floats


class PairSearch(BestSoFar):
    """One pass over the stages.

    Args:
        stages: what is decided.
        tails: their bounds.
        incumbent: exact loss of the best assignment known, or ``None``.
        gap: an assignment within this fraction of the best one is good enough.
    """

    def __init__(self, stages: Stages, tails: Tails, incumbent: int | None, gap: float = 0.0) -> None:
        super().__init__(incumbent, gap, stages.shift)
        self._stages, self._tails, self._room = stages.stages, tails, stages.room
        number, reach = len(self._stages), sum(stage.size for stage in self._stages)
        self._margin = (2 * number + 8) * EPSILON * reach + (2.0 * number + 2.0 if self._shift else 0.0)

    @property
    def picks(self) -> tuple[int, ...] | None:
        """The options of the stages in the best assignment, if this search found it."""
        if self._found is None:
            return None
        found, chosen = self._found, self._chosen(self._found)
        key = 0
        for stage, option in zip(self._stages, chosen, strict=False):
            key = int(stage.follow[key, stage.kind[option]])
        return (*chosen, *(option for option, _ in path(self._stages, self._tails, len(chosen), key, found.prices)))

    def run(self, width: int, work: Work, expired: Callable[[], bool]) -> bool:
        """Search; false if work or time ran out before the last stage, so that ``cut`` says nothing."""
        start = States(np.zeros((len(self._room), 1), np.int64), np.zeros(1), np.array([0], dtype=object))
        partial = _Partial(np.zeros(1, np.int64), start)
        for t, stage in enumerate(self._stages):
            work.left -= len(partial.key) * len(stage.loss)
            if work.left <= 0 or expired():
                return False
            partial = self._step(t, stage, partial, width, work)
            if not len(partial.key):
                return True
        exact = partial.states.exact
        place = min(range(len(exact)), key=exact.__getitem__)
        self._offer(exact[place], Found(len(self._stages), place, None, 0))
        return True

    def _step(self, t: int, stage: Stage, partial: _Partial, width: int, work: Work) -> _Partial:
        """All extensions by one stage that may lead to something better."""
        made = self._extended(t, stage, partial, work)
        self._complete(t, stage, made, partial)
        kept = np.flatnonzero(made.bound < self._limit)
        exact = self._exact(stage, partial, made.parent[kept], made.option[kept])
        extended = _Partial(made.key[kept], States(made.cost[:, kept], made.loss[kept], exact))
        below = self._narrowed(self._undominated(extended), made.bound[kept], width)
        self._parents.append((made.parent[kept][below], made.option[kept][below]))
        return extended.take(below)

    def _exact(self, stage: Stage, partial: _Partial, parent: Integers, option: Integers) -> NDArray[np.object_]:
        joint = stage.joint_exact[partial.key[parent], stage.kind[option]]
        return partial.states.exact[parent] + stage.exact[option] + joint

    def _undominated(self, partial: _Partial) -> Integers:
        """Positions of those that none with the same key beats."""
        keys = np.unique(partial.key)
        if len(keys) < 2:
            return undominated(partial.states, self._margin)
        order = np.argsort(partial.key, kind="stable")
        ends = np.searchsorted(partial.key[order], keys, side="right")
        rows = np.split(order, ends[:-1])
        return np.sort(np.concatenate([r[undominated(partial.take(r).states, self._margin)] for r in rows]))

    def _extended(self, t: int, stage: Stage, partial: _Partial, work: Work) -> _Extended:
        """All extensions by one stage that leave enough for the least costs of the others."""
        kind = stage.kind[:, None]
        follow = stage.follow[partial.key, kind]
        joint = stage.joint_cost[partial.key, kind]
        cost = partial.states.cost[:, None, :] + stage.cost.T[:, :, None] + joint.transpose(2, 0, 1)
        room = self._room - self._tails.least[t + 1][follow]
        fits = (cost <= room.transpose(2, 0, 1)).all(axis=0)
        option, parent = np.nonzero(fits)
        loss = partial.states.loss[parent] + stage.loss[option]
        loss += stage.joint_loss[partial.key[parent], stage.kind[option]]
        key, cost = follow[fits], cost[:, fits]
        return _Extended(parent, option, key, cost, loss, self._bound(t + 1, key, cost, loss, work))

    def _bound(self, t: int, key: Integers, cost: Integers, loss: Floats, work: Work) -> Floats:
        """Below every completion by the stages from ``t`` on: the best prices first, all prices where it matters."""
        tails, left = self._tails, (self._room[:, None] - cost).astype(np.float64)
        bound = loss + tails.value[t][key, 0] - tails.prices[0] @ left
        promising = np.flatnonzero(bound < self._limit)
        work.left -= len(promising) * len(tails.prices) // 8
        for start in range(0, len(promising), ROWS):
            rows = promising[start : start + ROWS]
            bound[rows] = loss[rows] + (tails.value[t][key[rows]] - (tails.prices @ left[:, rows]).T).max(axis=1)
        return bound

    def _complete(self, t: int, stage: Stage, made: _Extended, partial: _Partial) -> None:
        """Complete the most promising states by what each vector of prices chooses; keep what is better."""
        tails = self._tails
        rows = np.flatnonzero(made.bound < self._limit)
        if len(rows) > COMPLETED:
            rows = rows[np.argsort(made.bound[rows], kind="stable")[:COMPLETED]]
        key, left = made.key[rows], self._room[:, None] - made.cost[:, rows]
        total = made.loss[rows][:, None] + tails.loss[t + 1][key]
        total[(tails.cost[t + 1][key] > left.T[:, :, None]).any(axis=1)] = math.inf
        if not total.size or total.min() >= self._limit:
            return
        row, prices = divmod(int(total.argmin()), total.shape[1])
        parent, option = made.parent[rows[row : row + 1]], made.option[rows[row : row + 1]]
        behind = sum(exact for _, exact in path(self._stages, tails, t + 1, int(key[row]), prices))
        above = self._exact(stage, partial, parent, option)[0]
        self._offer(above + behind, Found(t, int(parent[0]), int(option[0]), prices))
