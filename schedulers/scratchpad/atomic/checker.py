"""The judge of schedules of whole operators: plays them step by step, from the problem itself, without any solver."""

from __future__ import annotations

from collections.abc import Iterator

from ..problem import Problem
from .schedule import AtomicSchedule, Stay


def check(problem: Problem, schedule: AtomicSchedule, *, weights: bool = False) -> list[str]:
    """Everything that is wrong with the schedule, one sentence each; empty if it can be trusted.

    Every operator must find its inputs on chip in its step and its output from then on; a tensor that comes on chip
    later must have been written out before; what is on chip must fit the budget, and where addresses are given must
    not overlap nor move. Bytes are counted on the way and compared with those that are claimed.
    """
    if schedule.status in ("infeasible", "timeout"):
        return ["a schedule comes with a status that has none"] if schedule.order or schedule.stays else []
    if sorted(schedule.order) != list(range(len(problem.operators))):
        return ["the order does not hold every operator once"]
    steps = _Steps(problem, schedule, weights=weights)
    return [*steps.play(), *steps.numbers()]


class _Steps:
    def __init__(self, problem: Problem, schedule: AtomicSchedule, *, weights: bool) -> None:
        self._problem = problem
        self._schedule = schedule
        self._weights = weights
        self._made: set[int] = {t for t, tensor in enumerate(problem.tensors) if tensor.role == "input"}
        self._seen: set[int] = set()
        self._spilled: set[int] = set()
        self._traffic = 0
        self._peak = 0
        self._height = 0

    def play(self) -> Iterator[str]:
        alive: list[Stay] = []
        coming = sorted(self._schedule.stays, key=lambda stay: stay.start, reverse=True)
        for step, operator in enumerate(self._schedule.order):
            alive = [stay for stay in alive if stay.stop > step]
            while coming and coming[-1].start <= step:
                stay = coming.pop()
                alive.append(stay)
                yield from self._arrival(stay, step, self._problem.operators[operator].output)
            yield from self._operator(operator, step, alive)
            yield from self._memory(operator, step, alive)
        if coming:
            yield f"{len(coming)} stays start after the last step"

    def _arrival(self, stay: Stay, step: int, output: int) -> Iterator[str]:
        tensor = self._problem.tensors[stay.tensor]
        if stay.start != step or stay.stop <= stay.start:
            yield f"tensor {tensor.name!r}: the stay [{stay.start}, {stay.stop}) is not one"
        if stay.tensor == output:
            return
        if stay.tensor not in self._made:
            yield f"step {step}: tensor {tensor.name!r} is on chip before it is made"
        elif stay.tensor in self._seen:
            self._traffic += tensor.size_bytes
            if tensor.role == "activation" and stay.tensor not in self._spilled:
                self._spilled.add(stay.tensor)
                self._traffic += tensor.size_bytes
        self._seen.add(stay.tensor)

    def _operator(self, operator: int, step: int, alive: list[Stay]) -> Iterator[str]:
        here = [stay.tensor for stay in alive]
        item = self._problem.operators[operator]
        for tensor in item.inputs:
            name = self._problem.tensors[tensor].name
            if tensor not in self._made:
                yield f"step {step}: {item.name!r} reads {name!r} before it is made"
            if tensor not in here:
                yield f"step {step}: {item.name!r} does not find {name!r} on chip"
        if item.output not in here:
            yield f"step {step}: the output of {item.name!r} is not on chip"
        if len(set(here)) != len(here):
            yield f"step {step}: a tensor is on chip twice"
        self._made.add(item.output)
        self._seen.add(item.output)

    def _memory(self, operator: int, step: int, alive: list[Stay]) -> Iterator[str]:
        spans = [(stay.offset_bytes, self._problem.tensors[stay.tensor].size_bytes) for stay in alive]
        constants = self._problem.operators[operator].weight_bytes if self._weights else 0
        if constants:
            placed = self._schedule.constants
            spans.append((placed[step] if placed else None, constants))
        used = sum(size for _, size in spans)
        self._peak = max(self._peak, used)
        if used > self._schedule.budget_bytes:
            yield f"step {step}: {used} bytes on chip exceed the budget of {self._schedule.budget_bytes}"
        placed_spans = sorted((offset, size) for offset, size in spans if offset is not None and size > 0)
        end = 0
        for offset, size in placed_spans:
            if offset < end:
                yield f"step {step}: memory at {offset} is used twice"
            end = max(end, offset + size)
        self._height = max(self._height, end)
        if end > self._schedule.budget_bytes:
            yield f"step {step}: addresses up to {end} exceed the budget of {self._schedule.budget_bytes}"
        if placed_spans and len(placed_spans) != sum(size > 0 for _, size in spans):
            yield f"step {step}: some tensors have an address and some have none"

    def numbers(self) -> Iterator[str]:
        schedule = self._schedule
        claims = [("traffic", schedule.traffic_bytes, self._traffic), ("peak", schedule.peak_bytes, self._peak)]
        claims.append(("height", schedule.height_bytes, self._height))
        yield from (f"{what} of {said} bytes claimed, {found} found" for what, said, found in claims if said != found)
        if schedule.bound_bytes > self._traffic:
            yield f"bound {schedule.bound_bytes} is above the traffic {self._traffic}"
        if schedule.status == "optimal" and schedule.bound_bytes != self._traffic:
            yield f"called optimal with traffic {self._traffic} and bound {schedule.bound_bytes}"
        if schedule.fixed_order and list(schedule.order) != sorted(schedule.order):
            yield "the given order was not kept"
