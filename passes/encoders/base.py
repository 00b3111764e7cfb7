"""The encoder contract: how the numbers of a format are chosen for one weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ...ir.errors import FormatError, said_by
from ...ir.statistics import WeightStatistics
from ..formats.base import Alternation, Encoded, Format
from ..formats.grids import Choice, Grid, nearest
from ..formats.patterns import Pattern, Pruned, largest
from ..objective import PLAIN, Metric, Problem


@dataclass(frozen=True)
class Encoder(ABC):
    """Chooses what a format stores. Subclasses are frozen dataclasses whose fields are the options.

    A format asks one question for each family that it belongs to (:class:`~instar.passes.formats.base.Chooser`); an
    encoder overrides the answers of the families that it is about, and the others are those that need no data.
    """

    @property
    @abstractmethod
    def families(self) -> frozenset[str]:
        """Families of formats that it is about, such as ``grid``."""

    @property
    @abstractmethod
    def spelling(self) -> str:
        """The text that :func:`instar.passes.encoders.encoder` parses back to this encoder."""

    def __str__(self) -> str:
        return self.spelling

    @property
    def needs_data(self) -> bool:
        """Whether it cannot work without calibration statistics."""
        return self.refuses(None) is not None

    @property
    def is_plain(self) -> bool:
        """Whether every answer is the one that needs no data."""
        return False

    @property
    def draft(self) -> Encoder:
        """What prices are found with, where their codes are not the stored ones: cheaper, and not better by much."""
        return self

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """Why this encoder cannot work with ``statistics``, or ``None`` if it can."""
        del statistics
        return None

    def prepare(self, problem: Problem) -> None:
        """Compute beforehand what every format needs; the problem keeps it."""
        del problem

    def encode(self, format: Format, problem: Problem) -> Encoded:
        """Store a weight in a format.

        What has one part is never worse than its plainest way, rounding to nearest, by how each encoder decides. Parts
        that are fitted to each other have no such proof, because what is best for one may be bad for the next; there
        the plainest way is tried too, and the better one is kept.

        Raises:
            FormatError: if the format refuses the shape, cannot hold the values, or the encoder refuses the statistics.
        """
        reason = self.refuses(problem.statistics) if self.families & format.families else None
        if reason is not None:
            raise FormatError(said_by(self.spelling, reason))
        found = format.encode(problem, encoder=self)
        if not format.has_parts or self.is_plain:
            return found
        plain = format.encode(problem)
        return min((found, plain), key=lambda each: problem.error(format.decode(each)))

    def choose(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """Codes on a grid: the nearest.

        Args:
            grid: representable values, fitted per group.
            group: columns that share parameters; 0 is all of them; the last group may be shorter.
            problem: the finite weight and what is known about it.
        """
        return nearest(grid, group, problem.matrix)

    def recode(self, grid: Grid, group: int, problem: Problem, choice: Choice) -> Choice:
        """Codes for parameters that were rounded since: those that were chosen.

        Args:
            grid: of the codes.
            group: columns that share parameters; 0 is all of them.
            problem: the finite weight and what is known about it.
            choice: codes that were chosen at other parameters, and the ones that are stored.
        """
        del grid, group, problem
        return choice

    def metric(self, problem: Problem) -> Metric:
        """What factors keep small: every change alike."""
        del problem
        return PLAIN

    def prune(self, pattern: Pattern, problem: Problem) -> Pruned:
        """Which weights are kept, and what they become: the largest magnitudes, as they are.

        Args:
            pattern: how many are kept of which columns.
            problem: the finite weight and what is known about it.
        """
        return largest(pattern, problem.matrix)

    def alternation(self) -> Alternation:
        """How the parts of a sum are fitted: one after another."""
        return Alternation()
