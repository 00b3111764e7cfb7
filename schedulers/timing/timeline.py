"""Cycles of a program: when every event starts and ends.

The model. The core computes one thing at a time, in program order. The DMA engine takes its commands in program order:
a command is issued when what it needs has ended, every command before it was issued, and fewer than
``transfers_in_flight`` are unfinished. After set-up and latency its bytes move when the bus is free, one command after
the other. So latencies of transfers in flight overlap, their data does not. Core and engine work at the same time
unless the machine says otherwise; then each event waits for all before it.

Times are whole cycles. ``replay.py`` counts them in another way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.machine import Machine
from .cost import commands, compute_cycles
from .events import Event, Transfer, check_events


@dataclass(frozen=True)
class Timing:
    """Cycles of a program.

    Attributes:
        total_cycles: until its last event ends.
        spans: (start, end) of every event; a transfer starts when its first command is issued.
        compute_cycles: for which the core is busy.
        bus_cycles: for which data moves.
        latency_cycles: set-up and latency of all commands, overlapped or not.
    """

    total_cycles: int
    spans: tuple[tuple[int, int], ...]
    compute_cycles: int
    bus_cycles: int
    latency_cycles: int

    @property
    def bound_cycles(self) -> int:
        """No order and no number of buffers makes the same events faster than this."""
        return max(self.compute_cycles, self.bus_cycles)

    @property
    def stall_cycles(self) -> int:
        """Cycles in which the core does not compute."""
        return self.total_cycles - self.compute_cycles


def cycles(machine: Machine, events: Sequence[Event]) -> Timing:
    """When every event of a program starts and ends on a machine.

    >>> from instar.ir.machine_file import machine
    >>> from instar.schedulers.timing.events import Compute, Transfer
    >>> program = [Transfer("w", 3072), Compute("conv", 256_000, needs=(0,))]
    >>> cycles(machine("ethos-u65-mid"), program).total_cycles  # 532 latency, 1000 data, 1000 arithmetic
    2532

    Raises:
        ScheduleError: an event needs one that is not before it.
        ConfigError: the machine's description leaves a number unknown that is needed; it is named.
    """
    check_events(events)
    state = _State(machine)
    for event in events:
        state.run(event)
    return Timing(
        total_cycles=max((end for _, end in state.spans), default=0),
        spans=tuple(state.spans),
        compute_cycles=state.compute_cycles,
        bus_cycles=state.bus_cycles,
        latency_cycles=state.latency_cycles,
    )


class _State:
    """Until when core, bus and commands in flight are taken."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.spans: list[tuple[int, int]] = []
        self.compute_cycles = self.bus_cycles = self.latency_cycles = 0
        self.core_free = self.bus_free = self.issued = self.all_done = 0
        self.in_flight: deque[int] = deque(maxlen=machine.dma.transfers_in_flight)  # ends of the last commands

    def run(self, event: Event) -> None:
        ready = max((self.spans[need][1] for need in event.needs), default=0)
        if not self.machine.dma.overlaps_compute:
            ready = max(ready, self.all_done)
        if isinstance(event, Transfer):
            span = self._transfer(event, ready)
        else:
            duration = compute_cycles(self.machine, event)
            start = max(ready, self.core_free)
            span = (start, start + duration)
            self.core_free = span[1]
            self.compute_cycles += duration
        self.spans.append(span)
        self.all_done = max(self.all_done, span[1])

    def _transfer(self, event: Transfer, ready: int) -> tuple[int, int]:
        start: int | None = None
        end = ready
        for command in commands(self.machine, event):
            slot = self.in_flight[0] if len(self.in_flight) == self.in_flight.maxlen else 0
            self.issued = max(ready, self.issued, slot)
            start = self.issued if start is None else start
            end = max(self.issued + command.latency_cycles, self.bus_free) + command.data_cycles
            self.bus_free = end
            self.in_flight.append(end)
            self.bus_cycles += command.data_cycles
            self.latency_cycles += command.latency_cycles
        return (ready if start is None else start, end)
