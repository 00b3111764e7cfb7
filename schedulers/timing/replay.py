"""An independent count of a program's cycles.

The machine is stepped from one moment at which something happens to the next, and each part looks at what it may do
then. Nothing is computed ahead, unlike in ``timeline.py``.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Sequence

from ...ir.machine import Machine
from .cost import Command, commands, compute_cycles
from .events import Compute, Event, Transfer, check_events


class Watcher:
    """Told when events begin and end, in the order in which that happens; this one ignores it."""

    def begins(self, place: int, cycle: int) -> None:
        """An event begins: its computation, or its first command is issued."""

    def ends(self, place: int, cycle: int) -> None:
        """An event ends: all that it moves or makes is where it belongs."""


def replay(machine: Machine, events: Sequence[Event], watcher: Watcher | None = None) -> int:
    """Cycles until every event has ended; the same errors as ``cycles``."""
    check_events(events)
    parts = _Parts(machine, events, watcher or Watcher())
    now = 0
    while parts.alarms:
        now = heapq.heappop(parts.alarms)
        while parts.end_data(now) or parts.end_compute(now) or parts.begin(now):
            pass
    return now


class _Parts:
    """Core, engine and bus at one moment; queues hold what has not begun, in program order."""

    def __init__(self, machine: Machine, events: Sequence[Event], watcher: Watcher) -> None:
        self.machine, self.watcher, self.now = machine, watcher, 0
        self.events = events
        self.core_queue = deque((place, event) for place, event in enumerate(events) if isinstance(event, Compute))
        moves = {place: commands(machine, event) for place, event in enumerate(events) if isinstance(event, Transfer)}
        self.engine_queue: deque[tuple[int, Command]] = deque((place, c) for place in moves for c in moves[place])
        self.empty = [place for place, parts in moves.items() if not parts]
        self.begun: set[int] = set()
        self.left = Counter(dict.fromkeys(range(len(events)), 1))  # commands or computations that have not ended
        self.left.update({place: len(parts) - 1 for place, parts in moves.items() if parts})
        self.first_left = 0  # every event before this one has ended
        self.core_until: tuple[int, int] | None = None  # (event, cycle of its end)
        self.latent: deque[tuple[int, int, int]] = deque()  # issued: (event, first cycle of its data, cycles of data)
        self.bus_until: tuple[int, int] | None = None
        self.alarms = [0]

    def begin(self, now: int) -> bool:
        """Lets one thing begin, if any can."""
        self.now = now
        return self._skip_empty() or self._move(now) or self._issue(now) or self._compute(now)

    def end_data(self, now: int) -> bool:
        """Frees the bus if its command ends now."""
        if self.bus_until is None or self.bus_until[1] != now:
            return False
        self.now = now
        self._ended(self.bus_until[0])
        self.bus_until = None
        return True

    def end_compute(self, now: int) -> bool:
        """Frees the core if its computation ends now."""
        if self.core_until is None or self.core_until[1] != now:
            return False
        self.now = now
        self._ended(self.core_until[0])
        self.core_until = None
        return True

    def _skip_empty(self) -> bool:
        for place in self.empty:
            if self._may_begin(place):
                self.empty.remove(place)
                self._begun(place)
                self._ended(place)
                return True
        return False

    def _move(self, now: int) -> bool:
        if self.bus_until is not None or not self.latent or self.latent[0][1] > now:
            return False
        place, _, data_cycles = self.latent.popleft()
        self.bus_until = (place, now + data_cycles)
        heapq.heappush(self.alarms, now + data_cycles)
        return True

    def _issue(self, now: int) -> bool:
        unfinished = len(self.latent) + (self.bus_until is not None)
        if not self.engine_queue or unfinished == self.machine.dma.transfers_in_flight:
            return False
        place, command = self.engine_queue[0]
        if not self._may_begin(place):
            return False
        self.engine_queue.popleft()
        self._begun(place)
        self.latent.append((place, now + command.latency_cycles, command.data_cycles))
        heapq.heappush(self.alarms, now + command.latency_cycles)
        return True

    def _compute(self, now: int) -> bool:
        if self.core_until is not None or not self.core_queue or not self._may_begin(self.core_queue[0][0]):
            return False
        place, event = self.core_queue.popleft()
        self._begun(place)
        self.core_until = (place, now + compute_cycles(self.machine, event))
        heapq.heappush(self.alarms, self.core_until[1])
        return True

    def _may_begin(self, place: int) -> bool:
        if not self.machine.dma.overlaps_compute and self.first_left < place:
            return False
        return not any(self.left[need] for need in self.events[place].needs)

    def _begun(self, place: int) -> None:
        if place not in self.begun:
            self.begun.add(place)
            self.watcher.begins(place, self.now)

    def _ended(self, place: int) -> None:
        self.left[place] -= 1
        if not self.left[place]:
            self.watcher.ends(place, self.now)
        while self.first_left < len(self.events) and not self.left[self.first_left]:
            self.first_left += 1
