"""Which weights of a range stay on chip: the sets that no other set beats in memory and in bytes read again.

A range that runs in ``n`` stripes reads weights that do not stay once for each stripe in which their operator works.
Ranges with the same end grow at the front, and so do their sets: one more operator doubles them, and what is beaten
goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .rows import Vector

MAX_SETS = 12
"""Sets kept per stripe height; thinned out evenly beyond that."""

SMALL_SHARE = 512
"""Weights below this part of the budget stay, except where the least memory is asked for."""

Entry = tuple[int, int, int, int]
"""Resident bytes, bytes read again, largest weight that is streamed, resident positions as a bit set from the end."""


@dataclass(frozen=True)
class WeightPoint:
    """One stripe height with a set of weights that stay on chip.

    Attributes:
        height: index of the stripe height.
        memory_bytes: resident weights and the buffer for the streamed ones.
        reread_bytes: bytes read again.
        members: bit ``k`` stands for the operator ``k`` places before the end of the range.
    """

    height: int
    memory_bytes: int
    reread_bytes: int
    members: int


class WeightSets:
    """The sets of all ranges with one end, from the shortest to the longest."""

    def __init__(self, heights: int, budget_bytes: int, buffer_bytes: int) -> None:
        self._budget = budget_bytes
        self._small = budget_bytes // SMALL_SHARE
        self._buffer = buffer_bytes
        self._sets: list[list[Entry]] = [[(0, 0, 0, 0)] for _ in range(heights)]

    def add(self, place: int, size_bytes: int, visits: Vector, visit_bytes: int | None = None) -> None:
        """One more operator, ``place`` before the end, that works in so many stripes per height.

        ``visit_bytes`` is what a further visit reads, where that is not ``size_bytes``, which is what stays.
        """
        again_bytes = size_bytes if visit_bytes is None else visit_bytes
        if not size_bytes:
            return
        bit = 1 << place
        for height, visited in enumerate(visits.tolist()):
            entries = self._sets[height]
            if visited <= 1:
                grown = [(kept, again, max(largest, size_bytes), bits) for kept, again, largest, bits in entries]
            elif size_bytes < self._small:
                kept, again, largest, bits = min(entries, key=lambda entry: entry[0] + min(self._buffer, entry[2]))
                grown = [(kept + size_bytes, again, largest, bits | bit) for kept, again, largest, bits in entries]
                again += again_bytes * (visited - 1)
                grown = self._thin([*grown, (kept, again, max(largest, size_bytes), bits)])
            else:
                more = again_bytes * (visited - 1)
                grown = [(kept + size_bytes, again, largest, bits | bit) for kept, again, largest, bits in entries]
                grown += [
                    (kept, again + more, max(largest, size_bytes), bits) for kept, again, largest, bits in entries
                ]
                grown = self._thin(grown)
            self._sets[height] = grown

    def points(self) -> tuple[WeightPoint, ...]:
        """All sets that fit into the budget alone."""
        return tuple(
            WeightPoint(height, kept + min(self._buffer, largest), again, bits)
            for height in range(len(self._sets))
            for kept, again, largest, bits in self._sets[height]
            if kept + min(self._buffer, largest) <= self._budget
        )

    def _thin(self, grown: list[Entry]) -> list[Entry]:
        """Sets that no other one beats in resident bytes, in bytes read again, and in the room for the stream."""
        kept: list[Entry] = []
        beaten: dict[int, int] = {}
        for entry in sorted(grown, key=lambda entry: (entry[0], entry[1], entry[2])):
            stream, again = min(self._buffer, entry[2]), entry[1]
            if entry[0] > self._budget or any(s <= stream and best <= again for s, best in beaten.items()):
                continue
            beaten[stream] = again
            kept.append(entry)
        if len(kept) <= MAX_SETS:
            return kept
        step = (len(kept) - 1) / (MAX_SETS - 1)
        return [kept[round(index * step)] for index in range(MAX_SETS)]
