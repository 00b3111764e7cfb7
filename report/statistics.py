"""How well predictions follow measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import StatisticsError, correlation

MINIMUM = 3
"""Fewer points than this say nothing about correlation."""


def root(value: float) -> float | None:
    """Square root: a relative squared error as a relative error. None where it is not a number.

    >>> root(0.04)
    0.2
    """
    return math.sqrt(value) if value >= 0 else None


def correlations(pairs: Sequence[tuple[float, float]]) -> dict[str, float | int | None]:
    """Pearson's correlation of the logarithms, Spearman's of the ranks, over the pairs of positive finite numbers.

    >>> correlations([(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)])
    {'points': 3, 'log_correlation': 1.0, 'rank_correlation': 1.0}
    """
    usable = [(p, m) for p, m in pairs if 0 < p < math.inf and 0 < m < math.inf]
    predicted, measured = [p for p, _ in usable], [m for _, m in usable]
    return {
        "points": len(usable),
        "log_correlation": _correlation([math.log(v) for v in predicted], [math.log(v) for v in measured]),
        "rank_correlation": _correlation(ranks(predicted), ranks(measured)),
    }


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < MINIMUM:
        return None
    try:
        return round(correlation(x, y), 12)
    except StatisticsError:
        return None


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks.

    >>> ranks([10.0, 30.0, 10.0])
    [1.5, 3.0, 1.5]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            result[place] = (start + end + 1) / 2
        start = end
    return result
