"""A tiling as a program of transfers and computations, for ``schedulers/timing``.

With two buffers the tiles of the next step are fetched while this one is computed, and a result is written while the
next is made; with one buffer everything waits for what is in its place. Transfers are in the order in which the DMA
engine should take them: what the next computation waits for goes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..timing.events import Compute, Event, Transfer
from .counter import Box, Step, box_of, common, size_of, walk
from .problem import Operand, Tiling, TilingProblem


@dataclass
class _Buffer:
    """What occupies an operand's memory: for each tile so far the event after which it is done."""

    box: Box | None = None
    tiles: int = 0
    busy: list[int] = field(default_factory=list[int])
    loaded: tuple[int, ...] = ()
    written: dict[Box, int] = field(default_factory=dict[Box, int])


def program(problem: TilingProblem, tiling: Tiling, buffers: int = 1) -> list[Event]:
    """The events of a tiling; bytes of single transfers are rounded up."""
    writer = _Writer(problem, buffers)
    steps = list(walk(problem, tiling))
    writer.load(steps[0])
    for place, step in enumerate(steps):
        following = steps[place + 1] if place + 1 < len(steps) else None
        ready = writer.needs()
        if following is not None and buffers > 1:
            ahead = writer.ahead(following)
            writer.compute(step, ready)
            writer.leave(step, following)
            writer.arrive(following, ahead)
        else:
            writer.compute(step, ready)
            writer.leave(step, following)
            if following is not None:
                writer.load(following)
    return writer.events


class _Writer:
    """Events so far, and what every buffer holds."""

    def __init__(self, problem: TilingProblem, buffers: int) -> None:
        self.problem = problem
        self.buffers = buffers
        self.events: list[Event] = []
        self.held = {operand.name: _Buffer() for operand in problem.operands if operand.role != "scratch"}
        self.total = math.prod(problem.extents)

    @property
    def moved(self) -> list[Operand]:
        """Operands that are in slow memory at some time."""
        return [operand for operand in self.problem.operands if operand.role != "scratch"]

    def load(self, step: Step) -> None:
        """Fetches what the step needs."""
        self.arrive(step, self.ahead(step))

    def ahead(self, step: Step) -> dict[str, tuple[int, ...]]:
        """Issues the reads of a step's new tiles; for each operand that changes, the events after which it is there."""
        found: dict[str, tuple[int, ...]] = {}
        for operand in self.moved:
            held, box = self.held[operand.name], box_of(operand, step)
            if box == held.box:
                continue
            free = (held.busy[held.tiles - self.buffers],) if held.tiles >= self.buffers else ()
            bits = self._read_bits(operand, held, box)
            if not bits:
                found[operand.name] = free
                continue
            before = (held.written[box],) if box in held.written else ()
            self.events.append(Transfer(operand.name, -(-bits // 8), "read", tuple(sorted({*free, *before}))))
            found[operand.name] = (len(self.events) - 1,)
        return found

    def _read_bits(self, operand: Operand, held: _Buffer, box: Box) -> int:
        if operand.role == "input":
            kept = size_of(common(held.box, box)) if held.box is not None else 0
            return (size_of(box) - kept) * operand.elements * operand.item_bits
        return size_of(box) * operand.elements * operand.partial_bits if box in held.written else 0

    def arrive(self, step: Step, loaded: Mapping[str, tuple[int, ...]]) -> None:
        """From now on computations use the new tiles."""
        for operand in self.moved:
            if operand.name in loaded:
                held = self.held[operand.name]
                held.box, held.loaded = box_of(operand, step), loaded[operand.name]
                held.tiles += 1

    def needs(self) -> tuple[int, ...]:
        """Events that the next computation waits for."""
        return tuple(sorted({event for held in self.held.values() for event in held.loaded}))

    def compute(self, step: Step, needs: tuple[int, ...]) -> None:
        """One tile's arithmetic."""
        volume = math.prod(stop - start for start, stop in step.values())
        macs = self.problem.macs * volume // self.total
        self.events.append(Compute(self.problem.name, macs, self.problem.dtype, needs=needs))

    def leave(self, step: Step, following: Step | None) -> None:
        """Writes results whose tile changes, and notes when buffers that change are free."""
        computed = len(self.events) - 1
        for operand in self.moved:
            held, box = self.held[operand.name], box_of(operand, step)
            if following is not None and box == box_of(operand, following):
                continue
            held.busy.append(computed)
            if operand.role == "output":
                bits = size_of(box) * operand.elements * self._written_bits(operand, step)
                if bits:
                    self.events.append(Transfer(operand.name, -(-bits // 8), "write", (computed,)))
                    held.busy[-1] = held.written[box] = len(self.events) - 1

    def _written_bits(self, operand: Operand, step: Step) -> int:
        """Bits of an element: of the result once all dimensions of the sum are at their end, else of a partial sum."""
        extents = {dim.name: dim.extent for dim in self.problem.dims}
        complete = all(step[name][1] == extents[name] for name in self.problem.reduction)
        return operand.item_bits if complete else operand.partial_bits
