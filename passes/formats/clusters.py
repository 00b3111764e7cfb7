"""Levels for the values of one weight: weighted k-means in one dimension, and powers of evenly spaced numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 100
"""Rounds of k-means at most."""

GAIN = 1e-5
"""Share of the error that a round must save for another one to follow."""

PIECE = 1 << 20
"""Values that are held in double precision beside the sums at a time."""

EXPONENTS = tuple(step / 100 for step in range(30, 101))
"""Exponents that are tried; the published range is 0.4 to 1."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Values with weights, rising, and running sums, so that a set of levels is judged without looking at each value.

    Attributes:
        values: ``[n]``, rising.
        mass: float64 ``[n + 1]``, sums of the weights of the first values.
        moment: float64 ``[n + 1]``, sums of weight times value.
        square: sum of weight times squared value.
    """

    values: Tensor
    mass: Tensor
    moment: Tensor
    square: float

    @classmethod
    def of(cls, values: Tensor, weights: Tensor) -> Samples:
        """Of as many values as weights, in any order and shape."""
        rising, order = values.flatten().sort()
        mass, moment = values.new_zeros(2, len(rising) + 1, dtype=torch.float64)
        mass[1:] = weights.flatten()[order]
        del order
        torch.mul(mass[1:], rising, out=moment[1:])
        pieces = zip(moment[1:].split(PIECE), rising.split(PIECE), strict=True)
        square = sum(float(part @ value.double()) for part, value in pieces)
        mass.cumsum_(0)
        moment.cumsum_(0)
        return cls(rising, mass, moment, square)

    def cells(self, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For rising levels the ends ``[k + 1]`` of the runs of values nearest to each, their masses and moments."""
        middles = (levels[1:] + levels[:-1]) / 2
        ends = torch.searchsorted(self.values, middles.to(self.values), right=True)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(self.values))])
        return ends, self.mass[ends].diff(), self.moment[ends].diff()

    def error(self, levels: Tensor) -> float:
        """Weighted squared distance of all values to the nearest of some rising levels."""
        _, mass, moment = self.cells(levels)
        return self.square + float((levels.double() * (levels.double() * mass - 2.0 * moment)).sum())


def uniform_levels(bits: int, top: int) -> Tensor:
    """Signed integers of ``bits`` bits over ``top``, rising."""
    return torch.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=torch.float64) / top


def clusters(samples: Samples, bits: int) -> Tensor:
    """Rising float32 levels ``[2^bits]``: weighted k-means (Lloyd, 1982), the best of several starts.

    Starts are the uniform grids that integers of as many bits have, with the largest positive, negative or either code
    at the largest magnitude, which makes the result no worse than they are, evenly spaced numbers from the least to the
    largest value, and values of equal shares of mass. Where there are no more distinct values than levels, they are the
    levels, and nothing is lost.
    """
    count, values = 1 << bits, samples.values
    distinct = torch.unique_consecutive(values)
    if len(distinct) <= count:
        return torch.cat([distinct, distinct[-1:].expand(count - len(distinct))]).to(torch.float32)
    largest = float(values.abs().max())
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count * float(samples.mass[-1])
    places = torch.searchsorted(samples.mass[1:], shares).clamp(max=len(values) - 1)
    even = torch.linspace(float(values[0]), float(values[-1]), count, dtype=torch.float64)
    half = count // 2
    either, negative = uniform_levels(bits, half - 1) * largest, uniform_levels(bits, half) * largest
    starts = (either, negative, -negative.flip(0), even, values[places].double())
    return _best(samples, (_lloyd(samples, start) for start in starts)).to(torch.float32)


def _best(samples: Samples, found: Iterable[Tensor]) -> Tensor:
    return min(found, key=samples.error)


def _lloyd(samples: Samples, levels: Tensor) -> Tensor:
    """Levels to the means of their cells until that saves nothing; the error never rises."""
    error = samples.error(levels)
    for _ in range(ROUNDS):
        moved = _moved(samples, levels)
        now = samples.error(moved)
        if now >= error * (1.0 - GAIN):
            return moved if now < error else levels
        levels, error = moved, now
    return levels


def _moved(samples: Samples, levels: Tensor) -> Tensor:
    """Means of the cells, rising; unused levels go to the far ends of the widest cells, by mass."""
    ends, mass, moment = samples.cells(levels)
    used = mass > 0.0
    means = torch.where(used, moment / mass.clamp(min=1e-300), levels)
    unused = int((~used).sum())
    if unused:
        first = samples.values[ends[:-1].clamp(max=len(samples.values) - 1)].double()
        last = samples.values[(ends[1:] - 1).clamp(min=0)].double()
        far = torch.where(last - means > means - first, last, first)
        widest = (mass * (far - means).square()).argsort(descending=True, stable=True)[:unused]
        means[~used] = far[widest]
    return means.sort().values


def power_levels(bits: int, exponent: float) -> Tensor:
    """Rising levels ``sign(k) (|k| / top)^(1 / exponent)`` for codes ``k`` of ``bits`` bits; the least occurs twice.

    ``|x|^a`` maps products to products and nothing else that is continuous does (PowerQuant, arXiv 2301.09858; NUPES,
    arXiv 2308.05600). An exponent of 1 spaces them evenly.
    """
    even = uniform_levels(bits, (1 << (bits - 1)) - 1).clamp(min=-1.0)
    return even.sign() * even.abs() ** (1.0 / exponent)


def power_exponent(samples: Samples, bits: int, largest: float) -> float:
    """The exponent of least weighted error for levels from ``-largest`` to ``largest``, of :data:`EXPONENTS`."""
    return min(EXPONENTS, key=lambda a: samples.error(power_levels(bits, a) * largest))
