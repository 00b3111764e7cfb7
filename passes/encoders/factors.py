"""Encoders of factors: which change of the weight the factors of a layer keep small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.statistics import WeightStatistics
from ..formats.base import FACTOR
from ..objective import PLAIN, Metric, Problem
from .base import Encoder

LEAST_WEIGHT = 1e-6
"""Share of the mean below which rows and columns weigh no less: what was never seen still counts a little."""

NO_DATA = "expected calibration statistics, got none; give calibration data or use the encoder 'svd'"


@dataclass(frozen=True)
class Plain(Encoder):
    """``svd``: every change counts alike (Eckart and Young, 1936). Needs no data."""

    @property
    def families(self) -> frozenset[str]:
        """Factors."""
        return frozenset({FACTOR})

    @property
    def spelling(self) -> str:
        """``svd``."""
        return "svd"

    def metric(self, problem: Problem) -> Metric:
        """The Frobenius norm."""
        del problem
        return PLAIN


@dataclass(frozen=True)
class RowWeighted(Plain):
    """``fwsvd``: a row counts by its Fisher information (FWSVD, arXiv 2207.00112); exact for weights of rows."""

    @property
    def spelling(self) -> str:
        """``fwsvd``."""
        return "fwsvd"

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """It needs the weights of rows."""
        return f"fwsvd: {NO_DATA}" if statistics is None else None

    def metric(self, problem: Problem) -> Metric:
        """``sqrt(row_weight)``."""
        problem.check_statistics()
        return problem.of_statistics("fwsvd", lambda: Metric("fwsvd", _row_roots(_known(self, problem)), None))


@dataclass(frozen=True)
class Whitened(Plain):
    """``whitened``: the optimum of the output's error, ``sum_i row_weight_i (W - W')_i H (W - W')_i^T``.

    The weight is multiplied by the square root of the second moment of its inputs before the decomposition, and the
    right factor is divided by it after (whitening by a Cholesky factor, as SVD-LLM, arXiv 2403.07378; the root of the
    diagonal where that is all there is). Of all factors of a rank these have the least of the objective.

    Attributes:
        damping: share of the mean diagonal of ``H`` that is added to it; raised where factoring fails.
        diagonal: take the diagonal of ``H`` alone. With a Fisher matrix that is LQ-LoRA's two-sided heuristic (arXiv
            2311.12023): roots of the means of its rows and of its columns, exact where it has rank one.

    Raises:
        FormatError: if ``damping`` is not between 0 and 1.
    """

    damping: float = 1e-6
    diagonal: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.damping <= 1.0:
            raise FormatError(f"whitened: expected damping between 0 and 1, got {self.damping}; 1e-6 is usual")

    @property
    def spelling(self) -> str:
        """``whitened``, ``whitened:damping=0.01``, ``whitened:diagonal``."""
        damping = "" if self.damping == Whitened.damping else f":damping={self.damping}"
        return f"whitened{damping}" + (":diagonal" if self.diagonal else "")

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """It needs a second moment."""
        if statistics is None:
            return f"whitened: {NO_DATA}"
        if statistics.second_moment is None:
            return "whitened: expected a second moment of the layer's inputs, got row frequencies only; use 'fwsvd'"
        return None

    def metric(self, problem: Problem) -> Metric:
        """Roots of the weights of rows and of the second moment."""
        problem.check_statistics()
        return problem.of_statistics(self.spelling, lambda: self._metric(problem))

    def _metric(self, problem: Problem) -> Metric:
        statistics, moment = _known(self, problem), problem.second_moment
        assert moment is not None  # refuses() said so
        moment = torch.diag(moment.diagonal()) if self.diagonal else moment
        return Metric(self.spelling, _row_roots(statistics), _root(moment, self.damping))


def _known(encoder: Encoder, problem: Problem) -> WeightStatistics:
    reason = encoder.refuses(problem.statistics)
    if reason is not None or problem.statistics is None:
        raise FormatError(str(reason))
    return problem.statistics


def _row_roots(statistics: WeightStatistics) -> Tensor | None:
    """``[rows]``; ``None`` where all rows count alike."""
    weights = statistics.row_weight.float()
    if statistics.second_moment is None and statistics.row_frequency is not None:
        weights = statistics.row_frequency.float()
    weights = weights.clamp(min=LEAST_WEIGHT * max(float(weights.mean()), 1e-30))
    return None if bool((weights == weights[0]).all()) else weights.sqrt()


def _root(moment: Tensor, damping: float) -> Tensor:
    """Lower triangular ``L`` with ``L L^T`` the second moment, or the roots of its diagonal where that is all it has.

    Raises:
        FormatError: the matrix is indefinite.
    """
    diagonal = moment.diagonal()
    mean = max(float(diagonal.mean()), 1e-30)
    if bool((moment.abs().sum(dim=0) == diagonal.abs()).all()):
        return diagonal.clamp(min=LEAST_WEIGHT * mean).sqrt()
    share = max(damping, LEAST_WEIGHT)
    while share <= 1.0:
        damped = moment.to(torch.float64, copy=True).mT  # columns first, as LAPACK works: in place, without a copy
        damped.diagonal().add_(share * mean)
        info = torch.empty(0, dtype=torch.int32)
        torch.linalg.cholesky_ex(damped, out=(damped, info))
        if int(info) == 0:
            return damped.to(moment.dtype, memory_format=torch.contiguous_format)
        share *= 10.0
    raise FormatError(
        "whitened: expected a positive semidefinite second moment, got one that is indefinite even with its mean added "
        "to the diagonal; check the calibration data or use the encoder 'svd'"
    )
