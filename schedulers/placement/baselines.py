"""What others do: first fit in a fixed order, and hill climbing over orders. Fast, without a bound.

* by size: TensorFlow Lite Micro's greedy planner, largest buffer first, each into the lowest gap between the placed
  buffers that it meets.
* by conflicts: TVM USMP's ``GreedyByConflicts``, the buffer that meets most others first.
* hill climbing: TVM USMP and Arm's Vela; the order of buffers around the highest one is changed, and kept unless worse.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from .problem import Buffer

Offsets = tuple[int, ...]


def neighbours(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For every buffer the positions of all buffers with bytes that it meets in time."""
    met: list[list[int]] = [[] for _ in buffers]
    used = [place for place in range(len(buffers)) if buffers[place].size_bytes > 0]
    alive: list[int] = []
    for place in sorted(used, key=lambda place: buffers[place].lower):
        alive = [other for other in alive if buffers[other].upper > buffers[place].lower]
        for other in alive:
            met[place].append(other)
            met[other].append(place)
        alive.append(place)
    return met


def first_fit(buffers: Sequence[Buffer], order: Sequence[int], met: Sequence[Sequence[int]]) -> Offsets:
    """Every buffer of the order into the lowest gap that is left; those with fixed offsets lie there before all others.

    Without a capacity this always succeeds, unless fixed buffers overlap each other, which is not checked.
    """
    offsets: list[int | None] = [buffer.offset_bytes for buffer in buffers]
    sizes = [buffer.size_bytes for buffer in buffers]
    for place in order:
        if offsets[place] is None:
            taken = sorted([(at, at + sizes[other]) for other in met[place] if (at := offsets[other]) is not None])
            offsets[place] = _lowest_gap(buffers[place], taken)
    return tuple(offset or 0 for offset in offsets)


def _lowest_gap(buffer: Buffer, taken: Sequence[tuple[int, int]]) -> int:
    offset, step = 0, buffer.alignment_bytes
    for low, high in taken:
        if offset + buffer.size_bytes <= low:
            break
        offset = max(offset, -(-high // step) * step)
    return offset


def height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """Highest byte that is used, plus one."""
    tops = [at + buffer.size_bytes for buffer, at in zip(buffers, offsets, strict=True) if buffer.size_bytes > 0]
    return max(tops, default=0)


def greedy_by_size(buffers: Sequence[Buffer]) -> Offsets:
    """Largest first; equal ones in order of their start."""
    order = sorted(range(len(buffers)), key=lambda place: (-buffers[place].size_bytes, buffers[place].lower, place))
    return first_fit(buffers, order, neighbours(buffers))


def greedy_by_conflicts(buffers: Sequence[Buffer]) -> Offsets:
    """The buffer that meets most others first; equal ones by size."""
    met = neighbours(buffers)
    order = sorted(range(len(buffers)), key=lambda place: (-len(met[place]), -buffers[place].size_bytes, place))
    return first_fit(buffers, order, met)


def hill_climb(
    buffers: Sequence[Buffer], *, seed: int = 0, steps: int = 500, goal_bytes: int = 0, deadline: float | None = None
) -> Offsets:
    """Start by size; swap a buffer that reaches the top, or one that it meets, with another place in the order.

    Args:
        buffers: what to place.
        seed: of the choices.
        steps: placements that are tried.
        goal_bytes: a height that is good enough to stop at.
        deadline: in ``time.perf_counter()``; without one the result depends on the seed alone.
    """
    met, chance = neighbours(buffers), random.Random(seed)
    order = sorted(range(len(buffers)), key=lambda place: (-buffers[place].size_bytes, buffers[place].lower, place))
    best = first_fit(buffers, order, met)
    for _ in range(steps):
        reached = height(buffers, best)
        if reached <= goal_bytes or (deadline is not None and time.perf_counter() > deadline):
            break
        tops = [p for p, at in enumerate(best) if buffers[p].size_bytes and at + buffers[p].size_bytes == reached]
        blocked = chance.choice(tops)
        moved = chance.choice([blocked, *met[blocked]])
        tried = list(order)
        tried.insert(chance.randrange(len(order)), tried.pop(tried.index(moved)))
        offsets = first_fit(buffers, tried, met)
        if height(buffers, offsets) <= reached:
            order, best = tried, offsets
    return best
