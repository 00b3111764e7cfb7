"""The best assignment that a bounded search has found, what a bound must stay below, and how wide the search may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .table import EPSILON, Floats, Integers


@dataclass(frozen=True)
class Found:
    """An assignment: a state after ``steps`` steps, the ``option`` of the next (unless all are), ``prices`` after."""

    steps: int
    state: int
    option: int | None
    prices: int


class BestSoFar:
    """What searches step by step have in common.

    Args:
        incumbent: exact loss of the best assignment known, or ``None``.
        gap: an assignment within this fraction of the best one is good enough.
        shift: bits by which floating losses are smaller than exact ones.
        base: exact loss that bounds leave out.
    """

    def __init__(self, incumbent: int | None, gap: float, shift: int, base: int = 0) -> None:
        self._gap, self._shift, self._base = Fraction(gap), shift, base
        self._parents: list[tuple[Integers, Integers]] = []
        self._found: Found | None = None
        self.best, self.cut = incumbent, math.inf
        self._limit = self._worthwhile()

    best: int | None
    """Exact loss of the best assignment."""
    cut: float
    """Smallest bound that was cut off although it is below the best assignment; without the base."""

    def _chosen(self, found: Found) -> list[int]:
        """The options that the search itself took; prices choose those after them."""
        state = found.state
        chosen = [] if found.option is None else [found.option]
        for parent, option in reversed(self._parents[: found.steps]):
            chosen.append(int(option[state]))
            state = int(parent[state])
        return chosen[::-1]

    def _offer(self, above: int, found: Found) -> None:
        """Take an assignment that loses ``above`` more than the base, if it is better in whole units."""
        if self.best is None or self._base + above < self.best:
            self.best, self._found = self._base + above, found
            self._limit = self._worthwhile()

    def _worthwhile(self) -> float:
        """A bound from here on cannot lead to a better assignment, or not to one that is enough better."""
        if self.best is None:
            return math.inf
        wanted = self.best - math.floor(abs(self.best) * self._gap) - self._base
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
