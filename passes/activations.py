"""Static activation quantization: parameters from what calibration saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir.errors import CalibrationError, ParseError, nearest
from ..ir.statistics import ActivationStatistics

SEARCH_STEPS = 200
SMALLEST_SCALE = 2.0**-126  # the smallest normal float32


@dataclass(frozen=True)
class StaticParameters:
    """The arguments of ``instar.fake_quantize_static``.

    Attributes:
        scale: the step, a float32 number.
        zero_point: the code of zero; 0 if symmetric.
        bits: width of a code.
        symmetric: signed codes around zero, otherwise unsigned codes.
    """

    scale: float
    zero_point: int
    bits: int = 8
    symmetric: bool = False


def min_max(statistics: ActivationStatistics, bits: int = 8, symmetric: bool = False) -> StaticParameters:
    """Parameters that cover every value seen; nothing clips."""
    return parameters_of_range(statistics.minimum, statistics.maximum, bits, symmetric)


def percentile(
    statistics: ActivationStatistics, bits: int = 8, symmetric: bool = False, share: float = 99.99
) -> StaticParameters:
    """Parameters that cover ``share`` percent of the values: what is left out is split evenly over both ends.

    Ends are exact up to one bin of the histogram and never outside the range that was seen.

    Raises:
        CalibrationError: if ``share`` is not above 0 and at most 100.
    """
    if not 0.0 < share <= 100.0:
        raise CalibrationError(f"percentile: expected a share above 0 and at most 100, got {share}; 99.99 is usual")
    counts = statistics.histogram.to(torch.float64)
    left_out = statistics.count * (100.0 - share) / 200.0
    width = 2 * statistics.limit / counts.numel()
    lowest = int((counts.cumsum(0) > left_out).to(torch.uint8).argmax())
    highest = counts.numel() - 1 - int((counts.flip(0).cumsum(0) > left_out).to(torch.uint8).argmax())
    low = max(statistics.minimum, lowest * width - statistics.limit)
    high = min(statistics.maximum, (highest + 1) * width - statistics.limit)
    return parameters_of_range(low, high, bits, symmetric)


def least_squares(statistics: ActivationStatistics, bits: int = 8, symmetric: bool = False) -> StaticParameters:
    """Parameters of least squared error over the histogram, among the range that was seen and shrunk ones."""
    best = min_max(statistics, bits, symmetric)
    if statistics.limit == 0.0:
        return best
    occupied = statistics.histogram > 0
    values, counts = statistics.centers[occupied], statistics.histogram[occupied].to(torch.float64)
    values = values.clamp(statistics.minimum, statistics.maximum)
    least = _histogram_error(values, counts, best)
    for step in range(1, SEARCH_STEPS):
        shrink = 1.0 - step / SEARCH_STEPS
        low, high = statistics.minimum * shrink, statistics.maximum * shrink
        candidate = parameters_of_range(low, high, bits, symmetric)
        error = _histogram_error(values, counts, candidate)
        if error < least:
            best, least = candidate, error
    return best


RANGES: dict[str, Callable[[ActivationStatistics, int, bool], StaticParameters]] = {
    "minmax": min_max,
    "percentile": percentile,
    "mse": least_squares,
}


def static_parameters(
    statistics: ActivationStatistics, method: str = "percentile", bits: int = 8, symmetric: bool = False
) -> StaticParameters:
    """Parameters by one of the methods in :data:`RANGES`.

    Raises:
        ParseError: for an unknown method.
    """
    if method not in RANGES:
        raise ParseError(f"activation range: expected a method, got {method!r}{nearest(method, RANGES)}")
    return RANGES[method](statistics, bits, symmetric)


def parameters_of_range(low: float, high: float, bits: int = 8, symmetric: bool = False) -> StaticParameters:
    """The scale and zero point that cover ``[low, high]`` widened to include 0.

    Unsigned: ``scale = (high - low) / (2^bits - 1)`` and the zero point is rounded half to even, as ONNX does. Signed:
    ``scale = max(-low, high) / (2^(bits-1) - 1)`` and zero is 0. The scale is a float32 number; an empty range has 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    top = (1 << (bits - 1)) - 1 if symmetric else (1 << bits) - 1
    reach = max(-low, high) if symmetric else high - low
    if reach == 0.0:
        return StaticParameters(1.0, 0, bits, symmetric)
    scale = _float32(max(reach / top, SMALLEST_SCALE))
    zero = 0 if symmetric else min(max(round(-low / scale), 0), top)
    return StaticParameters(scale, zero, bits, symmetric)


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def _histogram_error(values: Tensor, counts: Tensor, parameters: StaticParameters) -> float:
    """Squared error of the values ``[n]``, weighted by their counts."""
    half = 1 << (parameters.bits - 1)
    least, most = (-half, half - 1) if parameters.symmetric else (0, 2 * half - 1)
    codes = (values / parameters.scale).round_().add_(parameters.zero_point).clamp_(least, most)
    decoded = codes.sub_(parameters.zero_point).mul_(parameters.scale)
    return float(decoded.sub_(values).square_() @ counts)
