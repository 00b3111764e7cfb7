"""Executes a program on real numbers in a byte-addressed scratchpad, and counts what crosses its border.

Everything on chip lives in one array of bytes at the program's addresses. Memory is poisoned where a buffer ends, so
that whatever reads what is no longer there gives another result. Off-chip memory holds copies of tensors and the
weights. The results are compared with :func:`evaluate`, which computes every operator once on whole tensors.

What an operator computes is up to :class:`Kernels`; values are the bits of elements, as signed integers of their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .kernels import Array, compute, compute_row, weights_of
from .problem import Problem, Tensor
from .program import Piece, Placed, Program
from .rows import operand_maps, parts, stripe_targets
from .schedule import Range, Traffic

POISON = 0x5A

INTEGERS = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


@dataclass(frozen=True)
class Run:
    """Outputs by the position of their tensor, and the bytes that were moved."""

    outputs: Mapping[int, Array]
    traffic: Traffic


class Kernels(Protocol):
    """Values of a network and how its operators compute them, row by row."""

    def inputs(self) -> Mapping[int, Array]:
        """Tensor -> values of the network's inputs."""
        ...

    def weights(self, operator: int) -> NDArray[np.uint8]:
        """Constants of an operator as they lie off-chip, ``weight_bytes`` of them."""
        ...

    def row(self, operator: int, row: int, operands: Sequence[tuple[int, Array]], weights: NDArray[np.uint8]) -> Array:
        """One row of an operator's result.

        Args:
            operator: position in the problem.
            row: of the result.
            operands: per operand the index of the first row that is given, and those rows.
            weights: its constants as they are on chip.
        """
        ...


@dataclass(frozen=True)
class StandIn:
    """Kernels in plain integers on random values; see :mod:`.kernels`."""

    problem: Problem
    seed: int = 0

    def inputs(self) -> dict[int, Array]:
        """Random ones."""
        return inputs_of(self.problem, self.seed)

    def weights(self, operator: int) -> NDArray[np.uint8]:
        """Random ones that depend on the operator's name."""
        return weights_of(self.problem.operators[operator], self.seed)

    def row(self, operator: int, row: int, operands: Sequence[tuple[int, Array]], weights: NDArray[np.uint8]) -> Array:
        """By the kind of the operator."""
        return compute_row(self.problem, self.problem.operators[operator], row, operands, weights)


class Observer:
    """Sees every step of a run in program order; this one ignores them all."""

    def range_starts(self, number: int) -> None:
        """A range begins."""

    def visits(self, operator: int, first: int, stop: int, placed: Placed) -> None:
        """An operator makes rows ``[first, stop)`` in this stripe; what follows belongs to it."""

    def loads(self, tensor: int, row: int, placed: Placed) -> None:
        """A row comes from off-chip into the pieces of its tensor."""

    def loads_weights(self, operator: int, placed: Placed, *, again: bool) -> None:
        """The constants of an operator come from off-chip."""

    def computes(self, operator: int, row: int, read: Mapping[int, tuple[int, int]], placed: Placed) -> None:
        """A row of an operator's result is made of rows ``[first, stop)`` of tensors that are on chip."""

    def stores(self, tensor: int, row: int, there: Sequence[int], placed: Placed) -> None:
        """A row goes off-chip, but for the parts of a concatenation that are there."""


def inputs_of(problem: Problem, seed: int) -> dict[int, Array]:
    """Random values for the inputs of the network."""
    generator = np.random.default_rng(seed)
    return {
        position: generator.integers(-128, 128, tensor.shape, dtype=np.int64)
        for position, tensor in enumerate(problem.tensors)
        if tensor.role == "input"
    }


def evaluate(problem: Problem, seed: int = 0) -> dict[int, Array]:
    """The outputs of the network, operator by operator on whole tensors."""
    values = inputs_of(problem, seed)
    for operator in problem.operators:
        operands = [values[tensor] for tensor in operator.inputs]
        values[operator.output] = compute(problem, operator, operands, weights_of(operator, seed)).reshape(
            problem.tensors[operator.output].shape
        )
    return {t: values[t] for t, tensor in enumerate(problem.tensors) if tensor.role == "output"}


def simulate(program: Program, seed: int = 0, kernels: Kernels | None = None, observer: Observer | None = None) -> Run:
    """Runs the program from its first range to its last.

    Args:
        program: with addresses.
        seed: of random values, where no kernels are given.
        kernels: values and arithmetic; plain integers where not given.
        observer: told of every step.
    """
    machine = _Machine(program, kernels or StandIn(program.problem, seed), observer or Observer())
    for number, (piece, placed) in enumerate(zip(program.schedule.ranges, program.ranges, strict=True)):
        machine.run(number, piece, placed)
    outputs = (t for t, tensor in enumerate(program.problem.tensors) if tensor.role == "output")
    return Run({t: machine.delivered(t) for t in outputs}, machine.traffic())


class _Machine:
    """Scratchpad, off-chip memory and counters."""

    def __init__(self, program: Program, kernels: Kernels, observer: Observer) -> None:
        self.program, self.problem, self.kernels, self.observer = program, program.problem, kernels, observer
        self.memory: NDArray[np.uint8] = np.full(program.height_bytes, POISON, dtype=np.uint8)
        self.off_chip: dict[int, Array] = {}
        self.complete: set[int] = set()
        self.loaded: dict[int, int] = {}
        self.bytes = dict.fromkeys(("spill_write", "spill_read", "weight_reread", "input", "output", "weight"), 0)
        self.pieces: Mapping[int, tuple[Piece, ...]] = {}
        given = dict(kernels.inputs())
        if program.schedule.no_spill:
            self.pieces = {t: p for t, p in program.ranges[0].pieces.items() if t in given} if program.ranges else {}
            for tensor in self.pieces:
                self._fill(tensor, given[tensor])
        else:
            self.off_chip, self.complete = given, set(given)

    def traffic(self) -> Traffic:
        """Bytes moved, by purpose."""
        counts = self.bytes
        return Traffic(
            *(counts[k] for k in ("spill_write", "spill_read", "weight_reread", "input", "output", "weight"))
        )

    def run(self, number: int, piece: Range, placed: Placed) -> None:
        """One range, stripe by stripe."""
        self.pieces = placed.pieces
        self.observer.range_starts(number)
        for tensor in piece.fetched:
            for row in range(self.problem.tensors[tensor].rows):
                self.observer.loads(tensor, row, placed)
            self._fill(tensor, self.off_chip[tensor])
            self._count_read(tensor, self.problem.tensors[tensor].size_bytes)
        operators = self.program.schedule.order[piece.start : piece.stop]
        work = _Work(self, piece, placed, operators)
        work.run()
        for tensor, rows in self.loaded.items():
            source = self.problem.tensors[tensor]
            self._count_read(tensor, source.size_bytes if rows == source.rows else rows * source.row_bytes)
        self.loaded = {}
        self.complete |= set(piece.stored)
        last = number + 1 == len(self.program.ranges)
        for name, buffer in self.program.buffers.items():
            if buffer.upper == number + 1 and not last:
                start = self.program.offsets[name]
                self.memory[start : start + buffer.size_bytes] = POISON

    def delivered(self, tensor: int) -> Array:
        """An output at the end: off-chip, or the rows that are on chip."""
        if tensor in self.off_chip:
            return self.off_chip[tensor]
        source = self.problem.tensors[tensor]
        rows = [self.read_row(tensor, row) for row in range(source.rows)]
        return np.concatenate(rows, axis=source.row_axis or 0).reshape(source.shape)

    def _fill(self, tensor: int, values: Array) -> None:
        source = self.problem.tensors[tensor]
        for row in range(source.rows):
            taken = values if source.row_axis is None else np.take(values, [row], source.row_axis)
            self.write_row(tensor, row, taken)

    def _count_read(self, tensor: int, size: int) -> None:
        self.bytes["input" if self.problem.tensors[tensor].role == "input" else "spill_read"] += size

    def write_row(self, tensor: int, row: int, values: Array) -> None:
        """Puts one row into the scratchpad, channel piece by channel piece."""
        flat, first = values.reshape(-1, self.problem.tensors[tensor].shape[-1]), 0
        for store, start, stop in self.pieces[tensor]:
            if store.rows:
                view = self._row(store.name, store.rows, store.row_bytes, row, store.item_bytes)
                part = flat[:, first : first + stop - start]
                view.reshape(store.positions, store.channels)[:, start:stop] = part.reshape(store.positions, -1)
            first += stop - start

    def read_row(self, tensor: int, row: int) -> Array:
        """One row from the scratchpad, with the axes of its tensor."""
        found = [
            self._row(store.name, store.rows, store.row_bytes, row, store.item_bytes)
            .reshape(store.positions, store.channels)[:, start:stop]
            .astype(np.int64)
            for store, start, stop in self.pieces[tensor]
        ]
        source = self.problem.tensors[tensor]
        shape = [1 if axis == source.row_axis else extent for axis, extent in enumerate(source.shape)]
        return np.concatenate(found, axis=1).reshape(shape)

    def _row(self, name: str, rows: int, row_bytes: int, row: int, item_bytes: int) -> NDArray[np.signedinteger]:
        start = self.program.offsets[name] + row % rows * row_bytes
        return self.memory[start : start + row_bytes].view(INTEGERS[item_bytes])

    def load_row(self, tensor: int, row: int) -> None:
        """Reads one row from off-chip into its line buffer."""
        source = self.problem.tensors[tensor]
        self.loaded[tensor] = self.loaded.get(tensor, 0) + 1
        values = self.off_chip[tensor]
        self.write_row(tensor, row, values if source.row_axis is None else np.take(values, [row], source.row_axis))

    def store_row(self, tensor: int, row: int, values: Array, placed: Placed) -> None:
        """Writes one row off-chip, except for parts of a concatenation that are there already."""
        source = self.problem.tensors[tensor]
        if tensor not in self.off_chip:
            self.off_chip[tensor] = np.zeros(source.shape, dtype=np.int64)
        place = tuple(slice(row, row + 1) if axis == source.row_axis else slice(None) for axis in range(values.ndim))
        self.off_chip[tensor][place] = values
        made = self.problem.producer[tensor]
        inside = () if made is None else parts(self.problem, self.problem.operators[made])
        there = [t for t in inside if t in self.off_chip]
        self.observer.stores(tensor, row, there, placed)
        moved = _share(source, row) - sum(_share(self.problem.tensors[t], row) for t in there)
        self.bytes["output" if source.role == "output" else "spill_write"] += moved

    def load_weights(self, operator: int, placed: Placed, *, again: bool) -> NDArray[np.uint8]:
        """Constants of an operator: into their own buffer, or piece by piece through the stream."""
        data = self.kernels.weights(operator)
        if len(data):
            self.observer.loads_weights(operator, placed, again=again)
        self.bytes["weight_reread" if again else "weight"] += len(data)
        if operator in placed.weights:
            start = self.program.offsets.get(placed.weights[operator], 0)
            self.memory[start : start + len(data)] = data
            return self.memory[start : start + len(data)]
        if not placed.stream:
            return data
        start, size = self.program.offsets[placed.stream], self.program.buffers[placed.stream].size_bytes
        arrived = np.empty_like(data)
        for first in range(0, len(data), size):
            chunk = data[first : first + size]
            self.memory[start : start + len(chunk)] = chunk
            arrived[first : first + len(chunk)] = self.memory[start : start + len(chunk)]
        return arrived


def _share(tensor: Tensor, row: int) -> int:
    """Bytes of one row; all of them make the tensor's size."""
    return (row + 1) * tensor.size_bytes // tensor.rows - row * tensor.size_bytes // tensor.rows


class _Work:
    """One range while it runs."""

    def __init__(self, machine: _Machine, piece: Range, placed: Placed, operators: tuple[int, ...]) -> None:
        self.machine, self.piece, self.placed, self.operators = machine, piece, placed, operators
        self.problem = machine.problem
        self.maps = {o: operand_maps(self.problem, self.problem.operators[o]) for o in operators}
        self.made = dict.fromkeys(operators, 0)
        self.arrived: dict[int, int] = {}
        self.weights: dict[int, NDArray[np.uint8]] = {}
        self.results = {self.problem.operators[o].output for o in operators}

    def run(self) -> None:
        """All stripes."""
        last = self.problem.tensors[self.problem.operators[self.operators[-1]].output].rows
        for stripe in range(1, -(-last // self.piece.stripe_rows) + 1):
            target = stripe_targets(self.problem, self.operators, stripe, self.piece.stripe_rows, self.made)
            for operator in self.operators:
                if target[operator] > self.made[operator]:
                    self._work(operator, target[operator])
                self.made[operator] = target[operator]

    def _work(self, operator: int, stop: int) -> None:
        self.machine.observer.visits(operator, self.made[operator], stop, self.placed)
        resident = operator in self.placed.weights
        if not resident or operator not in self.weights:
            again = operator in self.weights
            self.weights[operator] = self.machine.load_weights(operator, self.placed, again=again)
        for row in range(self.made[operator], stop):
            self._make(operator, row)

    def _make(self, operator: int, row: int) -> None:
        record = self.problem.operators[operator]
        operands = [self._operand(operator, tensor, row) for tensor in record.inputs]
        values = self.machine.kernels.row(operator, row, operands, self.weights[operator])
        read = {
            tensor: (first, first + self._count(tensor, rows))
            for tensor, (first, rows) in zip(record.inputs, operands, strict=True)
            if not self._stays_off_chip(operator, tensor)
        }
        self.machine.observer.computes(operator, row, read, self.placed)
        tensor = self.problem.tensors[record.output]
        shape = [1 if axis == tensor.row_axis else extent for axis, extent in enumerate(tensor.shape)]
        values = values.reshape(shape)
        self.machine.write_row(record.output, row, values)
        if record.output in self.piece.stored:
            self.machine.store_row(record.output, row, values, self.placed)

    def _count(self, tensor: int, rows: Array) -> int:
        axis = self.problem.tensors[tensor].row_axis
        return 1 if axis is None else rows.shape[axis]

    def _operand(self, operator: int, tensor: int, row: int) -> tuple[int, Array]:
        machine, rows = self.machine, self.maps[operator][tensor]
        axis = self.problem.tensors[tensor].row_axis or 0
        first, stop = rows.first(row), rows.needed(row + 1)
        if self._stays_off_chip(operator, tensor):
            values = machine.off_chip[tensor]
            return first, np.take(values, range(first, stop), axis) if rows.rows_in > 1 else values
        if tensor not in self.results and tensor not in self.piece.whole:
            for arriving in range(self.arrived.get(tensor, 0), stop):
                machine.observer.loads(tensor, arriving, self.placed)
                machine.load_row(tensor, arriving)
            self.arrived[tensor] = max(self.arrived.get(tensor, 0), stop)
        if first >= stop:
            return first, np.zeros(
                [0 if a == axis else n for a, n in enumerate(self.problem.tensors[tensor].shape)], np.int64
            )
        return first, np.concatenate([machine.read_row(tensor, index) for index in range(first, stop)], axis=axis)

    def _stays_off_chip(self, operator: int, tensor: int) -> bool:
        """Whether a part lies off-chip, of a concatenation that is only wanted there: no transfer is needed."""
        record = self.problem.operators[operator]
        if tensor not in parts(self.problem, record) or tensor in self.results or tensor in self.piece.whole:
            return False
        readers = [o for o in self.operators if tensor in self.maps[o]]
        wanted = record.output in self.piece.whole or any(record.output in self.maps[o] for o in self.operators)
        return (
            readers == [operator]
            and not wanted
            and record.output in self.piece.stored
            and tensor in self.machine.complete
        )
