"""The canonical search under many orders, some hundred nodes each: a good order needs hardly any backtracking.

Orders are by lifetime, size and area, first as they are, then shaken by growing noise. Two kinds of search take turns,
each with weights that it keeps from run to run. Everything follows from the seed and the number of nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .instance import Instance, Numbers
from .search import Outcome, Search

NOISE = (0.02, 0.1, 0.3, 0.8)
"""Uniform noise on ranks between 0 and 1."""

PATIENCE = 600
"""Nodes of a run beyond one and a half per buffer; grows by a quarter with every round of all orders."""


class Restarts:
    """A search that can be continued: what was learnt is kept between calls of :meth:`run`."""

    def __init__(self, instance: Instance, seed: int) -> None:
        self.offsets: Numbers = np.zeros(0, dtype=np.int64)
        self.nodes = 0
        self._instance = instance
        self._seed = seed
        self._round = 0
        width, size = instance.width.astype(np.float64), instance.size.astype(np.float64)
        self._orders = [_rank(width, size), _rank(size, width), _rank(width * size, width)]
        self._weights = [np.ones(instance.sections), np.ones(instance.sections)]

    def run(self, nodes: int, deadline: float) -> Outcome:
        """Restart until a placement or a proof is found, at least so many nodes were tried, or the deadline is past."""
        goal = self.nodes + nodes
        while self.nodes < goal:
            search, budget = self._next(), self._budget()
            outcome = search.run(budget, deadline)
            self._round += 1
            self.nodes += search.nodes
            if outcome == "found":
                self.offsets = search.offsets
            if outcome != "stopped" or search.nodes < budget:
                return outcome
        return "stopped"

    def _next(self) -> Search:
        kind, order, lap = self._round % 2, self._round // 2 % len(self._orders), self._lap()
        noise = NOISE[lap % len(NOISE)] if lap else 0.0
        shaken = np.random.default_rng((self._seed, self._round)).random(len(self._instance.size)) * noise
        return Search(self._instance, self._orders[order] + shaken, self._weights[kind], divide=kind == 1)

    def _lap(self) -> int:
        return self._round // (2 * len(self._orders))

    def _budget(self) -> int:
        return 3 * len(self._instance.size) // 2 + PATIENCE + PATIENCE * self._lap() // 4


def _rank(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Position in the order by the first key, then by the second, between 0 and 1."""
    rank = np.empty(len(first))
    rank[np.lexsort((second, first))] = np.arange(len(first)) / len(first)
    return rank
