"""What no order and no replacement can avoid: at the lowest peak of all orders, something is off-chip.

Every order has a step in which at least the lowest peak is alive. What of it exceeds the budget is off-chip then: it
was written, unless a copy was there, and is read back. Since tensors leave as a whole, their sizes must add up to at
least the excess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from .flow import Flow

MOST_BITS = 1 << 24
"""Sums of sizes are looked at as bits of one number; beyond this length the excess itself is the bound."""

MOST_FREE = 8
"""Tensors with a copy off-chip, for which every subset is looked at."""


def traffic_bound(flow: Flow, peak_bytes: int, budget_bytes: int) -> int:
    """Bytes that are written and read whatever is done, given that no order's peak is below ``peak_bytes``."""
    excess = peak_bytes - budget_bytes
    if excess <= 0:
        return 0
    written = [size for size, write, uses in _evictable(flow) if write and uses]
    copied = [size for size, write, uses in _evictable(flow) if not write and uses]
    if len(copied) > MOST_FREE:
        return _least_sum([*written, *copied], excess)
    subsets = (sum(chosen) for count in range(len(copied) + 1) for chosen in combinations(copied, count))
    return min(read + 2 * _least_sum(written, excess - read) for read in set(subsets))


def _evictable(flow: Flow) -> list[tuple[int, int, int]]:
    return [
        (size, write, len(uses))
        for size, write, uses in zip(flow.sizes, flow.write_bytes, flow.uses, strict=True)
        if size > 0
    ]


def _least_sum(sizes: Sequence[int], goal: int) -> int:
    """The smallest sum of some of the sizes that is at least ``goal``; the goal itself where that is not known."""
    if goal <= 0:
        return 0
    unit = math.gcd(*sizes) if sizes else 1
    length = (goal + max(sizes, default=0)) // unit + 1
    if not sizes or length > MOST_BITS:
        return goal
    mask, sums = (1 << length) - 1, 1
    for size in sizes:
        sums |= sums << size // unit & mask
    above = sums >> -(-goal // unit)
    return goal if not above else (-(-goal // unit) + (above & -above).bit_length() - 1) * unit
