"""``sparse:2x4`` and ``sparse:keep50``: a bit for each weight, and numbers for those that are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ...ir.packing import pack, row_bytes
from ...ir.statistics import WeightStatistics
from ..objective import Metric, Placed, Problem
from .base import SPARSE, Chooser, Format, Shape, TensorSpec, named, part
from .floating import FloatFormat
from .grammar import Term
from .levels import LEVELS
from .patterns import Pattern

HALF = FloatFormat(16)
"""How kept weights are stored unless a product says otherwise."""

LADDER = ("keep5", "keep10", "keep15", "keep25", "keep35", "keep50", "keep75", "1x4", "2x4")

_RUNS = re.compile(r"([1-9]\d*)x([1-9]\d*)")
_SHARE = re.compile(r"keep([1-9]\d?)")


@dataclass(frozen=True)
class Sparse(Format):
    """Weights of which every row keeps the same number, and zeros elsewhere.

    ``2x4`` keeps 2 of every 4 columns that follow each other (N:M); ``keep50`` keeps half of a row, anywhere (the
    comparison within an output channel of Wanda, arXiv 2306.11695). Stored are the mask, one bit a weight, and the kept
    weights from left to right, in float16 or, with ``int4:g32 @ sparse:2x4``, in another format: ``16 d + 1`` bits a
    weight at density ``d``. Which weights are kept, and what the kept ones become, is the encoder's choice.

    The weight is formed again before it is multiplied: the file is smaller, a dense product is as slow as it was, and
    that is what it is priced with. Refused where it would hold as many bytes as the weight in the element's format.

    Attributes:
        keep: weights that are kept of each ``group`` columns, or per cent of a row where ``group`` is ``None``.
        group: columns of a group.
        element: how kept weights are stored.

    Raises:
        FormatError: nothing would be kept, or nothing dropped.
    """

    keep: int
    group: int | None = None
    element: Format = field(default=HALF, kw_only=True)

    close_bounds: ClassVar[bool] = False
    options: ClassVar[str] = ":<kept>x<of> or :keep<per cent>"
    example_options: ClassVar[str] = ":2x4"

    def __post_init__(self) -> None:
        if not 1 <= self.keep < (self.group or 100):
            raise FormatError(
                f"sparse: expected to keep 1 or more and not all, got {self.structure.removeprefix('sparse:')!r}; "
                "write 'sparse:2x4' or 'sparse:keep50'"
            )

    @classmethod
    def of_term(cls, term: Term) -> Sparse:
        """Parse ``sparse:2x4``, ``sparse:keep50``.

        Raises:
            ParseError: at an option that is missing, unknown or out of range.
        """
        expected = "'<kept>x<of>' with fewer kept, or 'keep<per cent>' from 1 to 99"
        word = term.option(0, expected)
        runs, share = _RUNS.fullmatch(word.text), _SHARE.fullmatch(word.text)
        if share is None and (runs is None or int(runs[1]) >= int(runs[2])):
            raise word.error(expected, (), ("2x4", "keep25"))
        for option in term.options[1:]:
            raise option.error("the end of the format", ())
        return cls(int(share[1])) if share else cls(*(int(n) for n in word.text.split("x")))

    @classmethod
    def ladder(cls, shape: Shape) -> tuple[str, ...]:
        """Densities that halve, more or less, and two patterns of runs of four."""
        del shape
        return LADDER

    @property
    def structure(self) -> str:
        """``sparse:2x4``."""
        return f"sparse:keep{self.keep}" if self.group is None else f"sparse:{self.keep}x{self.group}"

    @property
    def spelling(self) -> str:
        """``sparse:2x4``, ``int4:g32 @ sparse:keep50``."""
        return self.structure if self.element == HALF else f"{self.element.operand} @ {self.structure}"

    @property
    def families(self) -> frozenset[str]:
        """What is kept, and what it is stored in."""
        return frozenset({SPARSE}) | self.element.families

    @property
    def has_parts(self) -> bool:
        """Where kept weights are rounded to a grid."""
        return bool(self.element.families)

    def stored_as(self, element: Format) -> Format:
        """See :meth:`Format.stored_as`; ``a @ (b @ sparse:2x4)`` is ``(a @ b) @ sparse:2x4``."""
        return replace(self, element=element if self.element == HALF else self.element.stored_as(element))

    def pattern(self, columns: int) -> Pattern:
        """What is kept of rows of ``columns``; per cent are rounded, to 1 at least."""
        if self.group is not None:
            return Pattern(self.keep, self.group)
        return Pattern(max(1, round(columns * self.keep / 100)), columns)

    def least_cost(self, problem: Problem, metric: Metric) -> float | None:
        """The least that dropped weights cost, whatever kept ones become; exact where columns do not interact.

        With ``t`` the least eigenvalue of ``H`` once its diagonal is scaled to ones, ``H - t diag(H)`` has no negative
        one, so that a change costs ``t`` times what it costs under the diagonal alone, or more.
        """
        matrix, share = problem.matrix, 1.0
        scores = matrix.square()
        if metric.columns is not None:
            diagonal, share = _scaled_diagonal(metric.columns)
            scores = scores * diagonal
        if metric.rows is not None:
            scores = scores * metric.rows.square().unsqueeze(1)
        dropped = scores * ~self.pattern(matrix.shape[1]).mask(scores)
        return share * float(dropped.sum(dtype=torch.float64))

    def kept(self, shape: Shape) -> tuple[int, int]:
        """``[rows, kept weights of a row]``."""
        columns = math.prod(shape[1:])
        return shape[0], self.pattern(columns).kept(columns)

    def refuses(self, shape: Shape) -> str | None:
        """What saves nothing, and what kept weights cannot be stored in."""
        reason = super().refuses(shape) or self.element.refuses(self.kept(shape))
        if reason is not None:
            return reason
        stored, dense = self.nbytes(shape), self.element.nbytes((shape[0], math.prod(shape[1:])))
        if stored < dense:
            return None
        return (
            f"{self.spelling}: expected fewer bytes than the {dense} of {self.element.spelling} for a weight of "
            f"{shape[0]} x {math.prod(shape[1:])}, got {stored}: mask and {self.kept(shape)[1]} kept weights a row"
        )

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``mask`` uint8 ``[rows, bytes]``, a bit for each weight, and the element's tensors as ``values.``."""
        mask = TensorSpec((shape[0], row_bytes(math.prod(shape[1:]), 1)), torch.uint8)
        return {"mask": mask} | named(self.element.tensors(self.kept(shape)), "values.")

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """Kept weights by how many were kept before them in their row, times the mask."""
        flat = (shape[0], math.prod(shape[1:]))
        mask = ops(LEVELS, stored["mask"], None, (0.0, 1.0), 1, 0, flat)
        place = ops("aten.sub.Tensor", ops("aten.mul.Tensor", ops("aten.cumsum", mask, 1), mask), mask)
        values = self.element.weight(ops, part(stored, "values."), self.kept(shape))
        spread = ops("aten.gather", values, 1, ops("aten._to_copy", place, dtype=torch.int64))
        return ops("aten.reshape", ops("aten.mul.Tensor", spread, mask), tuple(shape))

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`."""
        columns = problem.matrix.shape[1]
        pruned = encoder.prune(self.pattern(columns), problem)
        kept = self.kept(problem.shape)
        known = kept_statistics(problem.statistics, pruned.mask, kept)
        part = Problem(pruned.values[pruned.mask].reshape(kept), known, Placed(problem, pruned.mask))
        values = self.element.encode(part, encoder=encoder)
        return {"mask": pack(pruned.mask.to(torch.uint8), 1)} | named(values.tensors, "values.")


def _scaled_diagonal(columns: Tensor) -> tuple[Tensor, float]:
    """The diagonal of a second moment from its root ``columns``, and the least eigenvalue once that is ones."""
    if columns.dim() == 1:
        return columns.square(), 1.0
    diagonal = columns.square().sum(dim=1)
    scaled = columns.double() / diagonal.double().clamp(min=1e-300).sqrt().unsqueeze(1)
    return diagonal, float(torch.linalg.eigvalsh(scaled @ scaled.T)[0].clamp(min=0.0))


def kept_statistics(known: WeightStatistics | None, mask: Tensor, kept: tuple[int, int]) -> WeightStatistics | None:
    """What a change of the kept weights costs: for each place in a row, the mean over rows of its column's importance.

    Rows keep different columns, so that what two places cost together differs from row to row and is left out.
    """
    if known is None or known.importance is None:
        return None
    importance = known.importance.to(torch.float32).to(mask.device)
    places = importance.expand(mask.shape)[mask].reshape(kept).mean(dim=0)
    return WeightStatistics(known.count, torch.diag(places), known.row_weight)
