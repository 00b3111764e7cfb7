"""The smallest static arena of a network at its own order: what an ordinary runtime needs, without spills.

All tensors lie in one memory. Inputs of the network are there from the start and outputs until the end; every other
tensor from the operator that makes it to the last one that reads it. Nothing shares memory while it is alive.
"""

from __future__ import annotations

from ..placement import Buffer, PlacementProblem, PlacementSolution
from ..placement import solve as place
from .problem import Problem, Tensor

ALIGNMENT_BYTES = 16
"""Of TensorFlow Lite Micro's arena."""


def arena_buffers(problem: Problem, alignment_bytes: int = ALIGNMENT_BYTES) -> tuple[Buffer, ...]:
    """One buffer per tensor that is made or read, named like it; sizes are rounded up to the alignment."""
    steps = len(problem.operators)
    buffers: list[Buffer] = []
    for position, tensor in enumerate(problem.tensors):
        made, readers = problem.producer[position], problem.consumers[position]
        if made is None and not readers:
            continue
        stop = steps if tensor.role == "output" else max([*readers, made or 0]) + 1
        buffers.append(_buffer(tensor, 0 if made is None else made, stop, alignment_bytes))
    return tuple(buffers)


def smallest_arena(
    problem: Problem,
    *,
    alignment_bytes: int = ALIGNMENT_BYTES,
    time_limit_s: float = 60.0,
    workers: int = 2,
    seed: int = 0,
) -> PlacementSolution:
    """Offsets by the name of the tensor, with the height and a bound on it."""
    arena = PlacementProblem(arena_buffers(problem, alignment_bytes))
    return place(arena, time_limit_s=time_limit_s, workers=workers, seed=seed)


def _buffer(tensor: Tensor, start: int, stop: int, alignment_bytes: int) -> Buffer:
    rounded = -(-tensor.size_bytes // alignment_bytes) * alignment_bytes
    return Buffer(tensor.name, start, stop, rounded, alignment_bytes)
