"""``lower``: a program becomes the list of its commands, taken down while the simulator runs it without values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .commands import Command, Listing, OffChip, with_needs
from .kernels import Array, element_bytes
from .notes import ALIGNMENT_BYTES, Notes
from .problem import Problem
from .program import Program, row_positions, stored_channels
from .rows import parts
from .simulator import simulate


def lower(program: Program, *, cell_bytes: int = 1, prefetch: bool = True) -> Listing:
    """The commands of a program.

    Args:
        program: with addresses.
        cell_bytes: addresses are told apart in steps of this; what divides all offsets.
        prefetch: loads go ahead of earlier stores and computations that do not touch their memory, in their order.
    """
    off_chip = off_chip_layout(program)
    notes = Notes(program, off_chip)
    simulate(program, kernels=NoValues(program.problem), observer=notes)
    notes.finish()
    alias = _aliases(program.problem)
    commands = with_needs(notes.commands, program.height_bytes, cell_bytes, alias)
    if prefetch:
        commands = with_needs(_loads_first(commands), program.height_bytes, cell_bytes, alias)
    return Listing(program, commands, off_chip)


@dataclass(frozen=True)
class NoValues:
    """Kernels that compute zeros."""

    problem: Problem

    def inputs(self) -> dict[int, Array]:
        """Zeros."""
        found = ((t, tensor) for t, tensor in enumerate(self.problem.tensors) if tensor.role == "input")
        return {t: np.zeros(tensor.shape, np.int64) for t, tensor in found}

    def weights(self, operator: int) -> NDArray[np.uint8]:
        """Zeros."""
        return np.zeros(self.problem.operators[operator].weight_bytes, np.uint8)

    def row(self, operator: int, row: int, operands: Sequence[tuple[int, Array]], weights: NDArray[np.uint8]) -> Array:
        """Zeros."""
        del row, operands, weights
        result = self.problem.tensors[self.problem.operators[operator].output]
        shape = [1 if axis == result.row_axis else extent for axis, extent in enumerate(result.shape)]
        return np.zeros(shape, np.int64)


def off_chip_layout(program: Program) -> OffChip:
    """Every tensor that is ever off-chip and all weights, one after the other; parts lie in their concatenation."""
    problem, schedule = program.problem, program.schedule
    outside = {t for piece in schedule.ranges for t in piece.stored}
    if not schedule.no_spill:
        outside |= {t for t, tensor in enumerate(problem.tensors) if tensor.role == "input"}
    tensors: dict[int, tuple[int, int, int]] = {}
    end = 0
    for tensor in sorted(outside, reverse=True):  # concatenations before their parts
        host, first = _host(problem, tensor, outside)
        if host is not None and host in tensors:
            base, row, position = tensors[host]
            tensors[tensor] = (base + first * element_bytes(problem.tensors[tensor]), row, position)
            continue
        source = problem.tensors[tensor]
        position = stored_channels(source) * element_bytes(source)
        row = position * row_positions(source)
        tensors[tensor] = (end, row, position)
        end += _aligned(max(row * source.rows, source.size_bytes))
    weights: dict[int, int] = {}
    for place, operator in enumerate(problem.operators):
        if operator.weight_bytes:
            weights[place] = end
            end += _aligned(operator.weight_bytes)
    return OffChip(tensors, weights, end)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _host(problem: Problem, tensor: int, outside: set[int]) -> tuple[int | None, int]:
    """The concatenation off-chip that a tensor is a part of, and its first channel there."""
    for reader in problem.consumers[tensor]:
        operator = problem.operators[reader]
        if operator.output in outside and tensor in parts(problem, operator):
            before = operator.inputs[: operator.inputs.index(tensor)]
            return operator.output, sum(problem.tensors[t].shape[-1] for t in before)
    return None, 0


def _aliases(problem: Problem) -> dict[int, tuple[int, ...]]:
    """Concatenation -> parts, and part -> concatenation: a store to one is one to the other."""
    found: dict[int, set[int]] = {}
    for operator in problem.operators:
        for part in parts(problem, operator):
            found.setdefault(operator.output, set()).add(part)
            found.setdefault(part, set()).add(operator.output)
    return {tensor: tuple(sorted(others)) for tensor, others in found.items()}


def _loads_first(commands: Sequence[Command]) -> list[Command]:
    """Loads as early in program order as their memory is free, in their order."""
    keys: list[float] = []
    ahead = -1.0
    for place, command in enumerate(commands):
        key = float(place)
        if command.kind == "load":
            ahead = max([ahead, *(keys[need] for need in command.needs)])
            key = ahead + 0.5 if ahead == int(ahead) else ahead
            ahead = key = min(key, float(place))
        keys.append(key)
    order = sorted(range(len(commands)), key=lambda place: (keys[place], place))
    return [commands[place] for place in order]
