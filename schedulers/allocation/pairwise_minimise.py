"""Exact minimisation with pairs: prices, a first assignment, fixing, then a search of what may still be better.

The steps of ``minimise.py`` on a graph of pairs that is narrow (``pairwise_stages.py``), chains of integer runs above
all. The prices are those under which the best assignment *with its pairs* is worst, so that the bound knows what
entering and leaving costs. Options that no better assignment has are left out; where that decides a layer's kind, its
pairs become part of its neighbours' options, so that chains fall into pieces. What the search cannot close within its
work is left to CP-SAT, with the options that are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from .bounded_core import price_vectors
from .bounded_search import Work
from .minimise import BLIND_WIDTH, CLOSER, WIDTHS, Limits
from .pairwise_bounds import Tails, best_prices, bound_of, least_with, path, tails_of
from .pairwise_descent import Descent
from .pairwise_graph import Node, PairGraph
from .pairwise_search import PairSearch
from .pairwise_stages import Stages, stages_of
from .pairwise_terms import Found, Terms
from .rounding import RAISES
from .table import EPSILON, Floats

ROUNDS = 4
"""How often prices are found again for what fixing leaves."""

WORTHWHILE = 0.75
"""Share of the options that is left where prices are found again."""

MOST_BOUNDS = 4_000_000
"""Bounds that are kept: transitions times vectors of prices."""


class PairMinimiser:
    """One minimisation: the incumbent and the bound, improved until they meet or work is up.

    Args:
        terms: losses and costs of all choices and pairs.
        graph: the same as a graph.
        free: layers that no tie and no trait is about.
        stop: time limit, work, gap.
    """

    def __init__(self, terms: Terms, graph: PairGraph, free: Iterable[int], stop: Limits) -> None:
        self._terms, self._graph, self._stop = terms, graph, stop
        self._descent = Descent(terms, free)
        self._names = [*terms.names]
        self._prices: Floats = np.zeros(len(terms.limits))
        self._places: tuple[int, ...] | None = None
        self._objective, self._bound = 0, terms.least()
        self._stages: Stages | None = None

    def run(self) -> Found | None:
        """The best assignment that was found and a bound; ``None`` where the graph is too wide."""
        work = Work(self._stop.evaluations())
        for width in WIDTHS:
            tails = self._priced()
            if self._stages is None:
                return None
            if tails is None:
                return Found(None, self._bound, infeasible=True)
            if self._closed() or self._expired():
                break
            known = None if self._places is None else self._objective
            search = PairSearch(self._stages, tails, known, self._stop.relative_gap * CLOSER)
            complete = search.run(width, work, self._expired)
            if search.picks is not None:
                self._offer(self._stages, search.picks)
            if not complete:
                break
            if self._places is None:
                if math.isinf(search.cut):
                    return Found(None, self._bound, infeasible=True)
                if width >= BLIND_WIDTH:
                    break
            elif math.isinf(search.cut):
                self._raise_bound(self._objective)
            else:
                self._raise_bound(math.floor(search.cut) << self._stages.shift)
        return Found(self._places, self._bound)

    def remaining(self) -> Terms:
        """The terms with the choices alone that a better assignment may have."""
        left: dict[str, set[str]] = {name: set() for name in self._names}
        for node in self._graph.nodes:
            for option in node.options:
                for member, choice in zip(node.members, option.names, strict=True):
                    left[member].add(choice)
        allowed = tuple(
            tuple(place for choice, place in self._terms.names[name].items() if choice in left[name])
            for name in self._names
        )
        return replace(self._terms, allowed=allowed)

    def closed(self) -> bool:
        """Whether the assignment is as good as was asked for."""
        return self._closed()

    def _priced(self) -> Tails | None:
        """Prices, what they fix, and bounds under many prices; ``None`` if the budgets cannot be met."""
        for _ in range(ROUNDS):
            self._stages = stages = stages_of(self._graph, [self._weight(node) for node in self._graph.nodes])
            if stages is None:
                return None
            self._prices = best_prices(stages, self._prices)
            tails = tails_of(stages, self._prices[None])
            if (tails.least[0][0] > stages.room).any() or bound_of(stages, tails) > self._largest(stages):
                return None
            self._raise_bound(math.floor(bound_of(stages, tails)) << stages.shift)
            if self._places is None:
                self._round(stages, tails)
            if self._places is None or self._closed() or not self._fix(stages, tails):
                break
        stages = self._stages
        if stages is None:
            return None
        room = stages.room - tails_of(stages, self._prices[None]).least[0][0]
        most = max(1, MOST_BOUNDS // stages.transitions)
        return tails_of(stages, price_vectors(self._prices, room)[:most])

    def _weight(self, node: Node) -> float:
        """How far the priced costs of a node's options are apart."""
        costs = np.array([option.costs for option in node.options], np.float64).reshape(len(node.options), -1)
        return float(np.ptp(costs @ self._prices))

    def _largest(self, stages: Stages) -> float:
        """More than any assignment loses: a bound above it proves that there is none."""
        most = sum(float(stage.loss.max() + stage.joint_loss.max()) for stage in stages.stages)
        return most + (2 * len(stages.stages) + 8) * EPSILON * stages.loss_size + 2.0 * len(stages.stages)

    def _round(self, stages: Stages, tails: Tails) -> None:
        """What the prices choose, with prices raised until it fits."""
        room = np.maximum(stages.room - tails.least[0][0], 1)
        if self._prices.any():
            shared = float(self._prices @ room) / len(room) / room
        else:
            shared = max((float(np.abs(stage.loss).max()) for stage in stages.stages), default=0.0) / room
        raised = tails_of(stages, np.array([self._prices * (1.0 + r) + shared * r for r in RAISES]))
        fitting = np.flatnonzero((raised.picked_costs <= stages.room).all(axis=1))
        if len(fitting):
            self._offer(stages, [option for option, _ in path(stages.stages, raised, 0, 0, int(fitting[0]))])

    def _fix(self, stages: Stages, tails: Tails) -> bool:
        """Leave out options that no better assignment has; whether enough went to look for prices again."""
        limit = float(self._objective >> stages.shift)
        edge = limit + abs(limit) * EPSILON + 1.0
        before = sum(len(node.options) for node in self._graph.nodes)
        kept: list[list[int]] = [[] for _ in self._graph.nodes]
        for stage, least in zip(stages.stages, least_with(stages, tails), strict=True):
            kept[stage.node] = np.flatnonzero(least <= edge).tolist()
        self._graph = self._graph.with_options(kept)
        after = sum(len(node.options) for node in self._graph.nodes)
        self._stages = stages_of(self._graph, [self._weight(node) for node in self._graph.nodes])
        return after < WORTHWHILE * before

    def _offer(self, stages: Stages, picks: Iterable[int]) -> None:
        """An assignment that meets the limits, as the options of the stages."""
        places = [0] * len(self._names)
        position = {name: i for i, name in enumerate(self._names)}
        for stage, option in zip(stages.stages, picks, strict=True):
            node = self._graph.nodes[stage.node]
            for member, choice in zip(node.members, node.options[option].names, strict=True):
                places[position[member]] = self._terms.place(member, choice)
        better = self._descent.improved(tuple(places))
        objective = self._terms.total(better)
        if self._places is None or objective < self._objective:
            self._places, self._objective = better, objective
            self._bound = min(self._bound, objective)

    def _raise_bound(self, bound: int) -> None:
        raised = max(self._bound, bound)
        self._bound = raised if self._places is None else min(raised, self._objective)

    def _closed(self) -> bool:
        if self._places is None:
            return False
        missing = self._objective - self._bound
        return missing <= Fraction(self._stop.relative_gap) * max(abs(self._objective), abs(self._bound))

    def _expired(self) -> bool:
        return self._stop.remaining_s() <= 0
