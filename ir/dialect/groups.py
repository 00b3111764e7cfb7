"""Groups of columns that share a scale."""

from __future__ import annotations

import torch
from torch import Tensor


def split_groups(matrix: Tensor, group: int) -> Tensor:
    """View the last dimension ``[..., columns]`` as ``[..., groups, group]``; a short last group is filled with zeros.

    ``group = 0`` makes one group of all columns.
    """
    columns = matrix.shape[-1]
    if group == 0 or group == columns:
        return matrix.unsqueeze(-2)
    short = -columns % group
    padded = torch.nn.functional.pad(matrix, (0, short)) if short else matrix
    return padded.reshape(*matrix.shape[:-1], (columns + short) // group, group)


def join_groups(groups: Tensor, columns: int) -> Tensor:
    """The inverse of :func:`split_groups`: ``[..., groups, group]`` to ``[..., columns]``."""
    return groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1])[..., :columns]
