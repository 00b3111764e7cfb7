"""What calibration learns about weights and activations: plain values shared by calibration, passes and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import CalibrationError

HISTOGRAM_BINS = 4096


@dataclass(frozen=True, eq=False)
class WeightStatistics:
    """How much each direction of a weight matters.

    Attributes:
        count: tokens (rows of the layer's input) that were seen.
        second_moment: float32 ``[columns, columns]``, ``sum_t s_t x_t x_t^T / sum_t s_t`` with ``s_t`` the token's mean
            squared output gradient (1 without gradients). ``None`` for a weight used only as an embedding.
        row_weight: float32 ``[rows]``, mean squared gradient of each output channel (ones without gradients).
        row_frequency: float32 ``[rows]``, how often a row of an embedding was looked up, as a share of all look-ups.
            ``None`` for a weight that is no embedding; a tied embedding has both.
        halves: two second moments like it, of every second sample each: the first shrunk as the whole is, so that codes
            may be fitted to it, the other as it was seen, to judge them. ``None`` where there are too few samples, or
            nothing that codes could fit too closely (:meth:`divided`).

    Raises:
        CalibrationError: if nothing was gathered, shapes disagree, or a value is negative, NaN or infinite.
    """

    count: int
    second_moment: Tensor | None
    row_weight: Tensor
    row_frequency: Tensor | None = None
    halves: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.second_moment is None and self.row_frequency is None:
            raise CalibrationError(
                "weight statistics: expected a second moment or a row frequency, got neither; "
                "run calibration data through"
            )
        moment = self.second_moment
        if moment is not None and (moment.dim() != 2 or moment.shape[0] != moment.shape[1]):
            raise CalibrationError(
                f"weight statistics: expected a square second moment, got shape {list(moment.shape)}; "
                "accumulate x x^T over the columns"
            )
        _check_rows("row_weight", self.row_weight, None)
        if self.row_frequency is not None:
            _check_rows("row_frequency", self.row_frequency, self.row_weight.numel())
        if moment is not None and not bool(torch.isfinite(moment).all()):
            raise CalibrationError(
                "weight statistics: expected a finite second moment, got NaN or infinity; check the calibration inputs"
            )

    def divided(self) -> tuple[WeightStatistics, WeightStatistics] | None:
        """Statistics to fit codes to, and others to judge them by; ``None`` where there is only the whole."""
        if self.halves is None:
            return None
        one, other = (replace(self, second_moment=half, halves=None) for half in self.halves)
        return one, other

    @property
    def importance(self) -> Tensor | None:
        """``[columns]``, the diagonal of the second moment, or ``None`` where every column counts alike."""
        return None if self.second_moment is None else self.second_moment.diagonal()


def _check_rows(name: str, values: Tensor, rows: int | None) -> None:
    if values.dim() != 1 or (rows is not None and values.numel() != rows):
        raise CalibrationError(
            f"weight statistics: expected {name} of shape [{'rows' if rows is None else rows}], "
            f"got {list(values.shape)}; give one number per row of the weight"
        )
    if not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise CalibrationError(
            f"weight statistics: expected {name} to be finite and not negative, got otherwise; "
            "check the calibration data and the loss"
        )


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """The values that one activation took.

    Attributes:
        count: values seen.
        minimum: smallest value seen.
        maximum: largest value seen.
        limit: the histogram spans ``[-limit, limit)``; a power of two, or 0.0 if every value was zero.
        histogram: int64 ``[HISTOGRAM_BINS]``, values per bin; bins have equal width and zero starts the upper half.
    """

    count: int
    minimum: float
    maximum: float
    limit: float
    histogram: Tensor

    @property
    def centers(self) -> Tensor:
        """float64 ``[HISTOGRAM_BINS]``, the middle of every bin."""
        width = 2 * self.limit / HISTOGRAM_BINS
        return (torch.arange(HISTOGRAM_BINS, dtype=torch.float64) + 0.5) * width - self.limit


class RangeObserver:
    """Gathers :class:`ActivationStatistics` from batches in bounded memory.

    The histogram is symmetric around zero and its range is a power of two that doubles when a value falls outside: two
    bins become one, so nothing is re-binned approximately, and batches in any order give the same statistics.
    """

    def __init__(self) -> None:
        self._count = 0
        self._minimum = math.inf
        self._maximum = -math.inf
        self._limit = 0.0
        self._histogram = torch.zeros(HISTOGRAM_BINS, dtype=torch.int64)

    def update(self, values: Tensor) -> None:
        """Add every element of ``values`` (any floating dtype and shape, any device).

        Raises:
            CalibrationError: if a value is NaN or infinite.
        """
        if values.numel() == 0:
            return
        flat = values.detach().to(device="cpu", dtype=torch.float32).flatten()
        low, high = (float(end) for end in torch.aminmax(flat))
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int((~torch.isfinite(flat)).sum())
            raise CalibrationError(
                f"activation range: expected finite values, got {bad} NaN or infinite of {flat.numel()}; "
                "check the calibration inputs and the model"
            )
        self._grow(_power_above(max(-low, high)))
        self._count += flat.numel()
        self._minimum, self._maximum = min(self._minimum, low), max(self._maximum, high)
        self._histogram += _bin(flat, self._limit)

    def statistics(self) -> ActivationStatistics:
        """What was seen so far.

        Raises:
            CalibrationError: if nothing was.
        """
        if self._count == 0:
            raise CalibrationError("activation range: expected at least one value, got none; give calibration data")
        return ActivationStatistics(self._count, self._minimum, self._maximum, self._limit, self._histogram.clone())

    def state(self) -> dict[str, Tensor]:
        """Everything seen so far, as tensors; :meth:`load` continues from it."""
        numbers = torch.tensor([self._count, self._minimum, self._maximum, self._limit], dtype=torch.float64)
        return {"numbers": numbers, "histogram": self._histogram}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        count, self._minimum, self._maximum, self._limit = (float(v) for v in state["numbers"])
        self._count, self._histogram = int(count), state["histogram"].clone()

    def _grow(self, limit: float) -> None:
        if self._limit == 0.0:  # everything so far was zero and lies in the bin at the centre, whatever the range
            self._limit = limit
        while self._limit < limit:
            self._limit, self._histogram = 2 * self._limit, _halve(self._histogram)


def _power_above(value: float) -> float:
    """The smallest power of two above ``value``; 0 for 0."""
    return 0.0 if value == 0.0 else math.ldexp(1.0, math.frexp(value)[1])


def _bin(values: Tensor, limit: float) -> Tensor:
    half = HISTOGRAM_BINS // 2
    if limit == 0.0:
        indices = torch.full_like(values, half, dtype=torch.int64)
    else:
        indices = ((values.to(torch.float64) * (half / limit)).floor() + half).to(torch.int64)
    return torch.bincount(indices.clamp_(0, HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)


def _halve(histogram: Tensor) -> Tensor:
    """The same counts over twice the range: pairs of bins merge into the middle half."""
    merged = torch.zeros_like(histogram)
    quarter = HISTOGRAM_BINS // 4
    merged[quarter : 3 * quarter] = histogram.view(-1, 2).sum(dim=1)
    return merged
