"""How far a second moment from few samples is trusted: it is shrunk towards its diagonal, and that towards its mean.

A sample second moment of ``n`` vectors with ``p`` numbers is singular where ``n < p``, and error feedback (GPTQ) moves
errors into directions that merely were not seen. The convex combination ``(1 - a) S + a diag(S)`` (Ledoit, Wolf 2004,
doi 10.1016/S0047-259X(03)00096-4; target "diagonal, unequal variance" of Schaefer and Strimmer 2005,
doi 10.2202/1544-6115.1175) mends both.

The intensity ``a`` that is best for the Frobenius norm is ruled by a few large directions (a mean, an outlier) and
hardly damps the small ones, which error feedback lives on. It is chosen by cross-validation, as in regularised
discriminant analysis (Friedman 1989, doi 10.1080/01621459.1989.10478752), for the objective itself: error feedback with
``H = R R^T`` (``R`` upper triangular) leaves ``D = e diag(R) R^-1`` where ``e`` are plain rounding errors, of equal
variance, so that its expected loss under another second moment ``V`` is proportional to
``sum_j R_jj^2 (R^-1 V R^-T)_jj``. ``H`` is made from every second sample, ``V`` from the others.

The diagonal of the target is shrunk towards its mean, which is what is assumed without data, by the analytic intensity
of Ledoit and Wolf: the variance of the estimate over the spread of the values, with the variance from the two halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRID = (0.8, 0.6, 0.4, 0.2, 0.1, 0.03, 0.01, 0.0)
"""Intensities below 1 that are tried, from the most until the expected loss rises."""

DAMPING = 0.01
"""What encoders add to the diagonal anyway, as a share of its mean."""

MOST_DAMPING = 8
"""Powers of ten that are tried to make a matrix definite; more than its mean diagonal is for what overflowed."""

PROBES = 256
"""Random directions that stand for more columns than this: of the loss only the order of intensities is used."""


@dataclass(frozen=True)
class Shrinkage:
    """Intensities between 0 (the data as it is) and 1 (none of it).

    Attributes:
        directions: of what is off the diagonal, towards zero.
        columns: of the diagonal that they are shrunk towards, towards its mean.
    """

    directions: float
    columns: float

    def apply(self, second: Tensor) -> Tensor:
        """Shrink ``[columns, columns]``, or a diagonal alone ``[columns]``; its sum (the trace) stays."""
        if second.dim() == 1:
            return self.target(second)
        result = second * (1.0 - self.directions)
        result.diagonal().add_(self.target(second.diagonal()), alpha=self.directions)
        return result

    def target(self, diagonal: Tensor) -> Tensor:
        """The diagonal that is shrunk towards, ``[columns]``."""
        return torch.lerp(diagonal, diagonal.mean().expand_as(diagonal), self.columns)


AS_SEEN, NOTHING_KNOWN = Shrinkage(0.0, 0.0), Shrinkage(1.0, 1.0)


def shrinkage(one: Tensor, other: Tensor) -> Shrinkage:
    """The intensities for the mean of two halves of the samples, ``[columns, columns]`` or diagonals ``[columns]``."""
    if one.dim() == 1:
        return Shrinkage(1.0, of_diagonal(one, other))
    columns = of_diagonal(one.diagonal(), other.diagonal())
    return Shrinkage(of_directions(one, other, columns), columns)


def by_count(second: Tensor, vectors: int) -> Shrinkage:
    """The intensities where no two halves can be told apart, ``[columns, columns]`` or a diagonal ``[columns]``.

    Nothing is known from ``n`` vectors of as many or more columns ``p``: what error feedback takes from a singular
    second moment does more harm than good, and of vectors that have no directions it must not cost much. With more, the
    sample counts against the diagonal as ``n - p`` against ``2 p``; an entry of the diagonal has the variance
    ``2 s^2 / n``, as if vectors were independent and normal.
    """
    diagonal = (second if second.dim() == 1 else second.diagonal()).double()
    columns = len(diagonal)
    if vectors <= columns:
        return NOTHING_KNOWN
    noise = 2.0 * float(diagonal.square().sum()) / vectors
    spread = float((diagonal - diagonal.mean()).square().sum())
    directions = 1.0 if second.dim() == 1 else 2.0 * columns / (columns + vectors)
    return Shrinkage(directions, 1.0 if noise >= spread else noise / spread)


def of_diagonal(one: Tensor, other: Tensor) -> float:
    """Variance of the mean of two halves ``[columns]`` over the spread of the values around their mean, at most 1."""
    mean = (one.double() + other.double()) / 2
    noise = float((one.double() - other.double()).square().sum()) / 4
    spread = float((mean - mean.mean()).square().sum())
    return 1.0 if noise >= spread else noise / spread


def of_directions(one: Tensor, other: Tensor, columns: float) -> float:
    """The intensity of least expected loss: ``H`` from one half, judged by the other, the loss unimodal in it.

    1 unless it pays the other way round too: with two or three samples a single judgement is luck.
    """
    judge = _root(other)
    if judge is None or not 0.0 < float(one.diagonal().mean()) < math.inf:
        return 1.0
    best, least = 1.0, _trace(other)
    for share in GRID:
        loss = expected_loss(Shrinkage(share, columns).apply(one), judge)
        if loss >= least:
            break
        best, least = share, loss
    back = None if best == 1.0 else _root(one)
    if back is None or expected_loss(Shrinkage(best, columns).apply(other), back) >= _trace(one):
        return 1.0
    return best


def _trace(second: Tensor) -> float:
    """The loss of plain rounding, in units of the variance of a rounding error."""
    return float(second.diagonal().sum(dtype=torch.float64))


def expected_loss(second: Tensor, judge: Tensor) -> float:
    """Loss of error feedback on ``second``, in units of the variance of a rounding error.

    Args:
        second: ``[columns, columns]``, positive semidefinite; damped as encoders do.
        judge: ``L`` with ``L L^T`` the second moment that counts, or on average over :data:`PROBES`.
    """
    damped = second.clone()
    damped.diagonal().add_(DAMPING * second.diagonal().mean())
    factor, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if int(info) != 0:
        return float("inf")
    upper = factor.flip(0, 1)
    left = torch.linalg.solve_triangular(upper, judge, upper=True)
    return float((left.square().sum(dim=1) * upper.diagonal().square()).sum(dtype=torch.float64))


def _root(second: Tensor) -> Tensor | None:
    """``L`` with ``L L^T`` the matrix and as much of its mean diagonal as makes it definite; None of no such matrix.

    Lower triangular; with many columns ``L Z`` for the same normal ``Z`` of fewer, whose second moment is the unit
    matrix (Hutchinson's estimate of a trace): a third of the time.
    """
    mean = float(second.diagonal().mean())
    if not 0.0 < mean < math.inf:
        return None
    share = 1e-5
    for _ in range(MOST_DAMPING):
        damped = second.clone()
        damped.diagonal().add_(share * mean)
        factor, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0:
            return factor if len(factor) <= 2 * PROBES else factor @ _probes(len(factor))
        share *= 10.0
    return None


def _probes(columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(columns)
    return torch.randn(columns, PROBES, generator=generator) / math.sqrt(PROBES)
