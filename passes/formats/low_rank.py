"""``lowrank:r<rank>``: two thin factors in place of a weight, and two products in place of one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.layers import CONV, EMBEDDING
from ...ir.ops import Ops, V
from ...ir.statistics import WeightStatistics
from ..objective import Metric, Problem
from .base import GRID, Chooser, Shape, part
from .factors import Factored, balanced, both
from .grammar import Term
from .truncated import SMALL, truncated_svd
from .use import Use

LEAST = 32
"""Triplets of a large weight that are computed at least."""

RUNGS = 16
"""Ranks of the ladder, from the largest that saves something down."""

STEP = 2.0 ** (-1.0 / 3.0)
"""From one rank of the ladder to the next: three for each halving."""


@dataclass(frozen=True)
class LowRank(Factored):
    """``left [rows, rank] @ right [rank, columns]``, each factor stored in a format of its own (float16 unless said).

    The factors are those of least cost among all of this rank: the singular vectors of the weight under the encoder's
    metric (Eckart and Young, 1936; weighted: FWSVD, arXiv 2207.00112, and the activation-aware decompositions after
    it). Where factors are rounded, the right one is stored first and the left one is fitted to it again.

    A convolution becomes one to ``rank`` channels with the window of the old, and one that mixes channels; an embedding
    looks thin rows up. Refused where it would hold as many numbers as the weight.

    Attributes:
        rank: number of components, 1 or more.

    Raises:
        FormatError: if ``rank`` is below 1.
    """

    rank: int

    options: ClassVar[str] = ":r<rank>"
    example_options: ClassVar[str] = ":r2"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise FormatError(f"lowrank: expected a rank of 1 or more, got {self.rank}; write 'lowrank:r16'")

    @classmethod
    def of_term(cls, term: Term) -> LowRank:
        """Parse ``lowrank:r32``.

        Raises:
            ParseError: at an option that is missing, unknown or out of range.
        """
        expected = "'r<rank>' with a rank of 1 or more"
        word = term.option(0, expected)
        digits = word.text.removeprefix("r")
        if digits == word.text or not digits.isdecimal() or int(digits) < 1:
            raise word.error(expected, (), ("r16",))
        for option in term.options[1:]:
            raise option.error("the end of the format", ())
        return cls(int(digits))

    @classmethod
    def ladder(cls, shape: Shape) -> tuple[str, ...]:
        """Ranks in equal ratios, down from the largest that saves something; in fours from 16 on."""
        rows, columns = shape[0], math.prod(shape[1:])
        most = (rows * columns - 1) // (rows + columns)
        ranks = (round(most * STEP**step) for step in range(RUNGS))
        return tuple(f"r{r}" for r in sorted({r - r % 4 if r >= 16 else r for r in ranks if r >= 1}))

    @classmethod
    def halfway(cls, option: str, others: Collection[str]) -> tuple[str, ...]:
        """Ranks halfway to the next lower and the next higher one.

        >>> LowRank.halfway("r8", ("r4", "r8", "r12", "r16")), LowRank.halfway("r8", ("r7", "r9"))
        (('r6', 'r10'), ())
        """
        own, ranks = _rank(option), sorted(map(_rank, others))
        below, above = [r for r in ranks if r < own][-1:], [r for r in ranks if r > own][:1]
        middles = [(own + other) // 2 if other > own else (own + other + 1) // 2 for other in (*below, *above)]
        return tuple(f"r{middle}" for middle in middles if middle != own and middle not in ranks)

    def least_cost(self, problem: Problem, metric: Metric) -> float | None:
        """The tail of the spectrum under the metric: exact but for how factors are rounded (Eckart and Young, 1936)."""
        key = ("spectrum", metric.name)
        tails = problem.of_weight(key, lambda: tails_of(metric.whiten(problem.matrix)))
        return float(tails[min(self.rank, len(tails) - 1)])

    @property
    def structure(self) -> str:
        """``lowrank:r32``."""
        return f"lowrank:r{self.rank}"

    def unfit(self, shape: Shape) -> str | None:
        """Shapes in which this rank saves nothing."""
        rows, columns = shape[0], math.prod(shape[1:])
        numbers = self.rank * (rows + columns)
        if numbers < rows * columns:
            return None
        most = (rows * columns - 1) // (rows + columns)
        return (
            f"{self.spelling}: expected a rank that saves something, at most {most} for a weight of {rows} x "
            f"{columns}, got {self.rank}, whose factors hold {numbers} numbers against {rows * columns}"
        )

    def shapes(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """``[rows, rank, 1, ...]`` and ``[rank, ...]``."""
        return (shape[0], self.rank, *(1 for _ in shape[2:])), (self.rank, *shape[1:])

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The product of the factors."""
        left, right = self.factors(ops, stored, shape)
        if len(shape) == 2:
            return ops("aten.matmul", left, right)
        matrices = ops("aten.reshape", left, (shape[0], self.rank)), ops("aten.reshape", right, (self.rank, -1))
        return ops("aten.reshape", ops("aten.matmul", *matrices), tuple(shape))

    def apply(self, ops: Ops[V], x: V, stored: Mapping[str, V], use: Use) -> V:
        """Two products; a convolution in groups, whose factors mix them, forms its weight."""
        if use.kind == CONV and use.groups != 1:
            return super().apply(ops, x, stored, use)
        left, right = part(stored, "left."), part(stored, "right.")
        use = use if GRID in self.element.families else use.in_float()
        if use.kind == EMBEDDING:
            rows = self.element.apply(ops, x, left, use.outer(self.rank))
            return ops("aten.matmul", rows, use.cast(ops, self.element.weight(ops, right, self.shapes(use.shape)[1])))
        hidden = self.element.apply(ops, x, right, use.inner(self.rank))
        return self.element.apply(ops, hidden, left, use.outer(self.rank))

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`."""
        metric, (shape_left, shape_right) = encoder.metric(problem), self.shapes(problem.shape)
        left, right = Svd.known(problem, metric, self.rank).factors(self.rank, metric)
        known = right_statistics(problem.statistics, left)
        second = self.element.encode(right.reshape(shape_right), known, encoder)
        right = self.element.decode(second).reshape(self.rank, -1)
        left = fit_left(problem.matrix, right, metric)
        known = left_statistics(problem.statistics, right)
        first = self.element.encode(left.reshape(shape_left), known, encoder)
        return both(first, second)


@dataclass(frozen=True, eq=False)
class Svd:
    """The leading singular triplets of a weight under a metric, computed once for all ranks that are about as large.

    Attributes:
        u: ``[rows, k]``.
        s: ``[k]``, falling.
        vh: ``[k, columns]``.
    """

    u: Tensor
    s: Tensor
    vh: Tensor

    @classmethod
    def known(cls, problem: Problem, metric: Metric, rank: int) -> Svd:
        """At least ``rank`` triplets: all of a small weight, of a large one the next power of two."""
        least = min(problem.matrix.shape)
        enough = least if least <= SMALL else min(least, max(LEAST, 1 << (rank - 1).bit_length()))
        key = ("svd", metric.name, enough)
        return problem.of_weight(key, lambda: cls(*truncated_svd(metric.whiten(problem.matrix), enough)))

    def factors(self, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
        """The factors ``[rows, rank]`` and ``[rank, columns]`` of least cost; see :func:`balanced`."""
        root = self.s[:rank].sqrt()
        return balanced(metric.left(self.u[:, :rank] * root), metric.right(root.unsqueeze(1) * self.vh[:rank]))


def tails_of(matrices: Tensor) -> Tensor:
    """Sums of squared singular values beyond each rank, ``[..., n + 1]`` for matrices with a lesser size ``n``.

    From the eigenvalues of the smaller product of the matrix with itself, in float64: a tail is exact to 1e-15 of the
    whole, which is all that a bound needs, in a fraction of a decomposition's time.
    """
    wide = matrices.double() if matrices.shape[-2] <= matrices.shape[-1] else matrices.double().mT
    values = torch.linalg.eigvalsh(wide @ wide.mT).clamp(min=0.0)  # rising
    sums = torch.nn.functional.pad(values.cumsum(dim=-1), (1, 0))
    return sums.flip(-1)


def right_statistics(known: WeightStatistics | None, left: Tensor) -> WeightStatistics | None:
    """What a change of the right factor costs; cross terms between its rows are left out.

    It sees the layer's inputs, and its rows count by what ``left`` makes of them.
    """
    if known is None or known.second_moment is None:
        return None
    return WeightStatistics(known.count, known.second_moment, known.row_weight.to(left) @ left.square())


def left_statistics(known: WeightStatistics | None, right: Tensor) -> WeightStatistics | None:
    """What a change of the left factor costs: its inputs are those of the layer after ``right``."""
    if known is None or known.second_moment is None:
        return None
    moment = right @ known.second_moment.to(right) @ right.T
    return WeightStatistics(known.count, (moment + moment.T) / 2, known.row_weight)


def fit_left(matrix: Tensor, right: Tensor, metric: Metric) -> Tensor:
    """The left factor ``[rows, rank]`` of least cost for a given right one; weights of rows do not change it.

    Through a decomposition of the right factor, so that nothing of the weight's size is whitened or copied. Directions
    that the right factor lacks, to rounding, get nothing (the solution of least norm).
    """
    basis = replace(metric, rows=None).whiten(right)
    u, s, vh = torch.linalg.svd(basis, full_matrices=False)
    least = torch.finfo(s.dtype).eps * max(basis.shape) * s[0]
    back = vh.mT * torch.where(s > least, 1.0 / s, 0.0)
    if metric.columns is not None:
        back = metric.columns.unsqueeze(1) * back if metric.columns.dim() == 1 else metric.columns @ back
    return (matrix @ back @ u.mT).contiguous()


def _rank(option: str) -> int:
    return int(option.removeprefix("r"))
