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
    rows = replace(metric, columns=None)
    target = blocks.split(rows.whiten(matrix))
    moment = _moment(metric, blocks)
    roots = None if moment is None else torch.linalg.cholesky(blocks.diagonal(moment)).to(target)
    pairs = [_truncated(target[b], None if roots is None else roots[b], rank) for b in range(blocks.inputs)]
    left, right = (torch.stack(each) for each in zip(*pairs, strict=True))
    if moment is not None and metric.columns is not None and metric.columns.dim() == 2 and blocks.inputs > 1:
        left, right = _descend(target, left, right, moment)
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


def _moment(metric: Metric, blocks: Blocks) -> Tensor | None:
    """float64, padded; factored again for each block, so that it is kept in double."""
    if metric.columns is None:
        return None
    columns = metric.columns.double()
    return blocks.padded_moment(torch.diag(columns.square()) if columns.dim() == 1 else columns @ columns.T, 1.0)


def _truncated(target: Tensor, root: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of each matrix of a batch ``[..., height, width]``, nearest under ``|| D root ||``."""
    u, s, vh = truncated_svd(target if root is None else target @ root, rank)
    half = s.sqrt()
    left, right = u * half.unsqueeze(-2), half.unsqueeze(-1) * vh
    return left, right if root is None else torch.linalg.solve_triangular(root, right, upper=False, left=False)


def _descend(target: Tensor, left: Tensor, right: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Each block at its optimum given the others, :data:`SWEEPS` times; in double: moments are near singular."""
    left, right = left.double(), right.double()
    inputs, outputs, height, width = target.shape
    rest = (target.double() - left @ right).permute(1, 2, 0, 3).reshape(outputs * height, inputs * width)
    for _ in range(SWEEPS):
        for b in range(inputs):
            here = slice(b * width, (b + 1) * width)
            root = torch.linalg.cholesky(moment[here, here])
            better = torch.cholesky_solve((rest @ moment[:, here]).T, root).T.reshape(outputs, height, width)
            own = left[b] @ right[b]
            left[b], right[b] = _truncated(own + better, root, left.shape[-1])
            rest[:, here] += (own - left[b] @ right[b]).reshape(outputs * height, width)
    return left, right


def fit(matrix: Tensor, right: Tensor, blocks: Blocks, metric: Metric) -> Tensor:
    """The left factor of least cost for a given right one; the sets of rows do not interact."""
    inputs, outputs, rank, _ = right.shape
    left = matrix.new_zeros(outputs, blocks.height, inputs * rank)
    for j in range(min(outputs, blocks.rows)):
        basis = torch.block_diag(*right[:, j])[:, : blocks.columns].to(matrix)
        found = fit_left(matrix[j::outputs], basis, metric)
        left[j, : len(found)] = found
    return left.reshape(outputs, blocks.height, inputs, rank).permute(2, 0, 1, 3)
