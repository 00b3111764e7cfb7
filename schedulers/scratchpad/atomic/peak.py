"""The order with the lowest peak, by best-first search over sets of executed operators.

A state is the set of operators that have run (an ideal of the graph); what is alive follows from it. States are taken
by the highest peak on the way to them, those with most operators first, so the first complete one has the lowest peak
of all, and where the search is stopped the lowest peak that is still open is a proven bound. An operator that fits
under the peak and leaves no more alive than before is run at once: the bytes alive are a submodular function of the
set, so running it earlier raises no later step.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .flow import Flow


@dataclass(frozen=True)
class PeakOrder:
    """An order, its peak, and what no order can be below.

    Attributes:
        order: operators.
        peak_bytes: bytes alive in the worst step if nothing is evicted.
        bound_bytes: no order has a lower peak.
        states: sets of operators that were looked at.
    """

    order: tuple[int, ...]
    peak_bytes: int
    bound_bytes: int
    states: int

    @property
    def optimal(self) -> bool:
        """Whether the order is complete and the two meet."""
        return bool(self.order) and self.peak_bytes == self.bound_bytes


@dataclass(frozen=True)
class State:
    """What has run: a bit per operator, bytes alive, operators that could run next, and how it was reached."""

    done: int
    alive: int
    ready: tuple[int, ...]
    ran: tuple[int, ...]
    before: State | None


class Memory:
    """What running an operator does to a state."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._needs = [_bits(flow.predecessors(operator)) for operator in range(flow.steps)]
        self._uses = [_bits(uses) for uses in flow.uses]
        self._extra = [
            flow.pinned[o] - sum(flow.sizes[t] for t in {*flow.reads[o], flow.makes[o]}) for o in range(flow.steps)
        ]
        self._after = [tuple(flow.successors(operator)) for operator in range(flow.steps)]

    def first(self) -> State:
        """Nothing has run."""
        ready = tuple(operator for operator in range(self.flow.steps) if not self._needs[operator])
        return State(0, 0, ready, (), None)

    def during(self, state: State, operator: int) -> int:
        """Bytes on chip while the operator runs next."""
        sizes = self.flow.sizes
        brought = sum(sizes[tensor] for tensor in self._brought(state.done, operator))
        return state.alive + brought + sizes[self.flow.makes[operator]] + self._extra[operator]

    def change(self, state: State, operator: int) -> int:
        """Bytes alive after it minus bytes alive before it."""
        flow, done = self.flow, state.done | 1 << operator
        made = flow.makes[operator]
        total = flow.sizes[made] if flow.uses[made] else 0
        total += sum(flow.sizes[tensor] for tensor in self._brought(state.done, operator))
        return total - sum(flow.sizes[tensor] for tensor in flow.reads[operator] if not self._uses[tensor] & ~done)

    def run(self, state: State, operator: int) -> State:
        """The state after it."""
        done = state.done | 1 << operator
        opened = tuple(
            after for after in self._after[operator] if not self._needs[after] & ~done and after not in state.ready
        )
        ready = (*(other for other in state.ready if other != operator), *dict.fromkeys(opened))
        return State(done, state.alive + self.change(state, operator), ready, (operator,), state)

    def _brought(self, done: int, operator: int) -> Iterator[int]:
        """Inputs of the network that come on chip for this operator."""
        for tensor in self.flow.reads[operator]:
            if self.flow.producer[tensor] < 0 and not self._uses[tensor] & done:
                yield tensor


def settle(memory: Memory, state: State, peak: int) -> State:
    """Run everything that fits under the peak and leaves no more alive than before."""
    moved = True
    ran = list(state.ran)
    before = state.before
    while moved:
        moved = False
        for operator in state.ready:
            if memory.change(state, operator) <= 0 and memory.during(state, operator) <= peak:
                state, moved = memory.run(state, operator), True
                ran.append(operator)
                break
    return State(state.done, state.alive, state.ready, tuple(ran), before)


def order_of(state: State) -> tuple[int, ...]:
    """Operators on the way to a state."""
    parts: list[tuple[int, ...]] = []
    place: State | None = state
    while place is not None:
        parts.append(place.ran)
        place = place.before
    return tuple(operator for part in reversed(parts) for operator in part)


def lowest_peak(flow: Flow, *, states: int = 200_000, above_bytes: int = 0, deadline: float = math.inf) -> PeakOrder:
    """The order of the lowest peak, or an empty order and the bound that was reached when the search was stopped.

    Args:
        flow: the network.
        states: how many sets of executed operators to look at.
        above_bytes: a peak that is low enough: no effort is made to get below it.
        deadline: when to stop, in ``time.perf_counter()``.
    """
    memory = Memory(flow)
    floor = max(flow.required_bytes, above_bytes)
    start = settle(memory, memory.first(), floor)
    heap: list[tuple[int, int, int, State]] = [(floor, -start.done.bit_count(), 0, start)]
    best = {start.done: floor}
    looked, pushed, peak = 0, 0, floor
    while heap:
        peak, _, _, state = heapq.heappop(heap)
        if state.done.bit_count() == flow.steps:
            return PeakOrder(order_of(state), peak, peak, looked)
        if peak > best[state.done]:
            continue
        looked += 1
        if looked > states or time.perf_counter() > deadline:
            break
        for operator in state.ready:
            raised = max(peak, memory.during(state, operator))
            after = settle(memory, memory.run(state, operator), raised)
            if raised < best.get(after.done, raised + 1):
                best[after.done] = raised
                pushed += 1
                heapq.heappush(heap, (raised, -after.done.bit_count(), pushed, after))
    return PeakOrder((), 0, peak, looked)


def _bits(places: Iterator[int] | list[int] | tuple[int, ...]) -> int:
    bits = 0
    for place in places:
        bits |= 1 << place
    return bits
