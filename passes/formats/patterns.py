"""Patterns of zeros: how many weights of a row are kept, and in which runs of columns they are counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.dialect import join_groups, split_groups


@dataclass(frozen=True)
class Pattern:
    """``keep`` of every ``group`` columns that follow each other; a shorter last group keeps as many, if it has them.

    Attributes:
        keep: weights that are kept in each group, 1 or more.
        group: columns of a group; the whole row where any columns will do.
    """

    keep: int
    group: int

    def kept(self, columns: int) -> int:
        """Weights that a row of ``columns`` keeps."""
        whole, rest = divmod(columns, self.group)
        return whole * self.keep + min(rest, self.keep)

    def mask(self, scores: Tensor) -> Tensor:
        """The kept weights ``[rows, columns]`` as bools: those of the highest scores, the first of equal ones.

        Args:
            scores: ``[rows, columns]``, not negative.
        """
        groups = split_groups(scores, self.group)
        more = -scores.shape[1] % self.group
        if more:
            groups[:, -1, -more:] = -1.0  # what fills a short last group is below every score
        return join_groups(highest(groups, self.keep), scores.shape[1])


def highest(scores: Tensor, count: int) -> Tensor:
    """Where the ``count`` highest of the last dimension are, as bools; the first of equal ones."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


@dataclass(frozen=True, eq=False)
class Pruned:
    """What an encoder decided.

    Attributes:
        mask: bool ``[rows, columns]``, kept weights; every row keeps what its pattern says.
        values: float32 ``[rows, columns]``, zero where nothing is kept.
    """

    mask: Tensor
    values: Tensor


def largest(pattern: Pattern, matrix: Tensor) -> Pruned:
    """The largest magnitudes of ``matrix`` ``[rows, columns]``, as they are."""
    mask = pattern.mask(matrix.abs())
    return Pruned(mask, matrix * mask)
