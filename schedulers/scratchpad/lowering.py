"""``lower``: a program becomes the list of its commands, taken down while the simulator runs it without values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .commands import Command, Interval, Listing, Move, OffChip, Purpose, with_needs
from .kernels import Array, element_bytes
from .problem import Problem
from .program import Piece, Placed, Program, row_positions, stored_channels
from .rows import parts
from .simulator import Observer, simulate

ALIGNMENT_BYTES = 16
"""Of what lies off-chip."""


def lower(program: Program, *, cell_bytes: int = 1, prefetch: bool = True) -> Listing:
    """The commands of a program.

    Args:
        program: with addresses.
        cell_bytes: addresses are told apart in steps of this; what divides all offsets.
        prefetch: loads go ahead of earlier stores and computations that do not touch their memory, in their order.
    """
    off_chip = off_chip_layout(program)
    notes = _Notes(program, off_chip)
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


@dataclass
class _Visit:
    """One operator in one stripe."""

    operator: int
    first: int
    stop: int
    placed: Placed
    loads: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    reads: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    stores: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list[tuple[int, int, tuple[int, ...]]])
    weights: Purpose | None = None


class _Notes(Observer):
    """Commands as the simulator takes its steps."""

    def __init__(self, program: Program, off_chip: OffChip) -> None:
        self.program, self.problem, self.off_chip = program, program.problem, off_chip
        self.commands: list[Command] = []
        self.number = -1
        self._visit: _Visit | None = None
        self._fetched: dict[int, list[int]] = {}
        self._placed: Placed | None = None
        self._row_loads: dict[int, list[int]] = {}
        self._stream_half = 0

    # ------------------------------------------------------------------------------------------ steps
    def range_starts(self, number: int) -> None:
        """Partial reads are charged by whole rows, complete ones by the size of the tensor."""
        self.flush()
        self._charge()
        self.number = number

    def visits(self, operator: int, first: int, stop: int, placed: Placed) -> None:
        """Everything up to the next visit belongs together."""
        self.flush()
        self._visit = _Visit(operator, first, stop, placed)

    def loads(self, tensor: int, row: int, placed: Placed) -> None:
        """Before the first visit of a range: whole tensors."""
        target = self._fetched if self._visit is None else self._visit.loads
        self._placed = placed
        target.setdefault(tensor, []).append(row)

    def loads_weights(self, operator: int, placed: Placed, *, again: bool) -> None:
        """Of the current visit."""
        del operator, placed
        if self._visit is not None:
            self._visit.weights = "weight_reread" if again else "weight"

    def computes(self, operator: int, row: int, read: Mapping[int, tuple[int, int]], placed: Placed) -> None:
        """Rows that are read grow with the rows that are made."""
        del operator, row, placed
        assert self._visit is not None
        for tensor, (first, stop) in read.items():
            low, high = self._visit.reads.get(tensor, (first, stop))
            self._visit.reads[tensor] = (min(low, first), max(high, stop))

    def stores(self, tensor: int, row: int, there: Sequence[int], placed: Placed) -> None:
        """Of the current visit."""
        del placed
        assert self._visit is not None
        self._visit.stores.append((tensor, row, tuple(there)))

    # ------------------------------------------------------------------------------------------ commands
    def finish(self) -> None:
        """After the last step."""
        self.flush()
        self._charge()

    def flush(self) -> None:
        """Writes down what belongs together."""
        if self._placed is not None:
            for tensor, rows in self._fetched.items():
                self._load(tensor, rows, self._placed)
        self._fetched = {}
        visit, self._visit = self._visit, None
        if visit is not None:
            for tensor, rows in visit.loads.items():
                self._load(tensor, rows, visit.placed)
            self._compute(visit)
            self._store(visit)

    def _load(self, tensor: int, rows: list[int], placed: Placed) -> None:
        role = self.problem.tensors[tensor].role
        moves = self._moves(tensor, rows, placed.pieces[tensor], self.off_chip.tensors[tensor])
        purpose: Purpose = "input" if role == "input" else "spill_read"
        self._row_loads.setdefault(tensor, []).append(len(self.commands))
        self.commands.append(Command("load", purpose, tensor, rows[0], len(rows), self.number, 0, moves))

    def _charge(self) -> None:
        """Sizes of the loads of a range: a tensor that was read whole costs its size, else its rows."""
        for tensor, places in self._row_loads.items():
            source = self.problem.tensors[tensor]
            total = sum(self.commands[place].rows for place in places)
            whole = total == source.rows
            for place in places:
                command = self.commands[place]
                rows = range(command.first, command.first + command.rows)
                size = sum(_share(source.size_bytes, source.rows, row) for row in rows)
                size = size if whole else command.rows * source.row_bytes
                self.commands[place] = replace(command, size_bytes=size)
        self._row_loads = {}

    def _compute(self, visit: _Visit) -> None:
        operator = self.problem.operators[visit.operator]
        reads = [i for t, (a, b) in visit.reads.items() for i in self._intervals(visit.placed.pieces[t], a, b)]
        writes = self._intervals(visit.placed.pieces[operator.output], visit.first, visit.stop)
        base = Command(
            "compute", "compute", visit.operator, visit.first, visit.stop - visit.first, self.number, 0, (),
            tuple(reads), tuple(writes),
        )  # fmt: skip
        if operator.weight_bytes == 0:
            self.commands.append(base)
        elif visit.operator in visit.placed.weights:
            start = self.program.offsets[visit.placed.weights[visit.operator]]
            if visit.weights is not None:
                self._load_weights(visit, start, 0, operator.weight_bytes)
            own = (start, start + operator.weight_bytes)
            self.commands.append(replace(base, reads=(*base.reads, own)))
        else:
            self._streamed(visit, base)

    def _streamed(self, visit: _Visit, base: Command) -> None:
        """Pieces of weights alternate between the halves of their buffer, each with its share of the computation."""
        total = self.problem.operators[visit.operator].weight_bytes
        name = visit.placed.stream
        size = self.program.buffers[name].size_bytes if name else total
        start = self.program.offsets[name] if name else None
        half = size if total <= size or size < 2 * ALIGNMENT_BYTES else size // 2 // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        pieces = math.ceil(total / half)
        for piece in range(pieces):
            length = min(half, total - piece * half)
            at = None if start is None else start + (piece % 2) * half if pieces > 1 else start
            self._load_weights(visit, at, piece * half, length)
            reads = base.reads if at is None else (*base.reads, (at, at + length))
            self.commands.append(replace(base, reads=reads, part=(piece, pieces)))

    def _load_weights(self, visit: _Visit, at: int | None, skipped: int, length: int) -> None:
        source = self.off_chip.weights[visit.operator] + skipped
        moves = () if at is None else (Move(at, source, 1, length, length, length),)
        assert visit.weights is not None
        self.commands.append(Command("load", visit.weights, visit.operator, 0, 1, self.number, length, moves))

    def _store(self, visit: _Visit) -> None:
        if not visit.stores:
            return
        tensor, _, there = visit.stores[0]
        source = self.problem.tensors[tensor]
        rows = [row for _, row, _ in visit.stores]
        purpose: Purpose = "output" if source.role == "output" else "spill_write"
        shares = ((source, 1), *((self.problem.tensors[part], -1) for part in there))
        size = sum(sign * _share(t.size_bytes, t.rows, row) for t, sign in shares for row in rows)
        moves = self._leaving(visit, tensor, rows, there)
        self.commands.append(Command("store", purpose, tensor, rows[0], len(rows), self.number, size, moves))

    def _leaving(self, visit: _Visit, tensor: int, rows: list[int], there: tuple[int, ...]) -> tuple[Move, ...]:
        """Moves of stored rows; those of a concatenation that is not on chip come from its parts."""
        pieces, home = visit.placed.pieces[tensor], self.off_chip.tensors[tensor]
        operator = self.problem.operators[visit.operator]
        if not there and all(store.rows for store, _, _ in pieces):
            return self._moves(tensor, rows, pieces, home)
        moves: list[Move] = []
        first = 0
        width = element_bytes(self.problem.tensors[tensor])
        for part in operator.inputs:
            channels = self.problem.tensors[part].shape[-1]
            if part not in there:
                base, row, position = home
                inside = (base + first * width, row, position)
                moves += self._moves(part, rows, visit.placed.pieces[part], inside)
            first += channels
        return tuple(moves)

    # ------------------------------------------------------------------------------------------ addresses
    def _moves(
        self, tensor: int, rows: list[int], pieces: Sequence[Piece], home: tuple[int, int, int]
    ) -> tuple[Move, ...]:
        """Rows of a tensor between their places on both sides; neighbours become one move."""
        base, row_bytes, position_bytes = home
        found: list[Move] = []
        first = 0
        for store, start, stop in pieces:
            width = store.item_bytes
            for row in rows if store.rows else ():
                on_chip = self.program.offsets[store.name] + row % store.rows * store.row_bytes + start * width
                off_chip = base + row * row_bytes + first * width
                on_stride = store.channels * width
                if len(pieces) == 1 and on_stride == position_bytes:
                    move = Move(on_chip, off_chip, 1, store.row_bytes, store.row_bytes, store.row_bytes)
                else:
                    length = (stop - start) * width
                    move = Move(on_chip, off_chip, store.positions, length, on_stride, position_bytes)
                _append(found, move)
            first += stop - start
        del tensor
        return tuple(found)

    def _intervals(self, pieces: Sequence[Piece], first: int, stop: int) -> list[Interval]:
        """Addresses of rows ``[first, stop)``; channels of other pieces of the same store are among them."""
        found: list[Interval] = []
        for store, _, _ in pieces:
            start = self.program.offsets.get(store.name, 0)
            for low, high in _ring(first, stop, store.rows):
                found.append((start + low * store.row_bytes, start + high * store.row_bytes))
        return [interval for interval in found if interval[1] > interval[0]]


def _ring(first: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """Places of rows in a ring, as at most two runs."""
    if not rows:
        return []
    if stop - first >= rows:
        return [(0, rows)]
    low, high = first % rows, (stop - 1) % rows + 1
    return [(low, high)] if low < high else [(low, rows), (0, high)]


def _append(moves: list[Move], move: Move) -> None:
    """Joins a move to the one before where both are contiguous and meet on both sides."""
    last = moves[-1] if moves else None
    if last is None or not last.blocks == move.blocks == 1:
        moves.append(move)
    elif (last.on_chip + last.block_bytes, last.off_chip + last.block_bytes) == (move.on_chip, move.off_chip):
        size = last.block_bytes + move.block_bytes
        moves[-1] = Move(last.on_chip, last.off_chip, 1, size, size, size)
    else:
        moves.append(move)


def _share(size: int, rows: int, row: int) -> int:
    return (row + 1) * size // rows - row * size // rows
