"""Grids: families of representable values, one member per group of columns, and codes chosen on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.dialect import join_groups, split_groups

Parameters = tuple[Tensor, ...]


class Grid(ABC):
    """A set of representable values that is fitted to each group (scale, zero point, ...).

    Values come as ``[..., k]``: the last dimension is one group. Parameters and codes broadcast against it.
    """

    @abstractmethod
    def fit(self, groups: Tensor) -> Parameters:
        """Parameters ``[..., 1]`` that cover each group ``[..., k]``, rounded as they will be stored."""

    @abstractmethod
    def candidates(self, groups: Tensor, steps: int) -> Iterable[Parameters]:
        """``steps`` other parameters ``[..., 1]`` worth trying at this grid's width: the range scaled, mostly down."""

    def rescaled(self, parameters: Parameters, factor: Tensor) -> Parameters:
        """The same values stretched by a positive ``factor`` ``[..., 1]``, rounded as stored; the default cannot be."""
        del factor
        return parameters

    @abstractmethod
    def quantize(self, values: Tensor, parameters: Parameters) -> Tensor:
        """The nearest codes, whole numbers from 0 to 255 in the dtype of ``values``."""

    @abstractmethod
    def dequantize(self, codes: Tensor, parameters: Parameters) -> Tensor:
        """The values that codes stand for."""

    def rounded(self, values: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The nearest codes, and the values that they stand for."""
        codes = self.quantize(values, parameters)
        return codes, self.dequantize(codes, parameters)

    def errors(self, groups: Tensor, parameters: Parameters, importance: Tensor | None = None) -> Tensor:
        """Squared error ``[..., 1]`` of rounding each group ``[..., k]``, each value weighted by its importance."""
        squares = self.dequantize(self.quantize(groups, parameters), parameters).sub_(groups).square_()
        return (squares if importance is None else squares.mul_(importance)).sum(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Choice:
    """What an encoder decided.

    Attributes:
        codes: ``[rows, columns]``, whole numbers in a float dtype, or bytes.
        parameters: one ``[rows, groups]`` tensor for each parameter of the grid.
    """

    codes: Tensor
    parameters: Parameters

    def rows(self, rows: slice) -> Choice:
        """What was decided for some rows."""
        return Choice(self.codes[rows], tuple(p[rows] for p in self.parameters))


def column_parameters(parameters: Parameters, columns: int, group: int) -> Parameters:
    """Spread ``[rows, groups]`` parameters to ``[rows, columns]``."""
    if group == 0:
        return tuple(p.expand(-1, columns) for p in parameters)
    return tuple(p.repeat_interleave(group, dim=1)[:, :columns] for p in parameters)


def nearest(grid: Grid, group: int, matrix: Tensor) -> Choice:
    """The grid that covers each group of a matrix ``[rows, columns]``, and the nearest codes."""
    groups = split_groups(matrix, group)
    parameters = grid.fit(groups)
    codes = join_groups(grid.quantize(groups, parameters), matrix.shape[1])
    return Choice(codes, tuple(p.squeeze(-1) for p in parameters))


def nearest_at(grid: Grid, group: int, matrix: Tensor, parameters: Parameters) -> Choice:
    """The nearest codes of a matrix ``[rows, columns]`` at parameters ``[rows, groups]``."""
    codes = grid.quantize(split_groups(matrix, group), tuple(p.unsqueeze(-1) for p in parameters))
    return Choice(join_groups(codes, matrix.shape[1]), parameters)


def best_rows(candidates: Sequence[Choice], errors: Tensor) -> Choice:
    """Row by row the candidate of least error ``[candidates, rows]``, the earlier one on ties."""
    pick = errors.argmin(dim=0).unsqueeze(1)
    codes, parameters = candidates[0].codes, candidates[0].parameters
    for index, candidate in enumerate(candidates[1:], start=1):
        chosen = pick == index
        codes = torch.where(chosen, candidate.codes, codes)
        parameters = tuple(torch.where(chosen, n, o) for n, o in zip(candidate.parameters, parameters, strict=True))
    return Choice(codes, parameters)


def decode_choice(grid: Grid, group: int, choice: Choice) -> Tensor:
    """The values ``[rows, columns]`` that a choice stands for."""
    rows, columns = choice.codes.shape
    spread = tuple(p.unsqueeze(-1) for p in choice.parameters)
    codes = choice.codes.to(spread[0].dtype)
    return grid.dequantize(split_groups(codes, group), spread).reshape(rows, -1)[:, :columns]
