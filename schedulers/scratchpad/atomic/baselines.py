"""What others do at a given order, for comparison: a tensor is evicted when room is needed, by a rule.

``belady``: the tensor whose next use is furthest away. ``fewest``: the set of tensors with fewest bytes that makes room
now (COSMA's greedy comparator). Both with a memory that only counts bytes, and with TensorFlow Lite's linear allocator,
which puts every tensor into the smallest free stretch that holds it and never moves it: what that costs more is
fragmentation, and where the tensors of an operator lie in the way of its output it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .flow import Flow, positions

Rule = Literal["belady", "fewest"]


@dataclass(frozen=True)
class Replay:
    """What a rule moves.

    Attributes:
        traffic_bytes: written out and read back; ``None`` if it failed.
        failed_step: where no room could be made, although the bytes would have been enough.
    """

    traffic_bytes: int | None
    failed_step: int | None = None


def replay_rule(flow: Flow, order: Sequence[int], budget_bytes: int, rule: Rule, *, addresses: bool) -> Replay:
    """The order under a rule, at a budget of at least ``flow.required_bytes``; constants of operators are left out."""
    memory = _Memory(flow, order, budget_bytes, rule, addresses=addresses)
    for step in range(len(order)):
        if not memory.run(step):
            return Replay(None, step)
    return Replay(memory.traffic)


class _Memory:
    def __init__(self, flow: Flow, order: Sequence[int], budget: int, rule: Rule, *, addresses: bool) -> None:
        self.traffic = 0
        self._flow = flow
        self._order = order
        self._budget = budget
        self._rule = rule
        self._addresses = addresses
        at = positions(order)
        self._uses = [sorted(at[use] for use in uses) for uses in flow.uses]
        self._copied = {tensor for tensor, write in enumerate(flow.write_bytes) if not write}
        self._seen: set[int] = set()
        self._chip: dict[int, int] = {}

    def run(self, step: int) -> bool:
        operator = self._order[step]
        pinned = {*self._flow.reads[operator], self._flow.makes[operator]}
        missing = sorted(pinned - self._chip.keys(), key=lambda tensor: -self._flow.sizes[tensor])
        for tensor in missing:
            if not self._bring(tensor, step, pinned):
                return False
            if tensor in self._seen:
                self.traffic += self._flow.sizes[tensor]
            self._seen.add(tensor)
        self._chip = {tensor: place for tensor, place in self._chip.items() if self._next(tensor, step) is not None}
        return True

    def _next(self, tensor: int, step: int) -> int | None:
        return next((use for use in self._uses[tensor] if use > step), None)

    def _bring(self, tensor: int, step: int, pinned: set[int]) -> bool:
        size = self._flow.sizes[tensor]
        place = self._place(size)
        while place is None:
            victims = self._victims(size, step, pinned)
            if not victims:
                return False
            for victim in victims:
                self._evict(victim)
            place = self._place(size)
        self._chip[tensor] = place
        return True

    def _evict(self, tensor: int) -> None:
        del self._chip[tensor]
        if tensor not in self._copied:
            self._copied.add(tensor)
            self.traffic += self._flow.write_bytes[tensor]

    def _place(self, size: int) -> int | None:
        """Start of the smallest free stretch that holds so many bytes; without addresses any number, if they fit."""
        if not self._addresses:
            used = sum(self._flow.sizes[tensor] for tensor in self._chip)
            return 0 if used + size <= self._budget else None
        fitting = [(stop - start, start) for start, stop in self._stretches() if stop - start >= size]
        return min(fitting)[1] if fitting else None

    def _stretches(self) -> Iterator[tuple[int, int]]:
        end = 0
        for start, tensor in sorted((place, tensor) for tensor, place in self._chip.items()):
            yield end, start
            end = max(end, start + self._flow.sizes[tensor])
        yield end, self._budget

    def _victims(self, size: int, step: int, pinned: set[int]) -> Sequence[int]:
        free = [tensor for tensor in self._chip if tensor not in pinned and self._flow.sizes[tensor] > 0]
        if self._rule == "belady":
            return sorted(free, key=lambda tensor: -(self._next(tensor, step) or 0))[:1]
        if self._addresses:
            return self._cheapest_window(size, pinned)
        used = sum(self._flow.sizes[tensor] for tensor in self._chip)
        return fewest_bytes([(tensor, self._flow.sizes[tensor]) for tensor in free], used + size - self._budget)

    def _cheapest_window(self, size: int, pinned: set[int]) -> Sequence[int]:
        """Tensors with fewest bytes whose eviction frees a stretch that is long enough."""
        spans = sorted((place, place + self._flow.sizes[tensor], tensor) for tensor, place in self._chip.items())
        starts = sorted({0, *(stop for _, stop, _ in spans)})
        best: tuple[int, list[int]] | None = None
        for start in starts:
            inside = [tensor for low, high, tensor in spans if low < start + size and start < high]
            if start + size > self._budget or any(tensor in pinned for tensor in inside):
                continue
            total = sum(self._flow.sizes[tensor] for tensor in inside)
            if best is None or total < best[0]:
                best = (total, inside)
        return [] if best is None else best[1]


def fewest_bytes(items: Sequence[tuple[int, int]], lack: int) -> tuple[int, ...]:
    """The items (name, size) whose sizes have the smallest sum that is at least ``lack``; empty if all are too few."""
    reached: dict[int, tuple[int, ...]] = {0: ()}
    enough: tuple[int, tuple[int, ...]] | None = None
    for name, size in items:
        for total, chosen in list(reached.items()):
            more = total + size
            if more >= lack and (enough is None or more < enough[0]):
                enough = (more, (*chosen, name))
            elif more < lack and more not in reached:
                reached[more] = (*chosen, name)
    return () if enough is None else enough[1]
