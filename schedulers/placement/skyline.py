"""Floors of a partial placement, and what they imply.

The floor of a section is the least offset that a buffer still to be placed can have there. A buffer lies at least on
the highest floor of its sections; a section's floor is at least the least offset of the buffers that still cross it.
Both rules are repeated until nothing moves: that is how space which no buffer can reach any more is found. What a
section has above its floor must hold all that it still has to hold (skyline and section inference of MiniMalloc,
Moffitt, ASPLOS 2023, here as one fixed point).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .instance import NOWHERE, Instance, Numbers


@dataclass(frozen=True)
class Part:
    """A run of sections and the buffers that start in it: ``[low, high)`` and ``[begin, end)``."""

    low: int
    high: int
    begin: int
    end: int


@dataclass(frozen=True)
class Change:
    """What one step changed, to take it back: positions and old values."""

    buffer: int
    floors: tuple[Numbers, Numbers]
    offsets: tuple[Numbers, Numbers]


class Skyline:
    """A partial placement that steps forward and back.

    ``floor[t]``; ``load[t]``, the sum of the sizes still to be placed there; ``least[b]``, the least offset of a
    buffer, ``NOWHERE`` once it is placed; ``crossing[t]``, how many buffers still to be placed are alive in ``t - 1``
    and ``t``.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.floor = np.zeros(instance.sections + 1, dtype=np.int64)
        self.load = np.add.reduceat(instance.size[instance.members], instance.bounds[:-1])
        self.least = instance.start.copy()
        self.ceiling = instance.ceiling.copy()
        edges = np.zeros(instance.sections + 2, dtype=np.int64)
        np.add.at(edges, instance.first + 1, 1)
        np.add.at(edges, instance.stop, -1)
        self.crossing = np.cumsum(edges)
        self._ends = np.stack([instance.first, instance.stop], axis=1).reshape(-1)
        self._aligned = bool((instance.alignment > 1).any())

    def everything(self) -> Part:
        """All sections."""
        return Part(0, self.instance.sections, 0, len(self.instance.size))

    def parts(self, part: Part) -> list[Part]:
        """The runs of sections of a part that no buffer connects any more, those without buffers left out."""
        cuts = (np.flatnonzero(self.crossing[part.low + 1 : part.high] == 0) + part.low + 1).tolist()
        edges = [part.low, *cuts, part.high]
        runs = [(low, high) for low, high in pairwise(edges) if self.load[low] > 0]
        if not cuts:
            return [part] if runs else []
        places = np.searchsorted(self.instance.first, runs)
        return [Part(low, high, int(begin), int(end)) for (low, high), (begin, end) in zip(runs, places, strict=True)]

    def settle(self, part: Part) -> bool:
        """Raise floors and least offsets to their fixed point; false if something cannot fit any more."""
        instance, load = self.instance, self.load[part.low : part.high]
        start = instance.bounds[part.low]
        members = instance.members[start : instance.bounds[part.high]]
        bounds = instance.bounds[part.low : part.high] - start
        least = self.least[part.begin : part.end]
        floor = self.floor[part.low : part.high]
        ends = self._ends[2 * part.begin : 2 * part.end]
        active = load > 0
        while True:
            resting = np.maximum.reduceat(self.floor, ends)[::2]
            if self._aligned:
                alignment = instance.alignment[part.begin : part.end]
                resting = -(-resting // alignment) * alignment
            np.maximum(least, resting, out=least)
            raised = np.where(active, np.maximum(floor, np.minimum.reduceat(self.least[members], bounds)), floor)
            if (raised[active] + load[active] > instance.capacity).any():
                return False
            if (raised == floor).all():
                return not (least > self.ceiling[part.begin : part.end]).any()
            floor[:] = raised

    def place(self, part: Part, buffer: int, offset: int) -> Change | None:
        """Put the buffer at this offset, which is the least of the part; ``None``, and nothing changed, if it fails."""
        instance = self.instance
        first, stop, size = int(instance.first[buffer]), int(instance.stop[buffer]), int(instance.size[buffer])
        before = self._copy(part)
        self.load[first:stop] -= size
        self.crossing[first + 1 : stop] -= 1
        self.floor[first:stop] = offset + size
        self.least[buffer] = self.ceiling[buffer] = NOWHERE
        return self._finish(part, buffer, before)

    def leave_empty(self, part: Part, section: int, offset: int) -> Change | None:
        """Nothing lies at this offset in this section, although ``least`` would allow it.

        In a bottom-justified placement such a buffer rests on another one, that is on one whose offset is not excluded
        here or, through others that are, on one of those.
        """
        before = self._copy(part)
        least, size = self.least[part.begin : part.end], self.instance.size[part.begin : part.end]
        first, stop = self.instance.first[part.begin : part.end], self.instance.stop[part.begin : part.end]
        excluded = (least == offset) & (first <= section) & (section < stop)
        tops = np.where(excluded | (least == NOWHERE), NOWHERE, least + size)
        which = excluded.nonzero()[0]
        meets = (first[which, None] < stop) & (first < stop[which, None])
        support = np.where(meets, tops, NOWHERE).min(axis=1)
        through_others = support.min() + size[which].min()
        least[which] = np.maximum(least[which], np.minimum(support, through_others))
        if (least[which] > self.ceiling[part.begin : part.end][which]).any():
            self._restore(part, before)
            return None
        return self._finish(part, -1, before)

    def undo(self, change: Change) -> None:
        """Take back a step; steps are taken back in reverse."""
        self.floor[change.floors[0]] = change.floors[1]
        self.least[change.offsets[0]] = change.offsets[1]
        if change.buffer >= 0:
            self._lift(change.buffer)

    def _copy(self, part: Part) -> tuple[Numbers, Numbers]:
        return self.floor[part.low : part.high].copy(), self.least[part.begin : part.end].copy()

    def _restore(self, part: Part, before: tuple[Numbers, Numbers]) -> None:
        self.floor[part.low : part.high], self.least[part.begin : part.end] = before

    def _lift(self, buffer: int) -> None:
        instance = self.instance
        first, stop = int(instance.first[buffer]), int(instance.stop[buffer])
        self.load[first:stop] += instance.size[buffer]
        self.crossing[first + 1 : stop] += 1
        self.ceiling[buffer] = instance.ceiling[buffer]

    def _finish(self, part: Part, buffer: int, before: tuple[Numbers, Numbers]) -> Change | None:
        if not self.settle(part):
            self._restore(part, before)
            if buffer >= 0:
                self._lift(buffer)
            return None
        floors = (self.floor[part.low : part.high] != before[0]).nonzero()[0]
        offsets = (self.least[part.begin : part.end] != before[1]).nonzero()[0]
        return Change(buffer, (floors + part.low, before[0][floors]), (offsets + part.begin, before[1][offsets]))
