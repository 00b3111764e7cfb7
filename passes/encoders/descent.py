"""Coordinate descent: codes and scales that are chosen already, each set to its optimum given all others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats.grids import Choice, Grid, Parameters, column_parameters, decode_choice

BLOCK = 128
"""Columns whose codes are set together; what they change elsewhere is added up once."""

FARTHEST = 2.0
"""A scale grows or shrinks by this factor at most in one step."""


def descend(weight: Tensor, grid: Grid, group: int, choice: Choice, moment: Tensor, sweeps: int) -> Choice:
    """``sweeps`` rounds over all scales and then all codes; no step raises ``d_i H d_i^T`` of a row.

    With every other column as it is, the best value of column ``j`` is ``w_j + sum_{k != j} H_jk d_k / H_jj``, and the
    nearest code to it is the best one (QuantEase, Behdin et al., arXiv 2309.01885). In between, the scale of a group is
    multiplied with ``1 + q H d / q H q`` over its columns, the optimum for its codes ``q``, where that helps once it is
    rounded as it will be stored.

    Args:
        weight: ``[rows, columns]``.
        grid: of the codes.
        group: columns that share parameters; 0 for all.
        choice: where it starts; not changed.
        moment: ``H`` ``[columns, columns]``, positive semidefinite; columns with nothing on its diagonal stay.
        sweeps: 1 or more; it ends early once no code changes.
    """
    columns = weight.shape[1]
    group = group if 0 < group < columns else 0  # a group that is longer than a row is the row
    found = _State(weight, grid, group, choice, moment.to(weight))
    for _ in range(sweeps):
        for part in _runs(columns, group or columns):
            found.rescale(part)
        spread = found.spread()
        moved = [found.recode(part, spread) for part in _runs(columns, BLOCK)]
        if not any(moved):
            break
    return Choice(found.codes.T, found.parameters)


def _runs(columns: int, length: int) -> list[slice]:
    return [slice(first, min(first + length, columns)) for first in range(0, columns, length)]


class _State:
    """Codes, decoded values and differences, one column of the weight in each row: ``[columns, rows]``."""

    def __init__(self, weight: Tensor, grid: Grid, group: int, choice: Choice, moment: Tensor) -> None:
        self._grid, self._group, self._moment = grid, group, moment
        self._weight = weight.T.contiguous()
        self.codes = choice.codes.T.clone(memory_format=torch.contiguous_format)
        self.parameters = tuple(p.clone() for p in choice.parameters)
        self._decoded = decode_choice(grid, group, choice).T.contiguous()
        self._difference = self._weight - self._decoded

    def spread(self) -> Parameters:
        """The parameters of every column, ``[columns, rows]``."""
        spread = column_parameters(self.parameters, len(self._weight), self._group)
        return tuple(p.T.contiguous() for p in spread)

    def rescale(self, columns: slice) -> None:
        """The scale of one group, row by row, where that lowers the loss."""
        place, decoded = columns.start // (self._group or len(self._weight)), self._decoded[columns]
        inside, pull = self._moment[columns, columns], self._moment[columns] @ self._difference
        slope, curvature = ((decoded * other).sum(dim=0) for other in (pull, inside @ decoded))
        best = torch.where(curvature > 0.0, 1.0 + slope / curvature.clamp(min=1e-30), 1.0)
        old = tuple(p[:, place : place + 1] for p in self.parameters)
        new = self._grid.rescaled(old, best.clamp(1.0 / FARTHEST, FARTHEST).unsqueeze(1))
        step = self._grid.dequantize(self.codes[columns].T, new).T - decoded
        better = (step * (inside @ step)).sum(dim=0) < 2.0 * (step * pull).sum(dim=0)
        for before, after in zip(old, new, strict=True):
            before.copy_(torch.where(better.unsqueeze(1), after, before))
        self._decoded[columns] += step * better
        self._difference[columns] = self._weight[columns] - self._decoded[columns]

    def recode(self, columns: slice, spread: Parameters) -> bool:
        """The codes of some columns, from left to right; whether any changed."""
        inside, pull = self._moment[columns, columns], self._moment[columns] @ self._difference
        diagonal: list[float] = inside.diagonal().tolist()
        moved = False
        for offset, own in enumerate(diagonal):
            if own <= 0.0:
                continue
            place = columns.start + offset
            parameters = tuple(p[place] for p in spread)
            codes = self._grid.quantize(self._decoded[place] + pull[offset] / own, parameters)
            decoded = self._grid.dequantize(codes, parameters)
            step = self._decoded[place] - decoded
            if bool(step.any()):
                moved = True
                self.codes[place], self._decoded[place] = codes, decoded
                self._difference[place] = self._weight[place] - decoded
                pull.addr_(inside[offset], step)
        return moved
