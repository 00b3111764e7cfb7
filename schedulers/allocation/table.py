"""Options of all layers as flat arrays, for everything that may be computed in floating point.

What is *claimed* is computed in integers; what is only looked for (prices, good assignments, options that cannot
matter) is computed here, and wherever a float decides that something is dropped, it is compared with a margin above the
rounding errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dominance import Option

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LOSS_BITS = 900
"""Losses with more bits than this are shortened, so that sums of them stay within the range of doubles."""

EPSILON = 2.0**-52
"""Twice the relative error of one rounded operation on doubles."""


@dataclass(frozen=True)
class Table:
    """Options one after the other, layer by layer.

    Attributes:
        loss: ``[options]`` float64, in units of ``2**shift`` of the integer losses, at most one unit and one rounding
            below the truth.
        cost: ``[options, budgets]`` int64, without the least cost of the layer.
        first: ``[layers + 1]`` position of each layer's first option.
        layer: ``[options]`` the layer of each option.
        room: ``[budgets]`` int64, limits without the least costs of all layers; negative if a budget cannot be met.
        shift: bits by which the losses were shortened.
    """

    loss: Floats
    cost: Integers
    first: Integers
    layer: Integers
    room: Integers
    shift: int

    def value(self, prices: Floats) -> Floats:
        """Loss plus priced costs per option: ``[options]``."""
        return self.loss + self.cost @ prices

    def least(self, value: Floats) -> Floats:
        """The smallest value of every layer: ``[layers]``."""
        return np.minimum.reduceat(value, self.first[:-1])

    def picks(self, value: Floats) -> Integers:
        """Per layer the position (in the table) of its first option with the smallest value: ``[layers]``."""
        equal = np.flatnonzero(value == self.least(value)[self.layer])
        owner = self.layer[equal]
        return equal[np.concatenate(([True], owner[1:] != owner[:-1]))]


def tabulate(layers: Sequence[Sequence[Option]], limits: Sequence[int]) -> Table:
    """The table of at least one layer; every layer has at least one option."""
    sizes = [len(options) for options in layers]
    first = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    owner = np.repeat(np.arange(len(layers), dtype=np.int64), sizes)
    flat = [option for options in layers for option in options]
    shift = max(0, max(option.loss for option in flat).bit_length() - LOSS_BITS)
    loss = np.array([float(option.loss >> shift) for option in flat])
    cost = np.array([option.costs for option in flat], dtype=np.int64).reshape(len(flat), len(limits))
    least = np.minimum.reduceat(cost, first[:-1], axis=0)
    room = np.array([limit - int(taken) for limit, taken in zip(limits, least.sum(axis=0), strict=True)], np.int64)
    return Table(loss, cost - least[owner], first, owner, room, shift)
