"""Bytes that no placement can do without: what is alive at one time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .problem import Buffer, Crowd


def crowd(buffers: Sequence[Buffer]) -> Crowd | None:
    """The earliest time that needs most bytes; ``None`` if no buffer has any.

    Where all offsets are multiples of one alignment, every buffer but the topmost one takes whole multiples of it. A
    fixed offset needs its own end.
    """
    found: Crowd | None = None
    for time, alive in _moments([buffer for buffer in buffers if buffer.size_bytes > 0]):
        needed = _needed(alive)
        if found is None or needed > found.needed_bytes:
            found = Crowd(time, tuple(buffer.name for buffer in alive), needed)
    return found


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Bytes of the time that needs most, 0 without buffers."""
    most = crowd(buffers)
    return 0 if most is None else most.needed_bytes


def _moments(buffers: Sequence[Buffer]) -> Iterator[tuple[int, list[Buffer]]]:
    """Every time at which a buffer starts, with all that are alive then."""
    starts = sorted(buffers, key=lambda buffer: buffer.lower)
    alive: list[Buffer] = []
    for place, buffer in enumerate(starts):
        alive = [other for other in alive if other.upper > buffer.lower]
        alive.append(buffer)
        if place + 1 == len(starts) or starts[place + 1].lower > buffer.lower:
            yield buffer.lower, list(alive)


def _needed(alive: Sequence[Buffer]) -> int:
    unit = math.gcd(*(buffer.alignment_bytes for buffer in alive))
    padding = [-buffer.size_bytes % unit for buffer in alive]
    stacked = sum(buffer.size_bytes for buffer in alive) + sum(padding) - max(padding)
    fixed = [buffer.offset_bytes + buffer.size_bytes for buffer in alive if buffer.offset_bytes is not None]
    return max(stacked, *fixed) if fixed else stacked
