"""Depth-first search over bottom-justified placements.

Every placement can be pushed down until each buffer lies on the floor or on another one. So at the lowest floor of the
skyline, in any section of it, either one of the buffers that can lie exactly there does, or the section stays empty up
to the next offset that is possible. That choice is complete and meets every placement once. The section with the fewest
choices is taken; sections in which the search failed before are preferred. Runs of sections that no buffer connects are
solved one by one, and one that cannot be solved takes back the choice that cut it off, not the solutions of its
neighbours. Buffers that can be exchanged are tried once. (Canonical solutions, sections and dominance: MiniMalloc,
Moffitt, ASPLOS 2023; the choice by section and the weights are constraint programming's first-fail and dom/wdeg,
Boussemart et al., ECAI 2004.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .instance import NOWHERE, Instance, Numbers
from .skyline import Change, Part, Skyline

Outcome = Literal["found", "impossible", "stopped"]

EMPTY = -1
"""The choice that leaves a section empty at its floor."""

FAILED_AT_ONCE = 0.2
"""Weight that a section gains when a choice fails without search, against 1 when all its choices did."""

LOOKS = 16
"""Nodes between two looks at the clock."""


@dataclass
class Agenda:
    """A part that is still to be solved, the frame whose choice cut it off, and what comes after it."""

    part: Part
    creator: int
    after: Agenda | None


@dataclass
class Frame:
    """One choice: where, what is left to try (last first), and what the taken choice changed."""

    agenda: Agenda
    section: int
    offset: int
    choices: list[int]
    change: Change | None = None


class Search:
    """One run of the search.

    Args:
        instance: what to place.
        priority: of every buffer; the greatest is tried first.
        weights: of every section: failures so far, which this run adds to.
        divide: whether the number of choices is divided by the weight, or the weight only breaks ties.
    """

    def __init__(
        self, instance: Instance, priority: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], *, divide: bool
    ) -> None:
        self.offsets: Numbers = np.zeros(len(instance.size), dtype=np.int64)
        self.nodes = 0
        self._instance = instance
        self._priority = priority
        self._weights = weights
        self._divide = divide
        self._skyline = Skyline(instance)
        self._frames: list[Frame] = []

    def run(self, nodes: int, deadline: float) -> Outcome:
        """Search until something is known, ``nodes`` were tried, or ``time.perf_counter()`` is past the deadline."""
        skyline = self._skyline
        if (skyline.least > skyline.ceiling).any() or not skyline.settle(skyline.everything()):
            return "impossible"
        agenda = self._extended(None, skyline.everything(), -1)
        while agenda is not None:
            self._frames.append(self._frame(agenda))
            if not self._advance(nodes, deadline):
                return "stopped" if self._frames else "impossible"
            taken = self._frames[-1]
            agenda = self._extended(taken.agenda.after, taken.agenda.part, len(self._frames) - 1)
        return "found"

    def _advance(self, nodes: int, deadline: float) -> bool:
        """Take the next choice that does not fail at once; false if the time is over or no frame is left."""
        while self._frames:
            frame = self._frames[-1]
            if frame.change is not None:
                self._skyline.undo(frame.change)
                frame.change = None
            if not frame.choices:
                self._weights[frame.section] += 1
                self._back_to(frame.agenda.creator)
                continue
            if self.nodes >= nodes or (self.nodes % LOOKS == 0 and time.perf_counter() > deadline):
                return False
            self.nodes += 1
            if self._take(frame, frame.choices.pop()):
                return True
            self._weights[frame.section] += FAILED_AT_ONCE
        return False

    def _take(self, frame: Frame, choice: int) -> bool:
        if choice == EMPTY:
            frame.change = self._skyline.leave_empty(frame.agenda.part, frame.section, frame.offset)
        else:
            frame.change = self._skyline.place(frame.agenda.part, choice, frame.offset)
            self.offsets[choice] = frame.offset
        return frame.change is not None

    def _back_to(self, creator: int) -> None:
        """Drop all frames above the one whose choice made the failing part, solved neighbours included."""
        while len(self._frames) > creator + 1:
            change = self._frames.pop().change
            if change is not None:
                self._skyline.undo(change)

    def _extended(self, agenda: Agenda | None, part: Part, creator: int) -> Agenda | None:
        """The agenda with the parts that are left of ``part`` in front, the shortest first."""
        for piece in sorted(self._skyline.parts(part), key=lambda piece: piece.low - piece.high):
            agenda = Agenda(piece, creator, agenda)
        return agenda

    def _frame(self, agenda: Agenda) -> Frame:
        instance, skyline, part = self._instance, self._skyline, agenda.part
        start = instance.bounds[part.low]
        members = instance.members[start : instance.bounds[part.high]]
        load = skyline.load[part.low : part.high]
        floor = np.where(load > 0, skyline.floor[part.low : part.high], NOWHERE)
        offset = int(floor.min())
        lying = (skyline.least[members] == offset).astype(np.int64)
        choices = np.add.reduceat(lying, instance.bounds[part.low : part.high] - start)
        lowest = (floor == offset).nonzero()[0]
        slack = instance.capacity - offset - load[lowest] > 0
        weights = self._weights[part.low + lowest]
        count = (choices[lowest] + slack) / (weights if self._divide else 1.0)
        chosen = int(np.lexsort((-weights, count))[0])
        section = part.low + int(lowest[chosen])
        return Frame(agenda, section, offset, self._choices(section, offset, empty=bool(slack[chosen])))

    def _choices(self, section: int, offset: int, *, empty: bool) -> list[int]:
        """Buffers that can lie at the offset in the section, the best last; leaving it empty comes last of all."""
        instance = self._instance
        members = instance.members[instance.bounds[section] : instance.bounds[section + 1]]
        lying = members[self._skyline.least[members] == offset]
        different = dict(zip(instance.twin[lying].tolist(), lying.tolist(), strict=True)).values()
        return [*([EMPTY] if empty else []), *sorted(different, key=self._priority.__getitem__)]
