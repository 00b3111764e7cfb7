"""Coordinate descent: codes and scales that are chosen already, each set to its optimum given all others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats.grids import Choice, Grid, Parameters, decode_choice

BLOCK = 128
"""Columns whose codes are set together at most; what those before them changed is added up once."""

FEW = 32
"""Columns of a block whose codes are set one by one; what they change in the rest of it is added up once."""

FARTHEST = 2.0
"""A scale grows or shrinks by this factor at most in one step."""


def descend(
    weight: Tensor, grid: Grid, group: int, choice: Choice, moment: Tensor, sweeps: int, *, stretch: bool = True
) -> Choice:
    """``sweeps`` rounds over the scale of a group and then its codes; no step raises ``d_i H d_i^T`` of a row.

    With every other column as it is, the best value of column ``j`` is ``w_j + sum_{k != j} H_jk d_k / H_jj``, and the
    nearest code to it is the best one (QuantEase, Behdin et al., arXiv 2309.01885). Before, the scale of a group is
    multiplied with ``1 + q H d / q H q`` over its columns, the optimum for its codes ``q``, where that helps once it is
    rounded as it will be stored.

    Args:
        weight: ``[rows, columns]``.
        grid: of the codes.
        group: columns that share parameters; 0 for all.
        choice: where it starts; not changed.
        moment: ``H`` ``[columns, columns]``, positive semidefinite; columns with nothing on its diagonal stay.
        sweeps: 1 or more; it ends early once no code changes.
        stretch: whether scales may change, too.
    """
    columns = weight.shape[1]
    group = group if 0 < group < columns else 0  # a group that is longer than a row is the row
    found = _State(weight, grid, group, choice, moment.to(weight))
    found.stretch = stretch
    for _ in range(sweeps):
        moved = [found.sweep(slice(first, stop)) for first, stop in _runs(0, columns, group or columns)]
        if not any(moved):
            break
    return Choice(found.codes.T, found.parameters)


def _runs(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    return [(first, min(first + length, stop)) for first in range(start, stop, length)]


class _State:
    """Codes, decoded values and differences, one column of the weight in each row: ``[columns, rows]``."""

    def __init__(self, weight: Tensor, grid: Grid, group: int, choice: Choice, moment: Tensor) -> None:
        self._grid, self._group, self._moment = grid, group, moment
        self._weight = weight.T.contiguous()
        self.codes = choice.codes.T.clone(memory_format=torch.contiguous_format)
        self.parameters = tuple(p.clone() for p in choice.parameters)
        self._decoded = decode_choice(grid, group, choice).T.contiguous()
        self._difference = self._weight - self._decoded
        self.stretch = True

    def sweep(self, group: slice) -> bool:
        """The scale of one group, then its codes; whether a code changed."""
        pull = self._moment[group] @ self._difference
        if self.stretch:
            self._rescale(group, pull)
        place = self._place(group)
        parameters = tuple(p[:, place].contiguous() for p in self.parameters)
        moved = False
        for first, stop in _runs(group.start, group.stop, BLOCK):
            block = slice(first, stop)
            if first > group.start:  # what the blocks before changed
                torch.mm(self._moment[block], self._difference, out=pull[: stop - first])
            moved |= self._recode(block, pull[: stop - first], parameters)
        return moved

    def _place(self, group: slice) -> int:
        return group.start // (self._group or len(self._weight))

    def _rescale(self, group: slice, pull: Tensor) -> None:
        """The scale of one group, row by row, where that lowers the loss; ``pull`` is kept up to date."""
        place, decoded = self._place(group), self._decoded[group]
        inside = self._moment[group, group]
        curved = inside @ decoded
        slope, curvature = ((decoded * other).sum(dim=0) for other in (pull, curved))
        best = torch.where(curvature > 0.0, 1.0 + slope / curvature.clamp(min=1e-30), 1.0)
        old = tuple(p[:, place : place + 1] for p in self.parameters)
        new = self._grid.rescaled(old, best.clamp(1.0 / FARTHEST, FARTHEST).unsqueeze(1))
        step = self._grid.dequantize(self.codes[group].T, new).T - decoded
        change = inside @ step
        better = (step * change).sum(dim=0) < 2.0 * (step * pull).sum(dim=0)
        for before, after in zip(old, new, strict=True):
            before.copy_(torch.where(better.unsqueeze(1), after, before))
        self._decoded[group] += step.mul_(better)
        self._difference[group] = self._weight[group] - self._decoded[group]
        pull.sub_(change.mul_(better))

    def _recode(self, block: slice, pull: Tensor, parameters: Parameters) -> bool:
        """The codes of some columns, from left to right; ``pull`` is what all columns ask of them."""
        before = self.codes[block].clone()
        inside = self._moment[block, block]
        for first, stop in _runs(0, len(inside), FEW):
            step = self._recode_few(block.start + first, inside[first:stop, first:stop], pull[first:stop], parameters)
            pull[stop:].addmm_(inside[stop:, first:stop], step)
        torch.sub(self._weight[block], self._decoded[block], out=self._difference[block])
        return not torch.equal(before, self.codes[block])

    def _recode_few(self, first: int, inside: Tensor, pull: Tensor, parameters: Parameters) -> Tensor:
        """What was taken from the decoded values ``[columns, rows]``."""
        steps = torch.zeros_like(pull)
        diagonal: list[float] = inside.diagonal().tolist()
        for offset, own in enumerate(diagonal):
            if own <= 0.0:
                continue
            decoded = self._decoded[first + offset]
            wanted = torch.add(decoded, pull[offset], alpha=1.0 / own)
            self.codes[first + offset], values = self._grid.rounded(wanted, parameters)
            step = torch.sub(decoded, values, out=steps[offset])
            decoded.copy_(values)
            pull[offset + 1 :].addr_(inside[offset + 1 :, offset], step)
        return steps
