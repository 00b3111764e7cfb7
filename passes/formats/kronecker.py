"""``kron:<rows>x<columns>``: a sum of Kronecker products in place of a weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.layers import LINEAR, MATMUL
from ...ir.ops import Ops, V
from ...ir.statistics import WeightStatistics
from ..objective import Metric, Problem
from .base import Chooser, Shape
from .factors import Factored, both
from .grammar import Term
from .low_rank import tails_of
from .truncated import truncated_svd
from .use import Use

LADDER_SIZES = (4, 8, 16, 32, 64)
"""Rows and columns of the first factor of the ladder."""

LADDER_TERMS = (1, 2, 4, 8, 16, 32, 64)

_FIRST = re.compile(r"([1-9]\d*)x([1-9]\d*)")
_TERMS = re.compile(r"t([1-9]\d*)")


@dataclass(frozen=True)
class Kronecker(Factored):
    """``sum_t A_t (x) B_t``, ``A_t [rows, columns]``; ``B_t`` has what remains of the weight's sizes.

    Entry ``(a * p + c, b * q + d)`` of the weight is ``sum_t A_t[a, b] B_t[c, d]`` with ``B_t [p, q]``. The factors are
    those of least squared error: with every block of the weight as a row, the sum is a matrix of rank ``terms`` (Van
    Loan and Pitsianis, 1993), so that they are its leading singular vectors. The weight alone decides, no encoder does.

    A layer computes two products: of the fast index of its input with all ``B_t``, and of the slow one with all
    ``A_t``. An embedding forms its weight. Refused for convolutions, for sizes that do not divide, and where it would
    hold as many numbers as the weight.

    Attributes:
        rows: of each ``A_t``, 1 or more; divides the rows of the weight.
        columns: of each ``A_t``, 1 or more; divides the columns of the weight.
        terms: of the sum, 1 or more.

    Raises:
        FormatError: if a number is below 1.
    """

    rows: int
    columns: int
    terms: int = 1

    close_bounds: ClassVar[bool] = False
    options: ClassVar[str] = ":<rows>x<columns>, :t<terms>"
    example_options: ClassVar[str] = ":4x8"

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.terms) < 1:
            raise FormatError(
                f"kron: expected sizes and terms of 1 or more, got {self.rows}x{self.columns}:t{self.terms}; write "
                "'kron:4x8' or 'kron:4x8:t3'"
            )

    @classmethod
    def of_term(cls, term: Term) -> Kronecker:
        """Parse ``kron:4x8``, ``kron:4x8:t3``.

        Raises:
            ParseError: at an option that is missing, unknown or out of range.
        """
        expected = "'<rows>x<columns>' of the first factor, numbers of 1 or more"
        word = term.option(0, expected)
        first = _FIRST.fullmatch(word.text)
        if first is None:
            raise word.error(expected, (), ("4x8",))
        terms = _TERMS.fullmatch(term.options[1].text) if len(term.options) > 1 else None
        if len(term.options) > 1 and terms is None:
            raise term.options[1].error("'t<terms>' with 1 term or more", (), ("t2",))
        for option in term.options[2:]:
            raise option.error("the end of the format", ())
        return cls(int(first[1]), int(first[2]), int(terms[1]) if terms else 1)

    @classmethod
    def ladder(cls, shape: Shape) -> tuple[str, ...]:
        """First factors of a square number of blocks, powers of two on both sides, and terms that double."""
        if len(shape) != 2:
            return ()
        sizes = [n for n in LADDER_SIZES if shape[0] % n == 0 and shape[1] % n == 0]
        found = [f"{n}x{n}" + (f":t{terms}" if terms > 1 else "") for n in sizes for terms in LADDER_TERMS]
        return tuple(found) or ("1x1",)

    def least_cost(self, problem: Problem, metric: Metric) -> float | None:
        """The tail of the rearranged weight, exact for the plain metric; under others times what a change costs least.

        A metric of rows and columns weighs no change by less than its least row and its least direction.
        """
        key = ("kronecker spectrum", self.rows, self.columns)
        tails = problem.of_weight(key, lambda: tails_of(rearrange(problem.matrix, self.rows, self.columns)))
        return least_weight(metric) * float(tails[min(self.terms, len(tails) - 1)])

    @property
    def structure(self) -> str:
        """``kron:4x8``, ``kron:4x8:t3``."""
        return f"kron:{self.rows}x{self.columns}" + (f":t{self.terms}" if self.terms > 1 else "")

    @property
    def families(self) -> frozenset[str]:
        """What factors are stored in: the weight alone decides them."""
        return self.element.families

    def unfit(self, shape: Shape) -> str | None:
        """Convolutions, sizes that do not divide, and what saves nothing."""
        if len(shape) != 2:
            return f"{self.spelling}: expected a linear layer, got the weight {list(shape)}"
        if shape[0] % self.rows or shape[1] % self.columns:
            return (
                f"{self.spelling}: expected a weight whose sizes are multiples of {self.rows} x {self.columns}, got "
                f"{shape[0]} x {shape[1]}"
            )
        dense, each = shape[0] * shape[1], self.rows * self.columns + shape[0] * shape[1] // (self.rows * self.columns)
        if self.terms * each < dense:
            return None
        most = (dense - 1) // each
        wanted = f"at most {most} terms" if most else "factors that save something"
        return (
            f"{self.spelling}: expected {wanted} for a weight of {shape[0]} x {shape[1]}, got {self.terms}, whose "
            f"factors hold {self.terms * each} numbers against {dense}"
        )

    def shapes(self, shape: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows ``a``, columns ``(t, b)``; rows ``(t, c)``, columns ``d``: all first and all second factors."""
        right = self.terms * (shape[0] // self.rows), shape[1] // self.columns
        return (self.rows, self.terms * self.columns), right

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The sum of the products."""
        left, right = self.factors(ops, stored, shape)
        a, b, t, (p, q) = self.rows, self.columns, self.terms, (shape[0] // self.rows, shape[1] // self.columns)
        left = ops("aten.permute", ops("aten.reshape", left, (a, t, b)), (0, 2, 1))
        rearranged = ops("aten.matmul", ops("aten.reshape", left, (a * b, t)), ops("aten.reshape", right, (t, p * q)))
        placed = ops("aten.permute", ops("aten.reshape", rearranged, (a, b, p, q)), (0, 2, 1, 3))
        return ops("aten.reshape", placed, tuple(shape))

    def apply(self, ops: Ops[V], x: V, stored: Mapping[str, V], use: Use) -> V:
        """``sum_t A_t X B_t^T`` of the input as a matrix ``X [columns, q]``."""
        if use.kind not in (LINEAR, MATMUL):
            return super().apply(ops, x, stored, use)
        left, right = (use.cast(ops, f) for f in self.factors(ops, stored, use.shape))
        b, t, (p, q) = self.columns, self.terms, (use.shape[0] // self.rows, use.shape[1] // self.columns)
        leading = ops.shape(x)[:-1]
        hidden = ops("aten.linear", ops("aten.reshape", x, (-1, b, q)), right)  # [tokens, b, (t, p)]
        hidden = ops("aten.permute", ops("aten.reshape", hidden, (-1, b, t, p)), (0, 3, 2, 1))
        y = ops("aten.linear", ops("aten.reshape", hidden, (-1, p, t * b)), left)  # [tokens, p, a]
        y = ops("aten.reshape", ops("aten.permute", y, (0, 2, 1)), (*leading, use.shape[0]))
        return y if use.bias is None else ops("aten.add.Tensor", y, use.bias)

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`."""
        left, right = nearest_products(problem.matrix, self.rows, self.columns, self.terms)
        shape_left, shape_right = self.shapes(problem.shape)
        known = right_statistics(problem.statistics, left)
        second = self.element.encode(right.reshape(shape_right), known, encoder)
        known = left_statistics(problem.statistics, self.element.decode(second).reshape(right.shape), self.rows)
        first = self.element.encode(left.permute(1, 0, 2).reshape(shape_left), known, encoder)
        return both(first, second)


def right_statistics(known: WeightStatistics | None, left: Tensor) -> WeightStatistics | None:
    """What a change of the second factors costs, given the first ``[terms, a, b]``; cross terms are left out.

    ``A (x) dB`` costs ``sum_cd (A^T A)[c, d] dB H[c, :, d, :] dB^T``: exact for one term and rows that count alike.
    """
    if known is None or known.second_moment is None:
        return None
    rows, columns = left.shape[1:]
    moment = known.second_moment.to(left).unflatten(1, (columns, -1)).unflatten(0, (columns, -1))
    gram = torch.einsum("tab,tac->bc", left, left)
    seen = torch.einsum("bc,bqcr->qr", gram / gram.trace().clamp(min=1e-30), moment)
    weights = known.row_weight.to(left).reshape(rows, -1)
    return WeightStatistics(known.count, (seen + seen.T) / 2, (left.square().sum(2) @ weights).flatten())


def left_statistics(known: WeightStatistics | None, right: Tensor, rows: int) -> WeightStatistics | None:
    """What a change of the first factors ``[rows, (terms, columns)]`` costs, given the second ``[terms, p, q]``.

    Exact for rows that count alike.
    """
    if known is None or known.second_moment is None:
        return None
    terms, _, width = right.shape
    moment = known.second_moment.to(right).unflatten(1, (-1, width)).unflatten(0, (-1, width))
    weights = known.row_weight.to(right).reshape(rows, -1)
    share = weights.mean(0) / weights.mean().clamp(min=1e-30)
    seen = torch.einsum("p,tpq,bqcr,upr->tbuc", share, right, moment, right).reshape(terms * moment.shape[0], -1)
    return WeightStatistics(known.count, (seen + seen.T) / 2, weights.mean(1))


def rearrange(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """``[rows * columns, p * q]``, the blocks ``[p, q]`` of a matrix as rows."""
    p, q = matrix.shape[0] // rows, matrix.shape[1] // columns
    return matrix.reshape(rows, p, columns, q).permute(0, 2, 1, 3).reshape(rows * columns, p * q)


def nearest_products(matrix: Tensor, rows: int, columns: int, terms: int) -> tuple[Tensor, Tensor]:
    """``A [terms, rows, columns]`` and ``B [terms, p, q]`` whose ``sum_t A_t (x) B_t`` is nearest to ``matrix``.

    The squared error is the sum of the squared singular values beyond ``terms`` of the rearranged matrix, whose rows
    are the blocks ``[p, q]`` of ``matrix``. Singular values are on both sides; ``terms`` is at most their number.
    """
    p, q = matrix.shape[0] // rows, matrix.shape[1] // columns
    rearranged = rearrange(matrix, rows, columns)
    u, s, vh = truncated_svd(rearranged, min(terms, *rearranged.shape))
    half = s.sqrt()
    left, right = (u * half).T, half.unsqueeze(1) * vh
    return left.reshape(-1, rows, columns), right.reshape(-1, p, q)


def least_weight(metric: Metric) -> float:
    """What a change of unit norm costs at least."""
    rows = 1.0 if metric.rows is None else float(metric.rows.min()) ** 2
    if metric.columns is None:
        return rows
    if metric.columns.dim() == 1:
        return rows * float(metric.columns.min()) ** 2
    return rows * float(torch.linalg.svdvals(metric.columns.double())[-1]) ** 2
