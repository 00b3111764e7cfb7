"""The judge of every placement: replays the lifetimes in time order, without any solver."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from .problem import Buffer, PlacementProblem, PlacementSolution


def check(problem: PlacementProblem, solution: PlacementSolution) -> list[str]:
    """Everything that is wrong with the solution, one sentence each; empty if it can be trusted.

    All numbers are compared as integers of any length. A proof of infeasibility is not repeated, but one that the
    offsets or the capacity contradict is found.
    """
    if solution.status in ("infeasible", "timeout"):
        return list(_without_offsets(problem, solution))
    return [
        *_names(problem, solution.offsets),
        *_single(problem, solution.offsets),
        *overlaps(problem, solution.offsets),
        *_numbers(problem, solution),
    ]


def overlaps(problem: PlacementProblem, offsets: Mapping[str, int]) -> Iterator[str]:
    """One sentence for every buffer that starts in memory which another one still uses."""
    placed = [buffer for buffer in problem.buffers if buffer.size_bytes > 0 and buffer.name in offsets]
    ends = sorted(placed, key=lambda buffer: buffer.upper)
    alive: dict[str, Buffer] = {}
    done = 0
    for buffer in sorted(placed, key=lambda buffer: buffer.lower):
        while ends[done].upper <= buffer.lower:
            alive.pop(ends[done].name, None)
            done += 1
        low, high = offsets[buffer.name], offsets[buffer.name] + buffer.size_bytes
        for other in alive.values():
            if low < offsets[other.name] + other.size_bytes and offsets[other.name] < high:
                yield f"buffers {other.name!r} and {buffer.name!r} overlap at time {buffer.lower}"
        alive[buffer.name] = buffer


def _names(problem: PlacementProblem, offsets: Mapping[str, int]) -> Iterator[str]:
    known = {buffer.name for buffer in problem.buffers}
    yield from (f"buffer {name!r} has no offset" for name in known if name not in offsets)
    yield from (f"buffer {name!r} is not in the problem" for name in offsets if name not in known)


def _single(problem: PlacementProblem, offsets: Mapping[str, int]) -> Iterator[str]:
    capacity = math.inf if problem.capacity_bytes is None else problem.capacity_bytes
    for buffer in problem.buffers:
        offset = offsets.get(buffer.name)
        if offset is None:
            continue
        if offset < 0 or (buffer.size_bytes > 0 and offset + buffer.size_bytes > capacity):
            end = offset + buffer.size_bytes
            yield f"buffer {buffer.name!r} at {offset} to {end} leaves the memory of {capacity} bytes"
        if offset % buffer.alignment_bytes:
            yield f"buffer {buffer.name!r} at {offset} is not a multiple of {buffer.alignment_bytes}"
        if buffer.offset_bytes is not None and offset != buffer.offset_bytes:
            yield f"buffer {buffer.name!r} at {offset} must lie at {buffer.offset_bytes}"


def _numbers(problem: PlacementProblem, solution: PlacementSolution) -> Iterator[str]:
    if solution.status not in ("optimal", "feasible"):
        yield f"status {solution.status!r} is not one of optimal, feasible, infeasible, timeout"
    sizes = {buffer.name: buffer.size_bytes for buffer in problem.buffers}
    tops = [offset + sizes[name] for name, offset in solution.offsets.items() if sizes.get(name, 0) > 0]
    height = max(tops, default=0)
    if solution.height_bytes != height:
        yield f"height {solution.height_bytes} reported, {height} found"
    if solution.bound_bytes > height:
        yield f"bound {solution.bound_bytes} is above the height {height}"
    if solution.status == "optimal" and solution.bound_bytes != height:
        yield f"called optimal with height {height} and bound {solution.bound_bytes}"


def _without_offsets(problem: PlacementProblem, solution: PlacementSolution) -> Iterator[str]:
    if solution.offsets or solution.height_bytes is not None:
        yield f"status {solution.status!r} comes with a placement"
    if problem.capacity_bytes is None and solution.status == "infeasible" and not _any_fixed(problem):
        yield "infeasible without a capacity and without fixed offsets"
    capacity, known = problem.capacity_bytes, solution.lowest_known_bytes
    if solution.status == "infeasible" and capacity is not None and known is not None and known <= capacity:
        yield f"infeasible at capacity {capacity}, but a placement of {known} bytes is known"


def _any_fixed(problem: PlacementProblem) -> bool:
    return any(buffer.offset_bytes is not None for buffer in problem.buffers)
