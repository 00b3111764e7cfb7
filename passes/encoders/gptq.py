"""GPTQ: rounding with error feedback, kept only where it beats rounding without."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.statistics import WeightStatistics
from ..formats.base import GRID
from ..formats.grids import Choice, Grid, Parameters, column_parameters, nearest
from ..objective import FactoredHessian, Problem
from .base import Encoder
from .clip_search import ClipSearch, clip_search, gathered, is_diagonal, kept_rows, recoded, search_parameters
from .descent import descend
from .error_feedback import error_feedback
from .placed import placed_feedback

CHUNK = 1 << 20
"""Weights that are encoded at a time: rows do not influence each other, and a block of columns stays in the cache."""


@dataclass(frozen=True)
class GPTQ(Encoder):
    """Codes that minimise the change of the layer's output, ``tr((W - Q) H (W - Q)^T)`` (arXiv 2210.17323).

    Columns are rounded from left to right and each error is moved into the columns that follow. Parameters of a group
    are fitted to the updated weights when the group starts, by clip search weighted with the diagonal of ``H``. With
    ``act_order`` columns are visited by falling diagonal of ``H`` and parameters are fitted to the original weights
    beforehand (static groups), so that stored groups stay runs of columns and no index is needed.

    Rows do not influence each other, so each row keeps the best of error feedback, clip search and round to nearest by
    the undamped objective: the result is never worse than round to nearest, for any row. Rounds of coordinate descent
    over codes and scales follow, which the publication does not have (``sweeps=0``); no step raises the objective.
    Kept weights of a sparse matrix are rounded in their places among those that are dropped (:mod:`.placed`).

    Attributes:
        damping: share of the mean diagonal of ``H`` that is added to it; raised where factoring fails.
        block: columns updated together; changes speed only.
        act_order: visit columns by falling diagonal.
        steps: candidates of the clip search; 0 covers each group's range.
        sweeps: rounds of coordinate descent (:mod:`.descent`); each takes about as long as the error feedback.

    Raises:
        FormatError: if an option is out of range.
    """

    damping: float = 0.01
    block: int = 128
    act_order: bool = False
    steps: int = 12
    sweeps: int = 2

    def __post_init__(self) -> None:
        if not 0.0 <= self.damping <= 10.0:
            raise FormatError(f"gptq: expected damping between 0 and 10, got {self.damping}; 0.01 is usual")
        if self.block < 1:
            raise FormatError(f"gptq: expected a block of 1 or more columns, got {self.block}; 128 is usual")
        if self.steps < 0:
            raise FormatError(f"gptq: expected steps of 0 or more, got {self.steps}; 0 turns clip search off")
        if self.sweeps < 0:
            raise FormatError(f"gptq: expected sweeps of 0 or more, got {self.sweeps}; 4 is plenty")

    @property
    def families(self) -> frozenset[str]:
        """Grids."""
        return frozenset({GRID})

    @property
    def spelling(self) -> str:
        """``gptq``, ``gptq:act_order``, ``gptq:damping=0.05:block=64``."""
        words = ["gptq"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words.append(field.name if value is True else f"{field.name}={value}")
        return ":".join(words)

    @property
    def draft(self) -> GPTQ:
        """As published: coordinate descent takes twice as long as everything else, and helps all formats."""
        return _Draft(self.damping, self.block, self.act_order, self.steps, 0)

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """Error feedback needs a second moment; an embedding has none, and no data has none."""
        if statistics is None:
            return "gptq: expected calibration statistics, got none; give calibration data or use the encoder 'mse'"
        if statistics.second_moment is None:
            return (
                "gptq: expected a second moment of the layer's inputs, got row frequencies only (an embedding looks "
                "rows up and has no input vectors); use the encoder 'mse'"
            )
        return None

    def prepare(self, problem: Problem) -> None:
        """Factor the second moment.

        Raises:
            FormatError: if the statistics are refused or the matrix cannot be factored.
        """
        problem.hessian(self.damping, self.act_order)

    def choose(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """See :meth:`Encoder.choose`.

        Raises:
            FormatError: if the statistics are refused or belong to a matrix of another shape.
        """
        reason, moment, weight = self.refuses(problem.statistics), problem.second_moment, problem.matrix
        if reason is not None or moment is None:
            raise FormatError(str(reason))
        problem.check_statistics()
        if problem.within is not None and problem.within.whole.second_moment is not None:
            start = self._without_feedback(grid, group, problem)
            whole = problem.within.whole.hessian(self.damping, False)
            return placed_feedback(problem.within, grid, group, start, whole)
        if is_diagonal(moment):
            return self._without_feedback(grid, group, problem)
        factored = problem.hessian(self.damping, self.act_order)
        rows = max(1, CHUNK // weight.shape[1])
        pieces = [slice(i, i + rows) for i in range(0, len(weight), rows)]
        return gathered(weight, (self._encode_rows(problem, p, grid, group, moment, factored) for p in pieces))

    def recode(self, grid: Grid, group: int, problem: Problem, choice: Choice) -> Choice:
        """See :meth:`Encoder.recode`: the nearest codes or those that were chosen, then coordinate descent."""
        moment = problem.second_moment
        if problem.within is not None or moment is None:
            return choice
        start = recoded(problem, grid, group, choice)
        if not self.sweeps or is_diagonal(moment):
            return start
        step = max(1, CHUNK // problem.matrix.shape[1])
        pieces = [slice(i, i + step) for i in range(0, len(problem.matrix), step)]
        parts = [
            descend(problem.matrix[rows], grid, group, start.rows(rows), moment, self.sweeps, stretch=False)
            for rows in pieces
        ]
        codes = torch.cat([part.codes.to(torch.uint8) for part in parts])
        lower = Choice(codes, start.parameters)
        return kept_rows(problem, slice(0, len(codes)), grid, group, [start, lower])

    def _without_feedback(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """Columns that do not interact, as from too few samples: an error is not moved, and clip search is all."""
        if not self.steps:
            return nearest(grid, group, problem.matrix)
        return ClipSearch(max(self.steps, ClipSearch.steps)).choose(grid, group, problem)

    def _encode_rows(
        self, problem: Problem, rows: slice, grid: Grid, group: int, moment: Tensor, factored: FactoredHessian
    ) -> Choice:
        weight = problem.matrix[rows]
        found = [nearest(grid, group, weight)]
        if self.steps:
            found.append(clip_search(weight, grid, group, moment.diagonal(), self.steps))
        found.append(self._feedback(weight, grid, group, factored, found[-1].parameters))
        best = kept_rows(problem, rows, grid, group, found)
        if not self.sweeps:
            return best
        lower = descend(weight, grid, group, best, moment, self.sweeps)
        if problem.statistics is None or problem.statistics.row_frequency is None:
            return lower  # no step raises the objective
        return kept_rows(problem, rows, grid, group, [best, lower])

    def _feedback(
        self, weight: Tensor, grid: Grid, group: int, factored: FactoredHessian, static: Parameters
    ) -> Choice:
        columns = weight.shape[1]
        if factored.order is None:
            importance = factored.damped.diagonal().to(weight)
            dynamic = _DynamicGroups(weight, grid, importance, self.steps)
            error_feedback(weight, factored, dynamic, group, self.block)
            return Choice(dynamic.codes.T, tuple(torch.cat(p, dim=1) for p in zip(*dynamic.groups, strict=True)))
        spread = tuple(p[:, factored.order].T.contiguous() for p in column_parameters(static, columns, group))
        fixed = _StaticGroups(weight, grid, spread)
        error_feedback(weight, factored, fixed, 0, self.block)
        codes = torch.empty_like(fixed.codes)
        codes[factored.order] = fixed.codes
        return Choice(codes.T, static)


class _Draft(GPTQ):
    """Error feedback alone: what it is held against wins few rows, and by little."""

    def _encode_rows(
        self, problem: Problem, rows: slice, grid: Grid, group: int, moment: Tensor, factored: FactoredHessian
    ) -> Choice:
        if self.act_order:  # parameters come from what it is held against
            return super()._encode_rows(problem, rows, grid, group, moment, factored)
        return self._feedback(problem.matrix[rows], grid, group, factored, ())


class _DynamicGroups:
    """Fits parameters to the updated weights when a group starts."""

    def __init__(self, weight: Tensor, grid: Grid, importance: Tensor, steps: int) -> None:
        self.codes = torch.empty(weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weight.device)
        self.groups: list[Parameters] = []
        self._grid = grid
        self._importance = importance
        self._steps = steps
        self._current: Parameters = ()

    def start_group(self, first: int, columns: Tensor) -> None:
        groups = columns.T.contiguous()
        importance = self._importance[first : first + columns.shape[0]]
        parameters = search_parameters(groups, self._grid, importance, self._steps)
        self.groups.append(parameters)
        self._current = tuple(p.squeeze(-1) for p in parameters)

    def column(self, index: int, values: Tensor) -> Tensor:
        self.codes[index], decoded = self._grid.rounded(values, self._current)
        return decoded


class _StaticGroups:
    """Every column has parameters from the start, ``[columns, rows]`` in visiting order."""

    def __init__(self, weight: Tensor, grid: Grid, parameters: Parameters) -> None:
        self.codes = torch.empty(weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weight.device)
        self._grid = grid
        self._parameters = parameters

    def start_group(self, first: int, columns: Tensor) -> None:
        """Nothing to fit."""

    def column(self, index: int, values: Tensor) -> Tensor:
        parameters = tuple(p[index] for p in self._parameters)
        self.codes[index], decoded = self._grid.rounded(values, parameters)
        return decoded
