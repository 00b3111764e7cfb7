"""The contest's rules: which schedules are valid, and what latency each subgraph has.

PROBLEM.md of the organisers leaves points open, and teams read them differently. This is the reading here; all worked
examples of PROBLEM.md follow from it:

* What a subgraph makes and reads itself is ephemeral: no memory, no transfers, and gone afterwards.
* A tile's compute time is that of native blocks: width and height are rounded up to native ones. Depth is not: a step
  of a sum costs its share of :attr:`Rules.depth`. An operation that feeds a step costs the share of what it makes.
* Steps of a sum keep slices that do not change. Tiles keep them only if a traversal order is given.
* Retained tensors take their full size from the start of the subgraph to the next one, and are dropped without a
  transfer when no longer listed; a result of the graph must have been written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...ir.errors import ScheduleError
from .problem import Instance, Op, Subgraph

Range = tuple[int, int]
Rect = tuple[Range, Range]
"""Rows and columns, half-open."""


@dataclass(frozen=True)
class Rules:
    """Where the problem statement can be read in two ways.

    Attributes:
        depth: a MatMul's base cost pays for its whole sum (``full``) or for as many terms as the native width.
        above_native: tiles above the native size cost as many native ones (``scaled``) or are ``refused``.
    """

    depth: Literal["full", "native"] = "native"
    above_native: Literal["scaled", "refused"] = "scaled"


DEFAULT_RULES = Rules()


@dataclass
class _Step:
    """What one step needs."""

    compute: float = 0.0
    slices: set[tuple[int, Rect]] = field(default_factory=set[tuple[int, Rect]])


def evaluate(instance: Instance, schedule: Sequence[Subgraph], rules: Rules = DEFAULT_RULES) -> tuple[float, ...]:
    """Latency of every subgraph.

    Raises:
        ScheduleError: the schedule is not valid; the message names the subgraph and why.
    """
    stored, resident = set(instance.graph_inputs), frozenset[int]()
    done: set[int] = set()
    latencies: list[float] = []
    for place, subgraph in enumerate(schedule):
        run = Run(instance, subgraph, rules, resident, f"subgraph {place}")
        run.check(stored)
        latencies.append(run.latency())
        stored |= run.outputs - subgraph.retain
        resident = subgraph.retain
        done |= set(subgraph.ops)
    missing = sorted(set(range(len(instance.ops))) - done)
    if missing:
        raise ScheduleError(f"schedule: expected every operation to run, found that {missing[0]} never does; add it")
    lost = sorted(instance.graph_outputs - stored)
    if lost:
        raise ScheduleError(f"schedule: expected the result {lost[0]} in slow memory at the end; do not retain it")
    return tuple(latencies)


class Run:
    """One subgraph after those before it."""

    def __init__(
        self, instance: Instance, subgraph: Subgraph, rules: Rules, resident: frozenset[int], where: str
    ) -> None:
        self.instance, self.subgraph, self.rules, self.where = instance, subgraph, rules, where
        self.resident = resident
        if not subgraph.ops or not set(subgraph.ops) <= set(range(len(instance.ops))):
            raise ScheduleError(f"{where}: expected operations of the instance, found {subgraph.ops}; correct it")
        ops = [instance.ops[op] for op in sorted(set(subgraph.ops))]
        self.made = {op.output: op for op in ops}
        read = {tensor for op in ops for tensor in op.inputs}
        self.inputs = read - set(self.made)
        self.outputs = set(self.made) - read
        self.width, self.height = self._grid()

    def _grid(self) -> tuple[int, int]:
        sizes = {self.instance.sizes[tensor] for tensor in self.outputs}
        if len(sizes) != 1:
            raise ScheduleError(f"{self.where}: expected results of one size, found {sorted(sizes)}; split it")
        return next(iter(sizes))

    def check(self, stored: set[int]) -> None:
        """Whether inputs exist, what is retained can be, and tiles are sound."""
        for tensor in sorted(self.inputs - stored - self.resident):
            raise ScheduleError(f"{self.where}: expected tensor {tensor} in slow or fast memory, found it in neither")
        for tensor in sorted(self.subgraph.retain - self.outputs - self.inputs - self.resident):
            raise ScheduleError(f"{self.where}: expected to retain what it reads or makes for others, found {tensor}")
        width, height, depth = self.subgraph.granularity
        if min(width, height, depth) < 1:
            raise ScheduleError(
                f"{self.where}: expected a granularity of at least 1, found {self.subgraph.granularity}"
            )
        native = self.instance.native
        if self.rules.above_native == "refused" and (width > native[0] or height > native[1]):
            raise ScheduleError(f"{self.where}: expected at most the native {native}, found {(width, height)}")
        tiles = math.ceil(self.width / width) * math.ceil(self.height / height)
        order = self.subgraph.traversal
        if order is not None and sorted(order) != list(range(tiles)):
            raise ScheduleError(
                f"{self.where}: expected an order of {tiles} tiles, found {len(order)} numbers; correct it"
            )

    def latency(self) -> float:
        """Sum over steps of the longer of compute and transfers."""
        width, height, depth = self.subgraph.granularity
        tiles = math.ceil(self.width / width) * math.ceil(self.height / height)
        steps = max((math.ceil(total / depth) for total in self._sums()), default=1)
        loaded: set[tuple[int, Rect]] = set()  # of tensors that are retained
        total, before = 0.0, set[tuple[int, Rect]]()
        for tile in self.subgraph.traversal or range(tiles):
            rect = self._rect(tile)
            if self.subgraph.traversal is None:
                before = set()
            for step in range(steps):
                needs = self._step(rect, step, last=step == steps - 1)
                self._check_capacity(needs, rect)
                moved = self._loads(needs, before, loaded)
                if step == steps - 1:
                    moved += len(self.outputs - self.subgraph.retain) * _area(rect)
                total += max(needs.compute, moved / self.instance.bandwidth)
                before = needs.slices
        return total

    def _rect(self, tile: int) -> Rect:
        width, height, _ = self.subgraph.granularity
        row, column = divmod(tile, math.ceil(self.width / width))
        return (_clip(row, height, self.height), _clip(column, width, self.width))

    def fits(self) -> bool:
        """Whether the first tile, which is no smaller than any other, fits in every step."""
        steps = max((math.ceil(total / self.subgraph.granularity[2]) for total in self._sums()), default=1)
        needs = (self._step(self._rect(0), step, last=step == steps - 1) for step in {0, steps - 1})
        return all(self._working_set(need, self._rect(0)) <= self.instance.capacity for need in needs)

    def _sums(self) -> list[int]:
        """Lengths of the sums whose results are tiles, not slices of a sum."""
        found: list[int] = []
        pending, seen = list(self.outputs), set[int]()
        while pending:
            tensor = pending.pop()
            op = self.made.get(tensor)
            if op is None or tensor in seen:
                continue
            seen.add(tensor)
            if op.type == "MatMul":
                found.append(self.instance.sizes[op.inputs[0]][0])
            else:
                pending += op.inputs
        return found

    def _step(self, rect: Rect, step: int, *, last: bool) -> _Step:
        needs = _Step()
        seen: set[tuple[int, Rect]] = set()
        for tensor in sorted(self.outputs):
            self._tile(tensor, rect, step, last, needs, seen)
        return needs

    def _tile(self, tensor: int, rect: Rect, step: int, last: bool, needs: _Step, seen: set[tuple[int, Rect]]) -> None:
        """A tile of the grid: pointwise operations happen in the last step, sums go on in every step."""
        op = self.made.get(tensor)
        if (tensor, rect) in seen:
            return
        seen.add((tensor, rect))
        if op is None:
            if last:
                needs.slices.add((tensor, rect))
        elif op.type == "Pointwise":
            if last:
                needs.compute += op.base_cost * self._blocks()
            for source in op.inputs:
                self._tile(source, rect, step, last, needs, seen)
        else:
            whole = self.instance.sizes[op.inputs[0]][0]
            terms = _clip(step, self.subgraph.granularity[2], whole)
            if terms[0] < terms[1]:
                needs.compute += op.base_cost * self._blocks() * self._share(terms, whole)
                self._slice(op.inputs[0], (rect[0], terms), 1, needs, seen)
                self._slice(op.inputs[1], (terms, rect[1]), 0, needs, seen)

    def _slice(self, tensor: int, rect: Rect, axis: int, needs: _Step, seen: set[tuple[int, Rect]]) -> None:
        """A slice of a factor; ``axis`` is the one that the sum runs along. What makes it sums up in one go."""
        pending = [(tensor, rect, axis)]
        while pending:
            tensor, rect, axis = pending.pop()
            if (tensor, rect) in seen:
                continue
            seen.add((tensor, rect))
            op = self.made.get(tensor)
            if op is None:
                needs.slices.add((tensor, rect))
                continue
            needs.compute += op.base_cost * self._slice_share(op, rect, axis)
            if op.type == "Pointwise":
                pending += [(source, rect, axis) for source in op.inputs]
            else:
                whole = (0, self.instance.sizes[op.inputs[0]][0])
                pending += [(op.inputs[0], (rect[0], whole), axis), (op.inputs[1], (whole, rect[1]), axis)]

    def _blocks(self) -> int:
        """Native blocks of a tile, at least one each way."""
        width, height, _ = self.subgraph.granularity
        native = self.instance.native
        return math.ceil(min(width, self.width) / native[0]) * math.ceil(min(height, self.height) / native[1])

    def _share(self, terms: Range, whole: int) -> float:
        return (terms[1] - terms[0]) / (whole if self.rules.depth == "full" else self.instance.native[0])

    def _slice_share(self, op: Op, rect: Rect, axis: int) -> float:
        """Native blocks of a slice: exact along the sum, rounded up across it; a MatMul's own sum on top."""
        native = (self.instance.native[1], self.instance.native[0])
        along = (rect[axis][1] - rect[axis][0]) / native[axis]
        across = math.ceil((rect[1 - axis][1] - rect[1 - axis][0]) / native[1 - axis])
        if op.type == "Pointwise":
            return along * across
        whole = self.instance.sizes[op.inputs[0]][0]
        return along * across * self._share((0, whole), whole)

    def _working_set(self, needs: _Step, rect: Rect) -> int:
        """Slices of inputs, tiles of results, and all of what is resident or retained."""
        whole = self.resident | self.subgraph.retain
        size = sum(math.prod(self.instance.sizes[tensor]) for tensor in whole)
        size += sum(_area(slice_) for tensor, slice_ in needs.slices if tensor not in whole)
        return size + _area(rect) * len(self.outputs - whole)

    def _check_capacity(self, needs: _Step, rect: Rect) -> None:
        size = self._working_set(needs, rect)
        if size > self.instance.capacity:
            raise ScheduleError(
                f"{self.where}: expected a working set of at most {self.instance.capacity}, found {size}; "
                f"use smaller tiles"
            )

    def _loads(self, needs: _Step, before: set[tuple[int, Rect]], loaded: set[tuple[int, Rect]]) -> int:
        moved = 0
        for piece in needs.slices:
            tensor, rect = piece
            if tensor in self.resident or piece in before or piece in loaded:
                continue
            moved += _area(rect)
            if tensor in self.subgraph.retain:
                loaded.add(piece)
        return moved


def _clip(place: int, size: int, end: int) -> Range:
    return (min(place * size, end), min((place + 1) * size, end))


def _area(rect: Rect) -> int:
    return math.prod(stop - start for start, stop in rect)
