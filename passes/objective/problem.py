"""One weight that is to be stored, with what is known about it; what several formats need is computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.statistics import WeightStatistics
from .hessian import FactoredHessian
from .loss import check_statistics, rows_error, weighted_error

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the weights of a problem ``[rows, kept]`` stand in another one, which has zeros elsewhere.

    Attributes:
        whole: the other problem.
        mask: bool ``[rows, columns]``; kept weights are in their order from left to right.
    """

    whole: Problem
    mask: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """``[rows, kept]`` in their places."""
        return torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device).masked_scatter_(self.mask, values)


class Problem:
    """A weight ``[rows, ...]``, seen as the matrix ``[rows, columns]``, and its statistics.

    Args:
        weight: any real floating dtype, strides and device; computed with in float32 and not changed.
        statistics: what calibration learnt about the layer; ``None`` without data.
        within: where these weights stand in a larger one, if they are a part of it.

    Attributes:
        shape: of the weight.
        statistics: as given.
        within: as given.
    """

    def __init__(
        self, weight: Tensor, statistics: WeightStatistics | None = None, within: Placed | None = None
    ) -> None:
        self.shape = tuple(weight.shape)
        self.statistics = statistics
        self.within = within
        self._given = weight
        self._weight: Tensor | None = None
        self._finite: bool | None = None
        self._of_weight: dict[object, object] = {}
        self._of_statistics: dict[object, object] = {}

    @property
    def weight(self) -> Tensor:
        """The weight in float32, in its own shape."""
        if self._weight is None:
            self._weight = self._given.detach().to(torch.float32).contiguous()
        return self._weight

    @property
    def matrix(self) -> Tensor:
        """float32 ``[rows, columns]``."""
        return self.weight.reshape(self.shape[0], -1)

    @property
    def second_moment(self) -> Tensor | None:
        """float32 ``[columns, columns]``, or ``None`` where nothing is known about directions."""
        moment = None if self.statistics is None else self.statistics.second_moment
        return None if moment is None else moment.to(torch.float32)

    @property
    def importance(self) -> Tensor | None:
        """``[columns]``, what a change of each column costs; ``None`` weighs all alike."""
        return None if self.statistics is None else self.statistics.importance

    def check(self, where: str) -> None:
        """Raise unless the weight is of finite real numbers and the statistics are its own.

        Raises:
            FormatError: which says what was found, and where.
        """
        if not self._given.is_floating_point():
            raise FormatError(f"{where}: expected a floating-point weight, got {self._given.dtype}; convert it first")
        if self._finite is None:
            self._finite = is_finite(self.weight)
        if not self._finite:
            flat = (~torch.isfinite(self.weight)).reshape(self.shape[0], -1)
            row, column = (int(i) for i in flat.nonzero()[0])
            raise FormatError(
                f"{where}: expected finite float32 weights, got {self.matrix[row, column].item()} at "
                f"row {row}, column {column} ({int(flat.sum())} such values in all); repair the checkpoint"
            )

    def check_statistics(self) -> None:
        """Raise if there are statistics and they belong to a matrix of another shape.

        Raises:
            FormatError: naming both shapes.
        """
        if self.statistics is not None:
            check_statistics(self.matrix, self.statistics)

    def hessian(self, damping: float, act_order: bool) -> FactoredHessian:
        """The second moment with damping, factored; once for each pair of options.

        Raises:
            FormatError: there is no second moment, or it cannot be factored.
        """
        moment = self.second_moment
        if moment is None:
            raise FormatError("hessian: expected a second moment, got statistics without; calibrate this layer")
        key = ("hessian", damping, act_order)
        return self.of_statistics(key, lambda: FactoredHessian.of(moment, damping, act_order))

    def of_weight(self, key: object, compute: Callable[[], T]) -> T:
        """Something that depends on the weight, computed once for this problem."""
        if key not in self._of_weight:
            self._of_weight[key] = compute()
        return cast(T, self._of_weight[key])

    def of_statistics(self, key: object, compute: Callable[[], T]) -> T:
        """Something that depends on the statistics alone, computed once for this problem and its remainders."""
        if key not in self._of_statistics:
            self._of_statistics[key] = compute()
        return cast(T, self._of_statistics[key])

    def error(self, decoded: Tensor) -> float:
        """See :func:`~instar.passes.objective.loss.weighted_error`."""
        return weighted_error(self.matrix, decoded.reshape(self.matrix.shape), self.statistics)

    def row_errors(self, difference: Tensor, rows: slice = slice(None)) -> Tensor:
        """What a change ``[some rows, columns]`` of some rows costs in each of them; the sum of all is the error."""
        return rows_error(difference, rows, self.statistics)

    def instead(self, weight: Tensor) -> Problem:
        """Another weight of the same layer, such as what a first format left over."""
        other = Problem(weight, self.statistics)
        other._of_statistics = self._of_statistics
        return other


def is_finite(weight: Tensor) -> bool:
    """Whether every value is finite; needs no copy of the weight unless the sum of magnitudes overflows."""
    return math.isfinite(float(torch.linalg.vector_norm(weight, 1))) or bool(torch.isfinite(weight).all())
