"""Several encoders at once, one for each family of a format that is made of several."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.statistics import WeightStatistics
from ..formats.base import FACTOR, GRID, SPARSE, SUM, Alternation
from ..formats.grids import Choice, Grid
from ..formats.patterns import Pattern, Pruned
from ..objective import Metric, Problem
from .base import Encoder


@dataclass(frozen=True)
class Methods(Encoder):
    """``svd+gptq``: factors by one method, and what they are stored in by another.

    Attributes:
        parts: one encoder for each family.
    """

    parts: tuple[Encoder, ...]

    @property
    def families(self) -> frozenset[str]:
        """Those of the parts."""
        return frozenset[str]().union(*(p.families for p in self.parts))

    @property
    def spelling(self) -> str:
        """The parts' spellings, joined."""
        return "+".join(p.spelling for p in self.parts)

    @property
    def draft(self) -> Methods:
        """The drafts of the parts."""
        return Methods(tuple(p.draft for p in self.parts))

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """The first reason of a part."""
        return next((r for p in self.parts if (r := p.refuses(statistics)) is not None), None)

    def choose(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """As the part for grids does."""
        return self._part(GRID).choose(grid, group, problem)

    def recode(self, grid: Grid, group: int, problem: Problem, choice: Choice) -> Choice:
        """As the part for grids does."""
        return self._part(GRID).recode(grid, group, problem, choice)

    def metric(self, problem: Problem) -> Metric:
        """That of the part for factors."""
        return self._part(FACTOR).metric(problem)

    def prune(self, pattern: Pattern, problem: Problem) -> Pruned:
        """As the part for sparse weights does."""
        return self._part(SPARSE).prune(pattern, problem)

    def alternation(self) -> Alternation:
        """That of the part for sums."""
        return self._part(SUM).alternation()

    def _part(self, family: str) -> Encoder:
        return next((p for p in self.parts if family in p.families), self.parts[0])
