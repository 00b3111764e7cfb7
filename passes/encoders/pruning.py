"""Encoders of sparse weights: which weights are kept, and what the kept ones become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.statistics import WeightStatistics
from ..formats.base import SPARSE
from ..formats.patterns import Pattern, Pruned, highest, largest
from ..objective import FactoredHessian, Problem
from .base import Encoder
from .error_feedback import error_feedback

CHUNK = 1 << 22
"""Weights that are pruned at a time: rows do not influence each other."""

BLOCK = 128
"""Columns whose mask is chosen together where a pattern leaves a whole row open; columns updated together."""


@dataclass(frozen=True)
class Magnitude(Encoder):
    """``magnitude``: the largest weights, as they are. Needs no data."""

    @property
    def families(self) -> frozenset[str]:
        """Sparse weights."""
        return frozenset({SPARSE})

    @property
    def spelling(self) -> str:
        """``magnitude``."""
        return "magnitude"


@dataclass(frozen=True)
class Wanda(Magnitude):
    """``wanda``: the largest ``|w| sqrt(H_jj)`` of a row, as they are (arXiv 2306.11695).

    It is the mask of least ``sum_j H_jj (w_j - q_j)^2`` of all that keep weights as they are. Rows whose output changes
    less with the largest weights, because columns interact, keep those.
    """

    @property
    def spelling(self) -> str:
        """``wanda``."""
        return "wanda"

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """It needs the inputs' second moment."""
        if statistics is None or statistics.second_moment is None:
            found = "none" if statistics is None else "row frequencies only"
            return (
                f"{self.spelling}: expected a second moment of the layer's inputs, got {found}; give calibration data "
                "or use the encoder 'magnitude'"
            )
        return None

    def prune(self, pattern: Pattern, problem: Problem) -> Pruned:
        """See :meth:`Encoder.prune`.

        Raises:
            FormatError: if the statistics are refused or belong to a matrix of another shape.
        """
        plain, own = largest(pattern, problem.matrix), by_importance(pattern, problem.matrix, self._moment(problem))
        return kept_rows(problem, slice(None), (plain, own))

    def _moment(self, problem: Problem) -> Tensor:
        reason, moment = self.refuses(problem.statistics), problem.second_moment
        if reason is not None or moment is None:
            raise FormatError(str(reason))
        problem.check_statistics()
        return moment


@dataclass(frozen=True)
class OBS(Wanda):
    """``obs``: what is dropped is made up for by the weights that are kept (SparseGPT, arXiv 2301.00774).

    Columns are visited from left to right. A dropped weight's error ``w / U_ii`` moves into the columns that follow,
    ``U^T U = H^-1``; the mask of a run of columns is chosen when it is reached, by the optimal brain surgeon's
    ``w^2 / U_ii^2`` of the weights as updated so far. Where a pattern leaves a row open, each run of 128 columns keeps
    its share; the mask of :class:`Wanda`, which does not, is tried with the same updates.

    Rows do not influence each other, so that each keeps the best of both and of the masks of ``wanda`` and
    ``magnitude`` without updates, by the undamped objective: no row is worse than with a plain mask.

    Attributes:
        damping: share of the mean diagonal of ``H`` that is added to it; raised where factoring fails.

    Raises:
        FormatError: if ``damping`` is out of range.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.damping <= 10.0:
            raise FormatError(f"obs: expected damping between 0 and 10, got {self.damping}; 0.01 is usual")

    @property
    def spelling(self) -> str:
        """``obs``, ``obs:damping=0.05``."""
        return "obs" if self.damping == OBS.damping else f"obs:damping={self.damping}"

    def prune(self, pattern: Pattern, problem: Problem) -> Pruned:
        """See :meth:`Encoder.prune`.

        Raises:
            FormatError: as :meth:`Wanda.prune`, or the second moment cannot be factored.
        """
        self._moment(problem)
        step, count = max(1, CHUNK // problem.matrix.shape[1]), len(problem.matrix)
        parts = [self._best(pattern, problem, slice(i, i + step)) for i in range(0, count, step)]
        return Pruned(torch.cat([p.mask for p in parts]), torch.cat([p.values for p in parts]))

    def _best(self, pattern: Pattern, problem: Problem, rows: slice) -> Pruned:
        matrix, factored = problem.matrix[rows], problem.hessian(self.damping, False)
        plain = by_importance(pattern, matrix, self._moment(problem))
        found = [largest(pattern, matrix), plain]
        for quantizer in (_Given(plain.mask), _Surgeon(pattern, factored, matrix.shape)):
            group = BLOCK if pattern.group >= matrix.shape[1] else pattern.group
            values, _ = error_feedback(matrix, factored, quantizer, group, BLOCK)
            found.append(Pruned(quantizer.mask, values))
        return kept_rows(problem, rows, found)


def by_importance(pattern: Pattern, matrix: Tensor, moment: Tensor) -> Pruned:
    """The largest ``|w| sqrt(H_jj)``, as they are."""
    mask = pattern.mask(matrix.abs() * moment.diagonal().clamp(min=0.0).sqrt().to(matrix))
    return Pruned(mask, matrix * mask)


def kept_rows(problem: Problem, rows: slice, found: Sequence[Pruned]) -> Pruned:
    """Row by row the candidate of least error by the objective, the earlier one on ties."""
    matrix = problem.matrix[rows]
    pick = torch.stack([problem.row_errors(matrix - each.values, rows) for each in found]).argmin(dim=0)
    every = torch.arange(len(matrix), device=matrix.device)
    masks, values = torch.stack([f.mask for f in found]), torch.stack([f.values for f in found])
    return Pruned(masks[pick, every], values[pick, every])


class _Given:
    """Keeps what a mask ``[rows, columns]`` says."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def start_group(self, first: int, columns: Tensor) -> None:
        """Nothing to choose."""

    def column(self, index: int, values: Tensor) -> Tensor:
        return values * self.mask[:, index]


class _Surgeon(_Given):
    """Chooses the mask of each run of columns when it is reached."""

    def __init__(self, pattern: Pattern, factored: FactoredHessian, shape: Sequence[int]) -> None:
        super().__init__(torch.zeros(tuple(shape), dtype=torch.bool, device=factored.upper.device))
        self._pattern = pattern
        self._pivots = factored.upper.diagonal()

    def start_group(self, first: int, columns: Tensor) -> None:
        stop, total = first + len(columns), self.mask.shape[1]
        count = self._pattern.keep
        if self._pattern.group >= total:
            kept = self._pattern.kept(total)
            count = kept * stop // total - kept * first // total
        scores = columns.T / self._pivots[first:stop].to(columns)
        self.mask[:, first:stop] = highest(scores.square(), count)
