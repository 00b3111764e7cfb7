"""Improving an order where it costs: at the steps that force something out, and around what is forced out.

Neighbours of an order move one operator, with what it needs or what needs it, so that a gap in which a tensor is
evicted gets shorter or no longer holds the step that is too full. Every neighbour is judged by its exact replacement.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .fixed_order import Replacement, replace_exactly
from .flow import Flow, positions
from .peak import Memory, order_of, settle

Order = tuple[int, ...]

MOST_NEIGHBOURS = 60
"""Neighbours of an order that are judged; more are sampled."""

LEAST_S = 0.05
"""Seconds for a replacement even where the deadline is past."""

SHAKES = 6
"""Random moves away from an order that no neighbour improves."""


@dataclass(frozen=True)
class Found:
    """An order and its best replacement."""

    order: Order
    replacement: Replacement

    @property
    def traffic_bytes(self) -> int:
        """Bytes that it moves."""
        return self.replacement.traffic_bytes


class LocalSearch:
    """Descent with restarts from shaken orders; the same in every run with the same seed and number of rounds."""

    def __init__(self, flow: Flow, budget_bytes: int, seed: int, deadline: float) -> None:
        self._flow = flow
        self._budget = budget_bytes
        self._deadline = deadline
        self._chance = random.Random(seed)
        self._memory = Memory(flow)
        self._known: dict[Order, Found] = {}

    def judge(self, order: Order) -> Found:
        """The order with its best replacement."""
        if order not in self._known:
            seconds = max(self._deadline - time.perf_counter(), LEAST_S)
            self._known[order] = Found(order, replace_exactly(self._flow, order, self._budget, seconds=seconds))
        return self._known[order]

    def tidy(self, order: Sequence[int]) -> Order:
        """The order with everything run at once that fits and leaves no more alive than before."""
        state = settle(self._memory, self._memory.first(), self._budget)
        for operator in order:
            if not state.done >> operator & 1:
                state = self._memory.run(state, operator)
                state = settle(self._memory, state, max(self._budget, state.alive))
        return order_of(state)

    def improve(self, start: Found, bound_bytes: int, rounds: int) -> Found:
        """The best order found in so many descents, the first from ``start``."""
        best = self._descend(start, bound_bytes)
        for _ in range(rounds - 1):
            if best.traffic_bytes <= bound_bytes or self._late():
                break
            found = self._descend(self._shaken(best), bound_bytes)
            if found.traffic_bytes <= best.traffic_bytes:
                best = found
        return best

    def _late(self) -> bool:
        return time.perf_counter() > self._deadline

    def _descend(self, found: Found, bound_bytes: int) -> Found:
        while found.traffic_bytes > bound_bytes:
            better = self._first_better(found)
            if better is None:
                break
            found = better
        return found

    def _first_better(self, found: Found) -> Found | None:
        moves = list(dict.fromkeys(self._moves(found)))
        self._chance.shuffle(moves)
        for operator, target in moves[:MOST_NEIGHBOURS]:
            if self._late():
                return None
            for order in self._spellings(found.order, operator, target):
                other = self.judge(order)
                if other.traffic_bytes < found.traffic_bytes:
                    return other
        return None

    def _spellings(self, order: Order, operator: int, target: int) -> Iterator[Order]:
        moved = self._moved(order, operator, target)
        yield self.tidy(moved)
        yield moved

    def _shaken(self, found: Found) -> Found:
        order = found.order
        for _ in range(SHAKES):
            moves = list(dict.fromkeys(self._moves(self.judge(order))))
            if not moves or self._late():
                break
            order = self.tidy(self._moved(order, *self._chance.choice(moves)))
        return self.judge(order)

    def _moves(self, found: Found) -> Iterator[tuple[int, int]]:
        """Pairs of an operator and the step that it is moved to."""
        order, dropped = found.order, found.replacement.dropped
        full = self._full_steps(order)
        for gap in dropped:
            yield order[gap.stop], gap.start + 1
            yield order[gap.start], gap.stop - 1
            inside = [step for step in full if gap.start < step < gap.stop]
            for step in inside[:1] + inside[-1:]:
                for other in dropped:
                    yield order[step], other.start
                    yield order[step], other.stop
                yield order[step], 0
                yield order[step], len(order) - 1

    def _full_steps(self, order: Order) -> list[int]:
        """Steps that do not fit if everything stays on chip."""
        state = self._memory.first()
        full: list[int] = []
        for step, operator in enumerate(order):
            if self._memory.during(state, operator) > self._budget:
                full.append(step)
            state = self._memory.run(state, operator)
        return full

    def _moved(self, order: Order, operator: int, target: int) -> Order:
        """The operator at the step, or as near as what it needs (or what needs it) allows, which moves with it."""
        at = positions(order)
        step = at[operator]
        if target <= step:
            return self._carried(order, operator, range(target, step + 1), self._flow.predecessors, front=True)
        return self._carried(order, operator, range(step, target + 1), self._flow.successors, front=False)

    def _carried(
        self,
        order: Order,
        operator: int,
        span: range,
        linked: Callable[[int], Sequence[int]],
        *,
        front: bool,
    ) -> Order:
        window = order[span.start : span.stop]
        inside, carried, stack = set(window), {operator}, [operator]
        while stack:
            for other in linked(stack.pop()):
                if other in inside and other not in carried:
                    carried.add(other)
                    stack.append(other)
        block = [other for other in window if other in carried]
        rest = [other for other in window if other not in carried]
        middle = (*block, *rest) if front else (*rest, *block)
        return (*order[: span.start], *middle, *order[span.stop :])
