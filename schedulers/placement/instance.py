"""A placement problem as arrays: what the searches work on.

Times are replaced by *sections*: the maximal sets of buffers that are alive together. Two buffers meet exactly if they
share a section (cliques of an interval graph), and every buffer covers a run of sections. Sizes are divided by what
all offsets of a bottom-justified placement are multiples of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...ir.errors import ScheduleError
from .problem import Buffer

Numbers = npt.NDArray[np.int64]

NOWHERE = 1 << 62
"""Offset of a buffer that is not to be placed any more; larger than every other."""

LARGEST = 1 << 60
"""Sums of sizes stay below, so that no sum of two of them overflows 64 bits."""


@dataclass(frozen=True)
class Instance:
    """Buffers with bytes, ordered by their first section.

    Attributes:
        origin: positions in the sequence of buffers that it was made from.
        unit_bytes: all sizes and offsets here are in this unit.
        first: first section of every buffer.
        stop: section after the last one.
        size: of every buffer.
        alignment: offsets are multiples of it.
        start: least offset: 0, or the fixed one.
        ceiling: greatest offset.
        capacity: no offset plus size exceeds it.
        sections: how many there are.
        members: buffers of section 0, then of section 1, ...
        bounds: section ``t`` owns ``members[bounds[t]:bounds[t + 1]]``.
        twin: equal for buffers that can be exchanged.
    """

    origin: tuple[int, ...]
    unit_bytes: int
    first: Numbers
    stop: Numbers
    size: Numbers
    alignment: Numbers
    start: Numbers
    ceiling: Numbers
    capacity: int
    sections: int
    members: Numbers
    bounds: Numbers
    twin: Numbers

    @property
    def width(self) -> Numbers:
        """Sections of every buffer."""
        return self.stop - self.first


def make_instance(buffers: Sequence[Buffer], capacity_bytes: int) -> Instance:
    """The arrays of the buffers that have bytes (at least one).

    Raises:
        ScheduleError: the sizes add up to more than 64-bit arithmetic can hold.
    """
    used = [place for place, buffer in enumerate(buffers) if buffer.size_bytes > 0]
    step, unit = _units([buffers[place] for place in used])
    if (sum(buffers[place].size_bytes for place in used) + step * len(used) + capacity_bytes) // unit >= LARGEST:
        raise ScheduleError(
            f"placement: expected sizes that add up to less than {LARGEST} units of {unit} bytes, found more; "
            f"give sizes with a larger common divisor"
        )
    times = _section_times([buffers[place] for place in used])
    spans = np.searchsorted(times, [(buffers[place].lower, buffers[place].upper) for place in used])
    order = [int(place) for place in np.lexsort((spans[:, 1], spans[:, 0]))]
    chosen = [buffers[used[place]] for place in order]
    first, stop = spans[order, 0].astype(np.int64), spans[order, 1].astype(np.int64)
    members = [np.flatnonzero((first <= section) & (section < stop)) for section in range(len(times))]
    fixed = [None if buffer.offset_bytes is None else buffer.offset_bytes // unit for buffer in chosen]
    highest = [(capacity_bytes - buffer.size_bytes) // unit for buffer in chosen]
    size = _numbers([-(-buffer.size_bytes // step) * step // unit for buffer in chosen])
    ceiling = _numbers([top if at is None else min(at, top) for at, top in zip(fixed, highest, strict=True)])
    start = _numbers([at or 0 for at in fixed])
    alignment = _numbers([max(math.lcm(buffer.alignment_bytes, unit) // unit, 1) for buffer in chosen])
    return Instance(
        origin=tuple(used[place] for place in order),
        unit_bytes=unit,
        first=first,
        stop=stop,
        size=size,
        alignment=alignment,
        start=start,
        ceiling=ceiling,
        capacity=int((ceiling + size).max()) if all(at is None for at in fixed) else -(-capacity_bytes // unit),
        sections=len(times),
        members=np.concatenate(members).astype(np.int64),
        bounds=np.concatenate([[0], np.cumsum([len(part) for part in members])]).astype(np.int64),
        twin=_twins(np.stack([first, stop, size, alignment, start, ceiling])),
    )


def _numbers(values: Sequence[int]) -> Numbers:
    return np.array(values, dtype=np.int64)


def _units(buffers: Sequence[Buffer]) -> tuple[int, int]:
    """``step``: sizes may be rounded up to multiples of it; ``unit``: divides every offset that can occur.

    Offsets of a bottom-justified placement are sums of sizes, rounded up to alignments. An alignment that divides the
    unit rounds nothing; every other one is a multiple of the unit.
    """
    step = math.gcd(*(buffer.alignment_bytes for buffer in buffers))
    padded = [-(-buffer.size_bytes // step) * step for buffer in buffers]
    unit = math.gcd(*padded, *(buffer.offset_bytes or 0 for buffer in buffers))
    while True:
        smaller = math.gcd(unit, *(b.alignment_bytes for b in buffers if unit % b.alignment_bytes))
        if smaller == unit:
            return step, unit
        unit = smaller


def _section_times(buffers: Sequence[Buffer]) -> list[int]:
    """The last start before an end, once for every run of starts: there a set of buffers is maximal."""
    events = sorted([(b.lower, 1) for b in buffers] + [(b.upper, 0) for b in buffers])
    return [time for (time, starts), (_, after) in pairwise(events) if starts and not after]


def _twins(columns: Numbers) -> Numbers:
    return np.unique(columns, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)
