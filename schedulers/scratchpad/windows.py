"""Better schedules of long orders: one window after the other is searched anew between the states at its two ends.

What is outside a window stays as it is, so that every step leaves a whole schedule and the time may end anywhere
(large neighbourhood search: Shaw, CP 1998, with the exact or restricted search over range borders inside).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from .candidates import ANY, Candidate, OutOfTimeError, Reach, ending
from .moves import Moves
from .options import Options
from .search import Found, Search, Span, State, Step
from .sequenced import Sequenced


@dataclass(frozen=True)
class Effort:
    """One pass over all windows.

    Attributes:
        operators: in a window.
        reach: which ranges are looked at.
        width: labels per border.
        both: whether tensors may be on chip and off-chip.
    """

    operators: int
    reach: Reach
    width: int
    both: bool


EFFORTS = (
    Effort(64, Reach(6, 1), 8, both=False),
    Effort(64, Reach(16, 2), 16, both=False),
    Effort(96, Reach(32, 3), 64, both=False),
    Effort(64, Reach(ANY, 6), 200, both=True),
)
"""Passes of growing effort."""


@dataclass
class Windows:
    """Passes over the windows of one order.

    Attributes:
        net: the order.
        options: of the search.
        deadline: when to stop, in ``time.perf_counter()``.
    """

    net: Sequenced
    options: Options
    deadline: float
    _ranges: dict[int, list[Candidate]] = field(default_factory=dict[int, list[Candidate]])

    def improved(self, found: Found, efforts: Sequence[Effort] = EFFORTS) -> Found:
        """What is found is never dearer; the time may end after any window."""
        steps = list(found.steps)
        try:
            for effort in efforts:
                self._ranges.clear()
                moves = Moves(self.net, self.options, both=effort.both)
                for first in range(0, self.net.count, effort.operators // 2):
                    if not any(step.cost_bytes for step in steps):
                        break
                    steps = self._window(steps, first, effort, moves)
        except OutOfTimeError:
            pass  # the steps of the last whole window are a schedule
        return Found(tuple(steps), sum(step.cost_bytes for step in steps))

    def _window(self, steps: list[Step], first: int, effort: Effort, moves: Moves) -> list[Step]:
        """The steps, those between two borders replaced by cheaper ones if there are some."""
        starts = [step.candidate.start for step in steps]
        begin = min(bisect_left(starts, first), len(steps) - 1)
        end = bisect_left(starts, first + effort.operators)
        cost = sum(step.cost_bytes for step in steps[begin:end])
        if not cost:
            return steps
        span = Span(starts[begin], steps[end - 1].candidate.end + 1, steps[begin].before, _state(steps, end))
        search = Search(
            self.net, self._within(span, effort), moves, self.options, effort.width, self.deadline, span=span
        )
        better = search.run(cost).found
        if time.perf_counter() > self.deadline:
            raise OutOfTimeError
        return steps if better is None else [*steps[:begin], *better.steps, *steps[end:]]

    def _within(self, span: Span, effort: Effort) -> list[Candidate]:
        """The ranges of a span; those that the next window shares are kept."""
        for end in [end for end in self._ranges if end < span.first]:
            del self._ranges[end]
        for end in range(span.first, span.last):
            if end not in self._ranges:
                self._ranges[end] = list(ending(self.net, end, self.options, effort.reach, self.deadline))
        return [c for end in range(span.first, span.last) for c in self._ranges[end] if c.start >= span.first]


def _state(steps: Sequence[Step], place: int) -> State | None:
    return steps[place].before if place < len(steps) else None
