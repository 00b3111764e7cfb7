"""The objective of an encoder: how much the output of a layer changes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.statistics import WeightStatistics

CHUNK = 1 << 21
"""Weights in one piece of a sum over rows: the tables of embeddings are long, and temporaries of their size add up."""


def row_errors(difference: Tensor, second_moment: Tensor) -> Tensor:
    """``d_i H d_i^T`` for every row of ``difference`` ``[rows, columns]``; ``[rows]``, not negative.

    It is the mean over tokens of the squared change of each output channel.
    """
    return ((difference @ second_moment) * difference).sum(dim=1).clamp_(min=0.0)


def weighted_error(weight: Tensor, decoded: Tensor, statistics: WeightStatistics | None = None) -> float:
    """The expected squared change of a layer's output when ``weight`` is replaced by ``decoded``.

    ``sum_i row_weight_i (W - Q)_i H (W - Q)_i^T`` where there is a second moment, plus
    ``sum_i row_frequency_i ||(W - Q)_i||^2`` where there are row frequencies (an embedding); without statistics the
    squared Frobenius norm. It is what ``passes.sensitivity`` turns into a predicted loss.

    Args:
        weight: ``[rows, columns]`` or any shape whose first size is rows.
        decoded: the same shape.
        statistics: what calibration learnt about the layer.

    Raises:
        FormatError: if the statistics belong to a matrix of another shape.
    """
    matrix, other = weight.reshape(weight.shape[0], -1), decoded.reshape(weight.shape[0], -1)
    if statistics is not None:
        check_statistics(matrix, statistics)
    step = max(1, CHUNK // max(1, matrix.shape[1]))
    total = 0.0
    for first in range(0, matrix.shape[0], step):
        rows = slice(first, first + step)
        difference = (matrix[rows] - other[rows]).to(torch.float32)
        total += float(rows_error(difference, rows, statistics).sum())
    return total


def rows_error(difference: Tensor, rows: slice, statistics: WeightStatistics | None) -> Tensor:
    """The part of :func:`weighted_error` that each of some rows has; ``difference`` holds these rows only."""
    total = torch.zeros(len(difference), dtype=torch.float64, device=difference.device)
    if statistics is None:
        return total + difference.square().sum(dim=1, dtype=torch.float64)
    if statistics.second_moment is not None:
        errors = row_errors(difference, statistics.second_moment.to(difference))
        total += errors.double() * statistics.row_weight[rows].to(total)
    if statistics.row_frequency is not None:
        squares = difference.square().sum(dim=1, dtype=torch.float64)
        total += squares * statistics.row_frequency[rows].to(total)
    return total


def check_statistics(matrix: Tensor, statistics: WeightStatistics) -> None:
    """Raise unless ``statistics`` belong to a matrix ``[rows, columns]`` like this one.

    Raises:
        FormatError: naming both shapes.
    """
    rows, columns = matrix.shape
    moment = statistics.second_moment
    known = (statistics.row_weight.numel(), columns if moment is None else moment.shape[0])
    if known != (rows, columns):
        raise FormatError(
            f"statistics: expected those of a [{rows}, {columns}] weight, got those of a [{known[0]}, {known[1]}] "
            "weight; calibrate this layer"
        )
