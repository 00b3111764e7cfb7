"""What changing a weight costs, as far as factors can be found in closed form: weights of rows and of columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Metric:
    """The cost of a change ``D`` of a weight ``[rows, columns]`` is ``|| diag(rows) D columns ||^2`` (Frobenius).

    Attributes:
        name: tells metrics of one problem apart, for what is cached.
        rows: float ``[rows]``, positive; ``None`` weighs all alike.
        columns: float ``[columns]``, positive, or lower triangular ``[columns, columns]`` with a positive diagonal;
            ``None`` weighs all alike.
    """

    name: str = "plain"
    rows: Tensor | None = None
    columns: Tensor | None = None

    def whiten(self, matrix: Tensor) -> Tensor:
        """``diag(rows) matrix columns``: its plain norm is the cost of ``matrix``."""
        if self.columns is not None:
            matrix = matrix * self.columns if self.columns.dim() == 1 else matrix @ self.columns
        return matrix if self.rows is None else self.rows.unsqueeze(1) * matrix

    def left(self, factor: Tensor) -> Tensor:
        """``diag(rows)^-1 factor``: a left factor ``[rows, r]`` of a whitened matrix as one of the matrix."""
        return factor if self.rows is None else factor / self.rows.unsqueeze(1)

    def right(self, factor: Tensor) -> Tensor:
        """``factor columns^-1``: a right factor ``[r, columns]`` of a whitened matrix as one of the matrix."""
        if self.columns is None:
            return factor
        if self.columns.dim() == 1:
            return factor / self.columns
        return torch.linalg.solve_triangular(self.columns, factor, upper=False, left=False)


PLAIN = Metric()
