"""Bytes and memory of many tilings at once, in closed form.

Between two steps exactly one loop moves on by one tile and all loops inside it start again. So what an operand reads is
a sum over the loops: how often that loop moves on, times the part of the new tile that the old one does not hold. Both
are products over the operand's axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.errors import ScheduleError
from .problem import Cost, Limits, Operand, Tiling, TilingProblem
from .spans import Ints, Spans, spans

MOST_BITS = 1 << 62


@dataclass(frozen=True)
class Grid:
    """A list of tile choices of one problem.

    Attributes:
        problem: whose tiles these are.
        sizes: dimension -> tile sizes on offer.
        picks: dimension -> for every tiling the position of its size in ``sizes``.
        spans: (operand, dimension) -> sums per size.
        counts: dimension -> for every tiling the number of tiles.
    """

    problem: TilingProblem
    sizes: Mapping[str, Sequence[int]]
    picks: Mapping[str, Ints]
    spans: Mapping[tuple[str, str], Spans]
    counts: Mapping[str, Ints]

    def __len__(self) -> int:
        return len(next(iter(self.picks.values())))

    def subset(self, keep: Ints) -> Grid:
        """The tilings at those positions."""
        picks = {name: pick[keep] for name, pick in self.picks.items()}
        counts = {name: count[keep] for name, count in self.counts.items()}
        return Grid(self.problem, self.sizes, picks, self.spans, counts)

    def tiles(self, place: int) -> tuple[int, ...]:
        """Tile sizes of the tiling at a position."""
        return tuple(self.sizes[dim.name][int(self.picks[dim.name][place])] for dim in self.problem.dims)


def all_spans(problem: TilingProblem, sizes: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], Spans]:
    """Sums per operand and dimension for every size on offer."""
    extents = {dim.name: dim.extent for dim in problem.dims}
    return {
        (operand.name, axis.dim): spans(axis, extents[axis.dim], sizes[axis.dim])
        for operand in problem.operands
        for axis in operand.axes
    }


def grid(
    problem: TilingProblem,
    sizes: Mapping[str, Sequence[int]],
    picks: Mapping[str, Ints],
    known: Mapping[tuple[str, str], Spans] | None = None,
) -> Grid:
    """Tile choices with everything that their costs need."""
    extents = {dim.name: dim.extent for dim in problem.dims}
    counts = {name: -(-extents[name] // np.array(sizes[name], dtype=np.int64))[picks[name]] for name in extents}
    return Grid(problem, sizes, picks, known or all_spans(problem, sizes), counts)


def all_choices(problem: TilingProblem, sizes: Mapping[str, Sequence[int]]) -> Grid:
    """Every combination of the sizes on offer."""
    return next(choices(problem, sizes, math.prod(len(options) for options in sizes.values())))


def choices(problem: TilingProblem, sizes: Mapping[str, Sequence[int]], chunk: int) -> Iterator[Grid]:
    """Every combination of the sizes on offer, at most ``chunk`` at a time."""
    check_range(problem)
    known = all_spans(problem, sizes)
    shape = tuple(len(options) for options in sizes.values())
    total = math.prod(shape)
    for start in range(0, total, chunk):
        flat = np.arange(start, min(start + chunk, total), dtype=np.int64)
        places: Sequence[Ints] = np.unravel_index(flat, shape)
        yield grid(problem, sizes, dict(zip(sizes, places, strict=True)), known)


def check_range(problem: TilingProblem) -> None:
    """``ScheduleError`` if the traffic could exceed 2^62 bits, so that no sum overflows."""
    steps = 1
    for extent in problem.extents:
        steps *= extent
    for operand in problem.operands:
        most = steps * operand.elements * max(operand.item_bits, 2 * operand.partial_bits, 1)
        for axis in operand.axes:
            most *= axis.kernel * axis.dilation
        if most > MOST_BITS:
            raise ScheduleError(
                f"{problem.name}: expected traffic below 2^62 bits, found that {operand.name!r} could move {most}; "
                f"split the operator"
            )


def memory_bytes(tilings: Grid, limits: Limits) -> Ints:
    """Fast memory that each tiling takes."""
    size = len(tilings)
    total = np.zeros(size, dtype=np.int64)
    split = np.zeros(size, dtype=bool)
    for name in tilings.problem.reduction:
        split |= tilings.counts[name] > 1
    for operand in tilings.problem.operands:
        bits = np.where(split, operand.bits_held(split=True), operand.bits_held(split=False))
        elements = np.full(size, operand.elements, dtype=np.int64)
        changes = np.zeros(size, dtype=bool)
        for axis in operand.axes:
            elements = elements * tilings.spans[operand.name, axis.dim].longest[tilings.picks[axis.dim]]
            changes |= tilings.counts[axis.dim] > 1
        whole = -(-elements * bits // 8)
        aligned = -(-whole // limits.alignment_bytes) * limits.alignment_bytes
        total += aligned * np.where(changes & (operand.role != "scratch"), limits.buffers, 1)
    return total


def moved_elements(tilings: Grid, operand: Operand, order: Sequence[str]) -> Ints:
    """Elements that enter fast memory over the whole operator, for each tiling, with loops in this order."""
    first = np.full(tilings.counts[order[0]].shape, operand.elements, dtype=np.int64)
    axes = {axis.dim for axis in operand.axes}
    for dim in axes:
        first = first * tilings.spans[operand.name, dim].first[tilings.picks[dim]]
    total = first
    for level in range(len(order)):
        new = np.full(first.shape, operand.elements, dtype=np.int64)
        old = new
        for position, dim in enumerate(order):
            count = tilings.counts[dim]
            if dim not in axes:
                factor = count if position < level else count - 1 if position == level else 1
                new, old = new * factor, old * factor
                continue
            sums, pick = tilings.spans[operand.name, dim], tilings.picks[dim]
            if position < level:
                new, old = new * sums.total[pick], old * sums.total[pick]
            elif position == level:
                new, old = new * sums.later[pick], old * sums.shared[pick]
            else:
                new, old = new * sums.first[pick], old * sums.wrapped[pick]
        total = total + (new - old)
    return total


def traffic_bits(tilings: Grid, order: Sequence[str], operand: Operand) -> tuple[Ints, Ints]:
    """Bits that are read and written for one operand, for each tiling."""
    moved = moved_elements(tilings, operand, order)
    if operand.role == "input":
        return moved * operand.item_bits, np.zeros_like(moved)
    size = operand.used_elements
    returns = (moved - size) * operand.partial_bits
    return returns, returns + size * operand.item_bits


def total_bits(tilings: Grid, order: Sequence[str]) -> Ints:
    """Bits that each tiling moves."""
    total = np.zeros(tilings.counts[order[0]].shape, dtype=np.int64)
    for operand in tilings.problem.operands:
        if operand.role != "scratch":
            read, written = traffic_bits(tilings, order, operand)
            total += read + written
    return total


def cost(problem: TilingProblem, tiling: Tiling, limits: Limits) -> Cost:
    """What one tiling costs; ``ScheduleError`` if it is not one of this problem."""
    check_range(problem)
    check_tiling(problem, tiling)
    sizes = {dim.name: [tile] for dim, tile in zip(problem.dims, tiling.tiles, strict=True)}
    one = grid(problem, sizes, {name: np.zeros(1, dtype=np.int64) for name in sizes})
    read: dict[str, int] = {}
    written: dict[str, int] = {}
    for operand in problem.operands:
        if operand.role == "scratch":
            continue
        bits = traffic_bits(one, tiling.order, operand)
        read[operand.name], written[operand.name] = (-(-int(value[0]) // 8) for value in bits)
    steps = 1
    for count in one.counts.values():
        steps *= int(count[0])
    return Cost(read, written, int(memory_bytes(one, limits)[0]), steps)


def check_tiling(problem: TilingProblem, tiling: Tiling) -> None:
    """``ScheduleError`` if tile sizes or loops do not belong to the problem."""
    names = [dim.name for dim in problem.dims]
    if len(tiling.tiles) != len(names) or sorted(tiling.order) != sorted(names):
        raise ScheduleError(
            f"{problem.name}: expected a tile and a loop for each of {', '.join(names)}, found "
            f"{len(tiling.tiles)} tiles and loops over {', '.join(tiling.order)}; correct the tiling"
        )
    for dim, tile in zip(problem.dims, tiling.tiles, strict=True):
        allowed = tile == dim.extent or (0 < tile < dim.extent and tile % dim.multiple == 0 and not dim.whole)
        if not allowed:
            raise ScheduleError(
                f"{problem.name}: expected a tile of {dim.name!r} that is {dim.extent}"
                f"{'' if dim.whole else f' or a smaller multiple of {dim.multiple}'}, found {tile}; correct the tiling"
            )
