"""The factored second moment that error feedback runs on, computed once per layer and shared by every format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError

DAMPING_STEPS = 8


@dataclass(frozen=True, eq=False)
class FactoredHessian:
    """``H`` with damping, and the upper triangular ``U`` with ``U^T U = H^-1``, in the order columns are visited.

    Attributes:
        hessian: ``[columns, columns]`` as given, neither damped nor permuted: the objective.
        damped: the matrix that was factored, in visiting order.
        upper: ``U`` ``[columns, columns]``, upper triangular.
        order: int64 ``[columns]``, the visiting order, or ``None`` for left to right.
        damping: what was added to the diagonal, as a share of its mean; more than asked for if factoring failed.
    """

    hessian: Tensor
    damped: Tensor
    upper: Tensor
    order: Tensor | None
    damping: float

    @classmethod
    def of(cls, second_moment: Tensor, damping: float = 0.01, act_order: bool = False) -> FactoredHessian:
        """Factor a symmetric positive semidefinite ``[columns, columns]`` matrix in its own dtype.

        Columns that never saw a value (zero diagonal) get the mean diagonal, so that they are rounded on their own.
        Where the factorization fails, damping is raised tenfold and tried again. ``act_order`` visits columns by
        falling diagonal (GPTQ, arXiv 2210.17323, and its reference implementation's later option).

        Raises:
            FormatError: if the matrix cannot be factored with any reasonable damping.
        """
        diagonal = second_moment.diagonal()
        mean = float(diagonal.mean()) if diagonal.numel() else 0.0
        mean = mean if mean > 0.0 else 1.0
        ordered = second_moment.clone()
        ordered.diagonal()[diagonal <= 0.0] = mean
        order: Tensor | None = None
        if act_order:
            order = torch.argsort(diagonal, descending=True, stable=True)
            ordered = ordered[order][:, order]
        share = damping
        for _ in range(DAMPING_STEPS):
            damped = ordered.clone()
            damped.diagonal().add_(share * mean)
            upper = _inverse_factor(damped)
            if upper is not None:
                return cls(second_moment, damped, upper, order, share)
            share = max(share, 1e-4) * 10.0
        raise FormatError(
            f"gptq: expected a positive semidefinite second moment, got one that is indefinite even with {share:g} "
            "times its mean added to the diagonal; check the calibration data or use the encoder 'mse'"
        )


def _inverse_factor(damped: Tensor) -> Tensor | None:
    """``U`` upper triangular with ``U^T U = damped^-1``, or ``None`` if ``damped`` is not positive definite.

    With ``R`` upper triangular and ``damped = R R^T`` (a Cholesky factorization from the last row to the first), ``U``
    is the inverse of ``R``: one factorization and one triangular inverse; the inverse of ``damped`` is never formed.
    """
    flipped, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if int(info) != 0:
        return None
    factor = flipped.flip(0, 1)
    del flipped  # two layers at a time, each with several matrices of this size
    upper = torch.eye(factor.shape[0], dtype=factor.dtype, device=factor.device)
    upper = torch.linalg.solve_triangular(factor, upper, upper=True)
    return upper if bool(torch.isfinite(upper.diagonal()).all()) else None
