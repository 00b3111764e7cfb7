"""Executes a list of commands in the order in which they begin and end on a machine, and counts its cycles.

The time is counted by :mod:`..timing.replay`, not by the model that predicted it. Nothing trusts the commands' needs:
a load poisons its destination when it begins and brings its bytes when it ends; a computation reads its operands when
it begins and again when it ends, and both must be equal; so does a store. A command that begins too early, or memory
that is given away too early, gives other results or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import ScheduleError
from ...ir.machine import Machine
from ..timing.replay import Watcher, replay
from .bands import axis_of, weight_share
from .cells import POISON, BandView, cropped, part_of_row, widened, window_of
from .commands import Command, Listing, Move
from .cycles import events_of
from .kernels import Array, element_bytes
from .observer import Kernels
from .program import Piece, Placed, row_positions
from .rows import operand_maps
from .schedule import Traffic
from .simulator import INTEGERS

Trace = Callable[[int, bytes, bytes], None]
"""Position of a computation, the bytes that it read, the bytes of its result's rows afterwards."""


@dataclass(frozen=True)
class Execution:
    """What commands really did.

    Attributes:
        outputs: tensor -> values delivered.
        traffic: bytes moved, by purpose.
        peak_bytes: end of the highest address on chip that was touched.
        cycles: until the last command ended; ``None`` where no machine gave a time.
        image: the memory behind the scratchpad at the end.
    """

    outputs: dict[int, Array]
    traffic: Traffic
    peak_bytes: int
    cycles: int | None
    image: NDArray[np.uint8]


def execute(
    listing: Listing,
    kernels: Kernels,
    machine: Machine | None = None,
    dtypes: Sequence[str] = (),
    trace: Trace | None = None,
) -> Execution:
    """Runs the commands on real values.

    Args:
        listing: of commands.
        kernels: values and arithmetic.
        machine: whose time decides what happens first; without one, commands run one after the other.
        dtypes: per operator, see :func:`~.cycles.events_of`.
        trace: told what every computation read and wrote.

    Raises:
        ScheduleError: a command read bytes while they changed.
    """
    memory = _Memory(listing, kernels, trace)
    if machine is None:
        for place in range(len(listing.commands)):
            memory.begins(place, 0)
            memory.ends(place, 0)
        return Execution(memory.outputs(), memory.traffic(), memory.peak, None, memory.behind)
    cycles = replay(machine, events_of(listing, dtypes), memory)
    return Execution(memory.outputs(), memory.traffic(), memory.peak, cycles, memory.behind)


def off_chip_image(listing: Listing, kernels: Kernels) -> NDArray[np.uint8]:
    """The memory behind the scratchpad before the first command: constants and what inputs the kernels have."""
    return _Memory(listing, kernels).behind


@dataclass
class _Memory(Watcher):
    listing: Listing
    kernels: Kernels
    trace: Trace | None = None
    peak: int = 0
    bytes: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        program = self.listing.program
        self.problem = program.problem
        self.chip: NDArray[np.uint8] = np.full(program.height_bytes, POISON, np.uint8)
        self.behind: NDArray[np.uint8] = np.zeros(self.listing.off_chip.size_bytes, np.uint8)
        self.seen: dict[int, bytes] = {}
        self._arriving: list[NDArray[np.uint8]] = []
        for operator, address in self.listing.off_chip.weights.items():
            data = self.kernels.weights(operator)
            self.behind[address : address + len(data)] = data
        for tensor, values in self.kernels.inputs().items():
            for row in range(self.problem.tensors[tensor].rows):
                self._give(tensor, row, values)

    def begins(self, place: int, cycle: int) -> None:
        """Poison where a load will write, a look at what a store or a computation reads."""
        del cycle
        command = self.listing.commands[place]
        if command.kind == "load":
            for move in command.moves:
                self.chip[_places(move, on_chip=True)] = POISON
        else:
            self.seen[place] = self._read(command)

    def ends(self, place: int, cycle: int) -> None:
        """The command takes effect."""
        del cycle
        command = self.listing.commands[place]
        for (_, stop), _ in command.touched():
            self.peak = max(self.peak, stop)
        if command.kind != "compute":
            self.bytes[command.purpose] = self.bytes.get(command.purpose, 0) + command.size_bytes
        if command.kind == "load":
            for move in command.moves:
                self.chip[_places(move, on_chip=True)] = self.behind[_places(move, on_chip=False)]
            return
        if self._read(command) != self.seen.pop(place):
            raise ScheduleError(
                f"command {place} ({command.purpose} of {self._name(command)}): expected its operands to stay while it "
                f"runs, found other bytes at its end; report this"
            )
        if command.kind == "store":
            for move in command.moves:
                self.behind[_places(move, on_chip=False)] = self.chip[_places(move, on_chip=True)]
        else:
            seen = self._read(command)
            self._compute(command)
            if self.trace is not None:
                written = b"".join(self.chip[first:stop].tobytes() for first, stop in command.writes)
                self.trace(place, seen, written)

    def traffic(self) -> Traffic:
        """By purpose."""
        names = ("spill_write", "spill_read", "weight_reread", "input", "output", "weight")
        return Traffic(*(self.bytes.get(name, 0) for name in names))

    def outputs(self) -> dict[int, Array]:
        """Delivered values."""
        found = (t for t, tensor in enumerate(self.problem.tensors) if tensor.role == "output")
        return {t: self._delivered(t) for t in found}

    # ------------------------------------------------------------------------------------------ commands
    def _name(self, command: Command) -> str:
        one = self.problem.operators if command.kind == "compute" else self.problem.tensors
        return one[command.subject].name

    def _read(self, command: Command) -> bytes:
        """What a store or a computation reads."""
        parts = [self.chip[first:stop] for first, stop in command.reads]
        if command.kind == "store":
            parts = [self.chip[_places(move, on_chip=True)] for move in command.moves]
        return b"".join(part.tobytes() for part in parts)

    def _compute(self, command: Command) -> None:
        """A computation whose weights come in pieces gathers them; its last piece makes the rows."""
        piece, pieces = command.part
        placed = self.listing.program.ranges[command.range_number]
        band = placed.bands[command.band] if placed.bands else None
        weights = self._weights(command, placed)
        if piece + 1 < pieces:
            return
        operator = self.problem.operators[command.subject]
        maps = operand_maps(self.problem, operator)
        for row in range(command.first, command.first + command.rows):
            spans = [(maps[t].first(row), maps[t].needed(row + 1)) for t in operator.inputs]
            operands = [
                (a, self._rows(t, placed, a, b, band)) for t, (a, b) in zip(operator.inputs, spans, strict=True)
            ]
            values = self.kernels.row(command.subject, row, operands, weights)
            self._write(operator.output, placed.pieces[operator.output], row, values, band)

    def _weights(self, command: Command, placed: Placed) -> NDArray[np.uint8]:
        """Constants of a computation; poison where its band does not need them."""
        operator = self.problem.operators[command.subject]
        size = operator.weight_bytes
        if not size:
            return np.zeros(0, np.uint8)
        share = (0, size)
        if placed.bands and command.window is not None:
            result, axis = self.problem.tensors[operator.output], placed.bands[command.band].axis
            share = weight_share(operator, result, axis, command.window)
        there = self._held_weights(command, placed, share)
        if share == (0, size) or len(there) < share[1] - share[0]:
            return there
        full = np.full(size, POISON, np.uint8)
        full[slice(*share)] = there
        return full

    def _held_weights(self, command: Command, placed: Placed, share: tuple[int, int]) -> NDArray[np.uint8]:
        """What is there of the bytes ``[first, stop)``: pieces that pass through a buffer are gathered."""
        if command.subject in placed.weights:
            start = self.listing.program.offsets[placed.weights[command.subject]]
            return self.chip[start : start + share[1] - share[0]].copy()
        if not placed.stream:
            address = self.listing.off_chip.weights[command.subject]
            return self.behind[address + share[0] : address + share[1]].copy()
        if command.part[0] == 0:
            self._arriving = []
        first, stop = command.reads[-1]
        self._arriving.append(self.chip[first:stop].copy())
        return np.concatenate(self._arriving)

    # ------------------------------------------------------------------------------------------ rows
    def _rows(self, tensor: int, placed: Placed, first: int, stop: int, band: BandView | None = None) -> Array:
        """Rows of an operand with all columns and channels, poison outside the window of a band."""
        source = self.problem.tensors[tensor]
        pieces = placed.pieces[tensor]
        on_chip = all(store.rows for store, _, _ in pieces)
        if first >= stop:
            return np.zeros([0 if a == source.row_axis else n for a, n in enumerate(source.shape)], np.int64)
        axis = source.row_axis or 0
        if not on_chip:
            return np.concatenate([self._row_behind(tensor, row) for row in range(first, stop)], axis=axis)
        read = np.concatenate([self._row(tensor, pieces, row, band) for row in range(first, stop)], axis=axis)
        if band is None:
            return read
        return widened(read, source, band.axis, window_of(band, tensor, source), element_bytes(source))

    def _row(self, tensor: int, pieces: Sequence[Piece], row: int, band: BandView | None = None) -> Array:
        found = [self._part(tensor, piece, row, band).astype(np.int64) for piece in pieces]
        shape, source = self._shape(tensor), self.problem.tensors[tensor]
        window = window_of(band, tensor, source)
        if window is not None and band is not None:
            shape[axis_of(source, band.axis) or 0] = window[1] - window[0]
        return np.concatenate(found, axis=2).reshape(shape)

    def _part(self, tensor: int, piece: Piece, row: int, band: BandView | None) -> NDArray[np.signedinteger]:
        store, start, stop = piece
        source = self.problem.tensors[tensor]
        held = self._view(store.name, row % store.rows * store.row_bytes, store.row_bytes, store.item_bytes)
        held = held.reshape(store.positions, store.channels)
        return part_of_row(held, source, band, store.name, (start, stop), window_of(band, tensor, source))

    def _write(
        self, tensor: int, pieces: Sequence[Piece], row: int, values: Array, band: BandView | None = None
    ) -> None:
        source, first = self.problem.tensors[tensor], 0
        if band is not None:
            values = cropped(values.reshape(self._shape(tensor)), source, band.axis, window_of(band, tensor, source))
        for piece in pieces:
            if piece[0].rows:
                part = self._part(tensor, piece, row, band)
                part[...] = values.reshape(*part.shape[:2], -1)[..., first : first + part.shape[-1]]
            first += piece[2] - piece[1]

    def _view(self, name: str, first: int, size: int, width: int) -> NDArray[np.signedinteger]:
        start = self.listing.program.offsets[name] + first
        return self.chip[start : start + size].view(INTEGERS[width])

    def _shape(self, tensor: int) -> list[int]:
        source = self.problem.tensors[tensor]
        return [1 if axis == source.row_axis else extent for axis, extent in enumerate(source.shape)]

    def _behind(self, tensor: int, row: int) -> tuple[NDArray[np.signedinteger], int]:
        """A row of a tensor off-chip as positions x channels of what it lies in, and its own channels."""
        source = self.problem.tensors[tensor]
        base, row_bytes, position = self.listing.off_chip.tensors[tensor]
        width, count = element_bytes(source), row_positions(source)
        places = base + row * row_bytes + np.arange(count)[:, None] * position + np.arange(source.shape[-1] * width)
        return places, width

    def _row_behind(self, tensor: int, row: int) -> Array:
        places, width = self._behind(tensor, row)
        found = np.ascontiguousarray(self.behind[places]).view(INTEGERS[width])
        return found.astype(np.int64).reshape(self._shape(tensor))

    def _give(self, tensor: int, row: int, values: Array) -> None:
        """An input, where the network finds it."""
        source = self.problem.tensors[tensor]
        taken = values if source.row_axis is None else np.take(values, [row], source.row_axis)
        if tensor not in self.listing.off_chip.tensors:
            if self.listing.program.ranges and tensor in self.listing.program.ranges[0].pieces:
                self._write(tensor, self.listing.program.ranges[0].pieces[tensor], row, taken)
            return
        places, width = self._behind(tensor, row)
        flat = taken.reshape(len(places), -1).astype(INTEGERS[width])
        self.behind[places] = flat.view(np.uint8).reshape(places.shape)

    def _delivered(self, tensor: int) -> Array:
        source = self.problem.tensors[tensor]
        if tensor in self.listing.off_chip.tensors:
            rows = [self._row_behind(tensor, row) for row in range(source.rows)]
        else:
            last = next(p.pieces[tensor] for p in reversed(self.listing.program.ranges) if tensor in p.pieces)
            rows = [self._row(tensor, last, row) for row in range(source.rows)]
        return np.concatenate(rows, axis=source.row_axis or 0).reshape(source.shape)


def _places(move: Move, *, on_chip: bool) -> NDArray[np.intp] | slice:
    """Addresses of a move on one side."""
    start, stride = (move.on_chip, move.on_stride) if on_chip else (move.off_chip, move.off_stride)
    if move.blocks == 1:
        return slice(start, start + move.block_bytes)
    return (start + np.arange(move.blocks)[:, None] * stride + np.arange(move.block_bytes)).reshape(-1)
