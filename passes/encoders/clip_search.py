"""Clip search: shrink the range of each group where rounding finer is worth clipping its extremes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.dialect import join_groups, split_groups
from ...ir.errors import FormatError
from ..formats.base import GRID
from ..formats.grids import Choice, Grid, Parameters, best_rows, decode_choice, nearest, nearest_at
from ..objective import Problem
from .base import Encoder

ROWS = 1 << 22
"""Weights whose choices are compared at a time."""

CHUNK = 1 << 17  # weights that are searched at a time: what stays in a core's cache
TOGETHER = 1 << 18  # weights times candidates that are compared at once: small groups are many small operations


@dataclass(frozen=True)
class ClipSearch(Encoder):
    """Per group, the range among ``steps`` candidates with the least squared error, and the nearest codes.

    Errors are weighted by the diagonal of the second moment where statistics have one. What is off the diagonal has the
    last word: a row whose output changes more than with ranges that cover its groups keeps those, so that no row is
    worse than rounded to nearest. (The search of AWQ, arXiv 2306.00978, and of
    GPTQ's reference implementation, with the factors that suit each width.)

    Raises:
        FormatError: if ``steps`` is not positive.
    """

    steps: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise FormatError(f"mse: expected steps of 1 or more, got {self.steps}; leave it out for the default")

    @property
    def families(self) -> frozenset[str]:
        """Grids."""
        return frozenset({GRID})

    @property
    def spelling(self) -> str:
        """``mse`` or ``mse:steps=40``."""
        return "mse" if self.steps == ClipSearch.steps else f"mse:steps={self.steps}"

    def choose(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """See :meth:`Encoder.choose`.

        Raises:
            FormatError: if the statistics belong to a matrix of another shape.
        """
        problem.check_statistics()
        matrix = problem.matrix
        searched = clip_search(matrix, grid, group, problem.importance, self.steps)
        if _apart(problem):
            return searched
        step, covering = max(1, ROWS // max(1, matrix.shape[1])), nearest(grid, group, matrix)
        pieces = [slice(i, i + step) for i in range(0, len(matrix), step)]
        return joined(
            [kept_rows(problem, rows, grid, group, [c.rows(rows) for c in (covering, searched)]) for rows in pieces]
        )

    def recode(self, grid: Grid, group: int, problem: Problem, choice: Choice) -> Choice:
        """See :meth:`Encoder.recode`: row by row the nearest codes, or those that were chosen."""
        return recoded(problem, grid, group, choice)


def _apart(problem: Problem) -> bool:
    """Whether the importance of columns is the whole objective of a row."""
    known, moment = problem.statistics, problem.second_moment
    return known is None or moment is None or (known.row_frequency is None and is_diagonal(moment))


def kept_rows(problem: Problem, rows: slice, grid: Grid, group: int, found: Sequence[Choice]) -> Choice:
    """Of several choices for some rows of a problem the best one for each row, by the objective."""
    weight = problem.matrix[rows]
    return best_rows(
        found, torch.stack([problem.row_errors(weight - decode_choice(grid, group, c), rows) for c in found])
    )


def recoded(problem: Problem, grid: Grid, group: int, choice: Choice) -> Choice:
    """For each row of a problem the nearest codes at the parameters of a choice, or its own, by the objective."""
    step = max(1, ROWS // max(1, problem.matrix.shape[1]))
    pieces = [slice(i, i + step) for i in range(0, len(problem.matrix), step)]
    return joined(
        [
            kept_rows(problem, rows, grid, group, [own, nearest_at(grid, group, problem.matrix[rows], own.parameters)])
            for rows in pieces
            for own in [choice.rows(rows)]
        ]
    )


def joined(parts: Sequence[Choice]) -> Choice:
    """Choices for rows that follow each other."""
    if len(parts) == 1:
        return parts[0]
    parameters = tuple(torch.cat(p) for p in zip(*(part.parameters for part in parts), strict=True))
    return Choice(torch.cat([part.codes for part in parts]), parameters)


def gathered(weight: Tensor, parts: Iterable[Choice]) -> Choice:
    """As :func:`joined`, part by part, so that they never exist beside the whole, whose codes are bytes."""
    codes = torch.empty_like(weight, dtype=torch.uint8)
    parameters: list[Parameters] = []
    first = 0
    for part in parts:
        codes[first : first + len(part.codes)] = part.codes
        parameters.append(part.parameters)
        first += len(part.codes)
    return Choice(codes, tuple(torch.cat(each) for each in zip(*parameters, strict=True)))


def is_diagonal(moment: Tensor) -> bool:
    """Whether nothing is off the diagonal."""
    return int(torch.count_nonzero(moment)) == int(torch.count_nonzero(moment.diagonal()))


def clip_search(weight: Tensor, grid: Grid, group: int, importance: Tensor | None, steps: int) -> Choice:
    """The parameters of least squared error for each group, and the nearest codes.

    Args:
        weight: ``[rows, columns]``.
        grid: what is fitted.
        group: columns per group, 0 for all.
        importance: weight of each column's error ``[columns]``; ``None`` weighs all alike.
        steps: candidates besides the range that covers the group.
    """
    groups = split_groups(weight, group)
    weights = None if importance is None else split_groups(importance.to(weight), group)
    parameters = search_parameters(groups, grid, weights, steps)
    codes = join_groups(grid.quantize(groups, parameters), weight.shape[1])
    return Choice(codes, tuple(p.squeeze(-1) for p in parameters))


def search_parameters(groups: Tensor, grid: Grid, importance: Tensor | None, steps: int) -> Parameters:
    """The parameters ``[rows, ..., 1]`` of least squared error for each group ``[rows, ..., k]``.

    Args:
        groups: values, one group in the last dimension.
        grid: what is fitted.
        importance: weight of each value's error, the same for every row: the shape of ``groups`` without rows. ``None``
            weighs all alike.
        steps: candidates besides the range that covers the group.
    """
    rows = max(1, CHUNK // max(1, groups[:1].numel()))
    chunks = [_search(part, grid, importance, steps) for part in groups.split(rows)]
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def _search(groups: Tensor, grid: Grid, importance: Tensor | None, steps: int) -> Parameters:
    best = grid.fit(groups)
    if groups.numel() * (steps + 1) <= TOGETHER:
        return _search_together(groups, grid, importance, [best, *grid.candidates(groups, steps)])
    least = grid.errors(groups, best, importance)
    for candidate in grid.candidates(groups, steps):
        error = grid.errors(groups, candidate, importance)
        better = error < least
        least = torch.where(better, error, least)
        best = tuple(torch.where(better, new, old) for new, old in zip(candidate, best, strict=True))
    return best


def _search_together(
    groups: Tensor, grid: Grid, importance: Tensor | None, candidates: Sequence[Parameters]
) -> Parameters:
    """The first of the best candidates for each group."""
    stacked = tuple(torch.stack(parameters) for parameters in zip(*candidates, strict=True))
    errors = grid.errors(groups.expand(len(candidates), *groups.shape), stacked, importance)
    pick = errors.argmin(dim=0, keepdim=True)
    return tuple(p.gather(0, pick).squeeze(0) for p in stacked)
