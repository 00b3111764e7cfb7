"""The blocks of a Monarch matrix, and the projection of any matrix onto those whose blocks have a rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..objective import Metric
from .low_rank import fit_left, tails_of
from .truncated import truncated_svd

SWEEPS = 4
"""Passes over all blocks under a full second moment; most of what there is to gain comes in the first two."""


@dataclass(frozen=True)
class Blocks:
    """How a matrix is cut: column ``c = k' * width + i``, row ``p = l * outputs + j`` (``j`` is the fast index).

    Block ``(k', j)`` is ``height x width``. Where sizes do not divide, zeros follow the last row and column.

    Attributes:
        rows: of the matrix.
        columns: of the matrix.
        inputs: blocks of the columns.
        outputs: interleaved sets of rows.
    """

    rows: int
    columns: int
    inputs: int
    outputs: int

    @property
    def height(self) -> int:
        """Rows of a block."""
        return -(-self.rows // self.outputs)

    @property
    def width(self) -> int:
        """Columns of a block."""
        return -(-self.columns // self.inputs)

    @property
    def more_columns(self) -> int:
        """Columns of zeros behind the last."""
        return self.inputs * self.width - self.columns

    def numbers(self, rank: int) -> int:
        """Numbers that the factors of a rank hold, padding counted."""
        return rank * self.inputs * self.outputs * (self.height + self.width)

    def split(self, matrix: Tensor) -> Tensor:
        """``[rows, columns]`` -> ``[inputs, outputs, height, width]``."""
        more_rows = self.height * self.outputs - self.rows
        padded = torch.nn.functional.pad(matrix, (0, self.more_columns, 0, more_rows))
        return padded.reshape(self.height, self.outputs, self.inputs, self.width).permute(2, 1, 0, 3)

    def padded_moment(self, moment: Tensor, missing: float) -> Tensor:
        """``[columns, columns]`` with ``missing`` on the diagonal for each column of zeros."""
        more = torch.full((self.more_columns,), missing, dtype=moment.dtype, device=moment.device)
        return torch.block_diag(moment, torch.diag(more)) if self.more_columns else moment

    def diagonal(self, moment: Tensor) -> Tensor:
        """The blocks ``[inputs, width, width]`` on the diagonal of a padded moment."""
        four = moment.reshape(self.inputs, self.width, self.inputs, self.width)
        return torch.diagonal(four, dim1=0, dim2=2).permute(2, 0, 1)


def project(matrix: Tensor, blocks: Blocks, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """The factors of least cost, singular values on both sides.

    Without weights, or with weights of rows and single columns, blocks do not interact: the cost is the sum of all
    squared singular values of the weighted blocks beyond ``rank``. With a full second moment ``H`` the blocks of a row
    do. Then they start from the optimum for the blocks on the diagonal of ``H``, and each is replaced by its optimum
    given the others: what is best without a rank, truncated under its own block of ``H``. The cost never rises.

    Args:
        matrix: ``[rows, columns]``, real, or complex under the plain metric.
        blocks: how it is cut.
        rank: at most the lesser size of a block.
        metric: what a change costs.

    Returns:
        ``left [inputs, outputs, height, rank]`` and ``right [inputs, outputs, rank, width]``, in the dtype of the
        matrix.
    """
    left, right = (_interacting if interact(metric) else _independent)(matrix, blocks, rank, metric)
    if metric.rows is not None:
        weights = torch.nn.functional.pad(metric.rows, (0, blocks.height * blocks.outputs - blocks.rows), value=1.0)
        left = left / weights.reshape(blocks.height, blocks.outputs).T.unsqueeze(-1)
    return left.to(matrix.dtype), right.to(matrix.dtype)


def interact(metric: Metric) -> bool:
    """Whether blocks of a row interact: under a full second moment."""
    return metric.columns is not None and metric.columns.dim() == 2


def spectrum_tails(matrix: Tensor, blocks: Blocks, metric: Metric) -> Tensor:
    """What each rank loses, summed over the matrices that have a rank of their own."""
    split = blocks.split(metric.whiten(matrix))  # whitened columns are mixed, rows are not
    if interact(metric):
        split = split.permute(1, 2, 0, 3).reshape(blocks.outputs, blocks.height, -1)
    tails = tails_of(split)
    return tails.reshape(-1, tails.shape[-1]).sum(dim=0)


def _independent(matrix: Tensor, blocks: Blocks, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """The decomposition of each block; ``left`` under the weights of its rows."""
    target = blocks.split(metric.whiten(matrix))
    left, right = (torch.stack(each) for each in zip(*(_truncated(one, rank) for one in target), strict=True))
    if metric.columns is not None:
        weights = torch.nn.functional.pad(metric.columns, (0, blocks.more_columns), value=1.0)
        right = right / weights.reshape(blocks.inputs, 1, 1, blocks.width)
    return left, right


def _interacting(matrix: Tensor, blocks: Blocks, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Each block at its optimum given the others, :data:`SWEEPS` times; ``left`` under the weights of its rows.

    With ``H = L L^T`` and the rows of a block ``L_b = R_b Q_b^T`` (``Q_b`` orthonormal columns, ``R_b`` lower
    triangular), a change ``d`` of the block changes what is left of the whitened matrix, ``E``, by ``d R_b Q_b^T``. So
    the best block is, whitened by ``R_b``, what it is now and ``E Q_b``: neither ``H`` nor its inverse is formed, and
    beside ``L``, ``E`` and all ``Q_b``, which has zeros as ``L`` has, nothing is as large as the matrix.
    """
    assert metric.columns is not None
    root = blocks.padded_moment(metric.columns.to(matrix), 1.0)
    weighted = replace(metric, columns=None).whiten(matrix)
    places = [slice(b * blocks.width, (b + 1) * blocks.width) for b in range(blocks.inputs)]
    bases, roots = zip(*(_orthogonal(root[here, : here.stop]) for here in places), strict=True)
    sets = _padded(weighted, blocks).reshape(blocks.height, blocks.outputs, -1).permute(1, 0, 2)
    rest = sets @ root
    pairs = [_truncated(sets[..., here] @ own, rank) for here, own in zip(places, roots, strict=True)]
    for (left, right), basis in zip(pairs, bases, strict=True):
        _add(rest, -left, right, basis)
    for _ in range(SWEEPS if blocks.inputs > 1 else 0):
        for b, basis in enumerate(bases):
            left, right = pairs[b]
            pairs[b] = _truncated((rest[..., : len(basis)] @ basis).baddbmm_(left, right), rank)
            _add(rest, torch.cat([left, -pairs[b][0]], dim=2), torch.cat([right, pairs[b][1]], dim=1), basis)
    rights = [_unwhitened(right, own) for (_, right), own in zip(pairs, roots, strict=True)]
    return torch.stack([left for left, _ in pairs]), torch.stack(rights)


def _unwhitened(right: Tensor, root: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(root, right, upper=False, left=False)


def _orthogonal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``Q`` and ``R`` with ``rows = R Q^T``."""
    basis, upper = torch.linalg.qr(rows.T)
    return basis, upper.T.contiguous()


def _padded(matrix: Tensor, blocks: Blocks) -> Tensor:
    """With rows and columns of zeros behind the last, where blocks do not divide; the matrix itself where they do."""
    more = 0, blocks.more_columns, 0, blocks.height * blocks.outputs - blocks.rows
    return torch.nn.functional.pad(matrix, more) if any(more) else matrix


def _add(rest: Tensor, left: Tensor, right: Tensor, basis: Tensor) -> None:
    """Add ``left right Q^T`` to every set ``[outputs, height, columns]``, in place."""
    for target, first, second in zip(rest, left, right, strict=True):
        target[:, : len(basis)].addmm_(first, second @ basis.T)


def _truncated(target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest factors of each matrix of a batch ``[..., height, width]``, singular values on both sides."""
    u, s, vh = truncated_svd(target, rank)
    half = s.sqrt()
    return u * half.unsqueeze(-2), half.unsqueeze(-1) * vh


def fit(matrix: Tensor, right: Tensor, blocks: Blocks, metric: Metric) -> Tensor:
    """The left factor of least cost for a given right one; the sets of rows do not interact."""
    inputs, outputs, rank, _ = right.shape
    left = matrix.new_zeros(outputs, blocks.height, inputs * rank)
    for j in range(min(outputs, blocks.rows)):
        basis = torch.block_diag(*right[:, j])[:, : blocks.columns].to(matrix)
        found = fit_left(matrix[j::outputs], basis, metric)
        left[j, : len(found)] = found
    return left.reshape(outputs, blocks.height, inputs, rank).permute(2, 0, 1, 3)
