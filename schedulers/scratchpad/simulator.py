"""Executes a program on real numbers in a byte-addressed scratchpad, and counts what crosses its border.

Everything on chip lives in one array of bytes at the program's addresses. Memory is poisoned where a buffer ends, so
that whatever reads what is no longer there gives another result. Off-chip memory holds copies of tensors and the
weights. The results are compared with :func:`evaluate`, which computes every operator once on whole tensors.

What an operator computes is up to :class:`Kernels`; values are the bits of elements, as signed integers of their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bands import Interval, axis_of, cell_bytes, weight_share
from .cells import POISON, BandView, cropped, part_of_row, widened, window_of
from .kernels import Array, compute, compute_row, element_bytes, weights_of
from .observer import Kernels, Observer
from .problem import Problem, Tensor
from .program import Piece, Placed, Program
from .rows import all_there, operand_maps, parts, stripe_targets
from .schedule import Range, Traffic

INTEGERS = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


@dataclass(frozen=True)
class Run:
    """Outputs by the position of their tensor, and the bytes that were moved."""

    outputs: Mapping[int, Array]
    traffic: Traffic


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
        self.band: BandView | None = None
        self.seen: dict[int, NDArray[np.bool_]] = {}
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
        self.loaded, self.seen, self.band = {}, {}, None
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
        """Puts one row, or its window in the band that runs, into the scratchpad, channel piece by channel piece."""
        first = 0
        for store, start, stop in self.pieces[tensor]:
            if store.rows:
                part = self._part(tensor, (store, start, stop), row)
                width = part.shape[-1]
                part[...] = values.reshape(*part.shape[:2], -1)[..., first : first + width]
            first += stop - start

    def read_row(self, tensor: int, row: int) -> Array:
        """One row from the scratchpad, with the axes of its tensor; in a band its window."""
        source = self.problem.tensors[tensor]
        found = [self._part(tensor, piece, row).astype(np.int64) for piece in self.pieces[tensor]]
        shape = [1 if axis == source.row_axis else extent for axis, extent in enumerate(source.shape)]
        window = window_of(self.band, tensor, source)
        if window is not None and self.band is not None:
            shape[axis_of(source, self.band.axis) or 0] = window[1] - window[0]
        return np.concatenate(found, axis=2).reshape(shape)

    def _part(self, tensor: int, piece: Piece, row: int) -> NDArray[np.signedinteger]:
        store, start, stop = piece
        source = self.problem.tensors[tensor]
        held = self._row(store.name, store.rows, store.row_bytes, row, store.item_bytes)
        held = held.reshape(store.positions, store.channels)
        return part_of_row(held, source, self.band, store.name, (start, stop), window_of(self.band, tensor, source))

    def _row(self, name: str, rows: int, row_bytes: int, row: int, item_bytes: int) -> NDArray[np.signedinteger]:
        start = self.program.offsets[name] + row % rows * row_bytes
        return self.memory[start : start + row_bytes].view(INTEGERS[item_bytes])

    def load_row(self, tensor: int, row: int) -> None:
        """Reads one row from off-chip into its line buffer; in a band its window."""
        source = self.problem.tensors[tensor]
        values = self.off_chip[tensor]
        values = values if source.row_axis is None else np.take(values, [row], source.row_axis)
        if self.band is None:
            self.loaded[tensor] = self.loaded.get(tensor, 0) + 1
        else:
            values = self._count_window(tensor, row, values, self.band)
        self.write_row(tensor, row, values)

    def _count_window(self, tensor: int, row: int, values: Array, band: BandView) -> Array:
        """The window of a row; elements that a band before has loaded count as read again."""
        source = self.problem.tensors[tensor]
        low, high = window_of(band, tensor, source) or (0, 1)
        seen = self.seen.setdefault(tensor, np.zeros((source.rows, high if high > 1 else 1), np.bool_))
        if seen.shape[1] < high:
            seen = self.seen[tensor] = np.pad(seen, ((0, 0), (0, high - seen.shape[1])))
        cell = cell_bytes(source, band.axis) or 0
        again = int(seen[row, low:high].sum())
        seen[row, low:high] = True
        self._count_read(tensor, (high - low - again) * cell)
        self.bytes["spill_read"] += again * cell
        return cropped(values, source, band.axis, window_of(band, tensor, source))

    def store_row(self, tensor: int, row: int, values: Array, placed: Placed) -> None:
        """Writes one row off-chip, except for parts of a concatenation that are there already.

        In a band: what no band before has made.
        """
        source = self.problem.tensors[tensor]
        if tensor not in self.off_chip:
            self.off_chip[tensor] = np.zeros(source.shape, dtype=np.int64)
        place = [slice(row, row + 1) if axis == source.row_axis else slice(None) for axis in range(values.ndim)]
        made = self.problem.producer[tensor]
        inside = () if made is None else parts(self.problem, self.problem.operators[made])
        there = [t for t in inside if t in self.off_chip]
        self.observer.stores(tensor, row, there, placed)
        fresh = None if self.band is None else self.band.fresh[tensor]
        if fresh is not None and self.band is not None:
            axis, low = axis_of(source, self.band.axis) or 0, self.band.windows[tensor][0]
            place[axis] = slice(*fresh)
            values = np.take(values, range(fresh[0] - low, fresh[1] - low), axis)
        self.off_chip[tensor][tuple(place)] = values
        moved = self._share(tensor, row, fresh) - sum(self._share(t, row, fresh) for t in there)
        left = not all_there(self.problem, tensor, there)
        self.bytes["output" if source.role == "output" else "spill_write"] += moved if left else 0

    def _share(self, tensor: int, row: int, fresh: Interval | None) -> int:
        """Bytes of a row, or of some columns or channels of it."""
        source = self.problem.tensors[tensor]
        if fresh is None or self.band is None:
            return _share(source, row)
        return (fresh[1] - fresh[0]) * (cell_bytes(source, self.band.axis) or 0)

    def load_weights(self, operator: int, placed: Placed, share: Interval, *, again: bool) -> NDArray[np.uint8]:
        """Constants of an operator: into their own buffer, or piece by piece through the stream.

        ``share`` are the bytes that the band needs; the others are poison in what is returned.
        """
        constants = self.kernels.weights(operator)
        data = constants[slice(*share)]
        if len(data):
            self.observer.loads_weights(operator, placed, share, again=again)
        self.bytes["weight_reread" if again else "weight"] += len(data)
        if len(data) == len(constants):
            return self._brought(operator, placed, data)
        full = np.full_like(constants, POISON)
        full[slice(*share)] = self._brought(operator, placed, data)
        return full

    def _brought(self, operator: int, placed: Placed, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
        self.weights: dict[int, tuple[Interval, NDArray[np.uint8]]] = {}
        self.results = {self.problem.operators[o].output for o in operators}

    def run(self) -> None:
        """All bands with all their stripes."""
        for number, band in enumerate(self.placed.bands or (None,)):
            self.machine.band = band
            self.made, self.arrived = dict.fromkeys(self.operators, 0), {}
            if band is not None:
                self.machine.observer.band_starts(number, band)
            self._run_stripes()

    def _run_stripes(self) -> None:
        last = self.problem.tensors[self.problem.operators[self.operators[-1]].output].rows
        for stripe in range(1, -(-last // self.piece.stripe_rows) + 1):
            target = stripe_targets(self.problem, self.operators, stripe, self.piece.stripe_rows, self.made)
            for operator in self.operators:
                if target[operator] > self.made[operator]:
                    self._work(operator, target[operator])
                self.made[operator] = target[operator]

    def _work(self, operator: int, stop: int) -> None:
        self.machine.observer.visits(operator, self.made[operator], stop, self.placed)
        share = self._weight_share(operator)
        known = self.weights.get(operator)
        if operator not in self.placed.weights or known is None or known[0] != share:
            again = known is not None and known[0] == share
            self.weights[operator] = (share, self.machine.load_weights(operator, self.placed, share, again=again))
        for row in range(self.made[operator], stop):
            self._make(operator, row)

    def _weight_share(self, operator: int) -> Interval:
        record, band = self.problem.operators[operator], self.machine.band
        if band is None:
            return 0, record.weight_bytes
        return weight_share(record, self.problem.tensors[record.output], band.axis, band.windows[record.output])

    def _make(self, operator: int, row: int) -> None:
        record, band = self.problem.operators[operator], self.machine.band
        operands = [self._operand(operator, tensor, row) for tensor in record.inputs]
        values = self.machine.kernels.row(operator, row, operands, self.weights[operator][1])
        read = {
            tensor: (first, first + self._count(tensor, rows))
            for tensor, (first, rows) in zip(record.inputs, operands, strict=True)
            if not self._stays_off_chip(operator, tensor)
        }
        self.machine.observer.computes(operator, row, read, self.placed)
        tensor = self.problem.tensors[record.output]
        shape = [1 if axis == tensor.row_axis else extent for axis, extent in enumerate(tensor.shape)]
        values = values.reshape(shape)
        if band is not None:
            values = cropped(values, tensor, band.axis, window_of(band, record.output, tensor))
        self.machine.write_row(record.output, row, values)
        if record.output in self.piece.stored:
            self.machine.store_row(record.output, row, values, self.placed)

    def _count(self, tensor: int, rows: Array) -> int:
        axis = self.problem.tensors[tensor].row_axis
        return 1 if axis is None else rows.shape[axis]

    def _operand(self, operator: int, tensor: int, row: int) -> tuple[int, Array]:
        machine, rows = self.machine, self.maps[operator][tensor]
        source, band = self.problem.tensors[tensor], self.machine.band
        axis = source.row_axis or 0
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
            return first, np.zeros([0 if a == axis else n for a, n in enumerate(source.shape)], np.int64)
        values = np.concatenate([machine.read_row(tensor, index) for index in range(first, stop)], axis=axis)
        if band is None:
            return first, values
        return first, widened(values, source, band.axis, window_of(band, tensor, source), element_bytes(source))

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
