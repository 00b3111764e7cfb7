"""An independent count of a tiling: the loops are walked step by step, tiles are boxes, and what moves is what differs.

Nothing here is shared with ``traffic.py`` but the problem itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.errors import ScheduleError
from .problem import Cost, Limits, Operand, Tiling, TilingProblem

Box = tuple[tuple[int, int], ...]
"""A tile of an operand: half-open interval along each axis."""

Step = Mapping[str, tuple[int, int]]
"""Half-open interval of iterations of every dimension."""


@dataclass
class _Held:
    """One operand's tile in fast memory."""

    box: Box | None = None
    seen: set[Box] = field(default_factory=set[Box])
    read_bits: int = 0
    written_bits: int = 0
    most_elements: int = 0
    changes: int = 0


def count(problem: TilingProblem, tiling: Tiling, limits: Limits) -> Cost:
    """Walks the loops and counts bytes and memory.

    Raises:
        ScheduleError: the steps do not compute every iteration exactly once.
    """
    split = any(
        tile < dim.extent for dim, tile in zip(problem.dims, tiling.tiles, strict=True) if dim.name in problem.reduction
    )
    held = {operand.name: _Held() for operand in problem.operands}
    volume = steps = 0
    for step in walk(problem, tiling):
        steps += 1
        volume += math.prod(stop - start for start, stop in step.values())
        for operand in problem.operands:
            _change(operand, box_of(operand, step), held[operand.name])
    if volume != math.prod(problem.extents):
        raise ScheduleError(f"{problem.name}: expected every iteration once, found {volume} of them in {steps} steps")
    for operand in problem.operands:
        _leave(operand, held[operand.name], final=True)
    memory = sum(_memory(operand, held[operand.name], limits, split) for operand in problem.operands)
    moved = [operand.name for operand in problem.operands if operand.role != "scratch"]
    return Cost(
        {name: -(-held[name].read_bits // 8) for name in moved},
        {name: -(-held[name].written_bits // 8) for name in moved},
        memory,
        steps,
    )


def walk(problem: TilingProblem, tiling: Tiling) -> Iterator[Step]:
    """The steps in order: for every dimension the half-open interval of iterations."""
    extents = {dim.name: dim.extent for dim in problem.dims}
    tiles = {dim.name: tile for dim, tile in zip(problem.dims, tiling.tiles, strict=True)}
    starts = [range(0, extents[name], tiles[name]) for name in tiling.order]
    for corner in itertools.product(*starts):
        yield {
            name: (start, min(start + tiles[name], extents[name]))
            for name, start in zip(tiling.order, corner, strict=True)
        }


def box_of(operand: Operand, step: Step) -> Box:
    """The tile of an operand in one step."""
    return tuple(axis.interval(*step[axis.dim]) for axis in operand.axes)


def size_of(box: Box) -> int:
    """Positions in a box."""
    return math.prod(max(0, stop - start) for start, stop in box)


def common(one: Box, other: Box) -> Box:
    """The box that two share."""
    return tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def _change(operand: Operand, box: Box, held: _Held) -> None:
    """Puts the box in place of the tile that is held."""
    if box == held.box:
        return
    held.changes += 1
    held.most_elements = max(held.most_elements, size_of(box) * operand.elements)
    if operand.role == "input":
        kept = size_of(common(held.box, box)) if held.box is not None else 0
        held.read_bits += (size_of(box) - kept) * operand.elements * operand.item_bits
    elif operand.role == "output":
        _leave(operand, held, final=False)
        if box in held.seen:
            held.read_bits += size_of(box) * operand.elements * operand.partial_bits
        held.seen.add(box)
    held.box = box


def _leave(operand: Operand, held: _Held, *, final: bool) -> None:
    """Writes an output's tile as a partial sum; at the end every tile's last writing becomes that of the result."""
    if operand.role != "output" or held.box is None:
        return
    held.written_bits += size_of(held.box) * operand.elements * operand.partial_bits
    if final:
        results = sum(size_of(box) for box in held.seen) * operand.elements
        held.written_bits += results * (operand.item_bits - operand.partial_bits)


def _memory(operand: Operand, held: _Held, limits: Limits, split: bool) -> int:
    size = -(-held.most_elements * operand.bits_held(split) // 8)
    aligned = -(-size // limits.alignment_bytes) * limits.alignment_bytes
    return aligned * (limits.buffers if held.changes > 1 and operand.role != "scratch" else 1)
