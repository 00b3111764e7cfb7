"""The commands of a program, taken down while the simulator takes its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from .bands import Interval, cell_bytes, weight_share
from .cells import BandView
from .commands import Command, Move, OffChip, Purpose
from .kernels import element_bytes
from .observer import Observer
from .program import Piece, Placed, Program
from .rows import all_there
from .transfers import moves_of

ALIGNMENT_BYTES = 16
"""Of what lies off-chip, and of the halves of the buffer through which weights pass."""


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
    share: Interval = (0, 0)


class Notes(Observer):
    """Commands as the simulator takes its steps."""

    def __init__(self, program: Program, off_chip: OffChip) -> None:
        self.program, self.problem, self.off_chip = program, program.problem, off_chip
        self.commands: list[Command] = []
        self.number = -1
        self._visit: _Visit | None = None
        self._fetched: dict[int, list[int]] = {}
        self._placed: Placed | None = None
        self._row_loads: dict[int, list[int]] = {}
        self._band: BandView | None = None
        self._band_number = 0
        self._loaded: dict[int, int] = {}

    # ------------------------------------------------------------------------------------------ steps
    def range_starts(self, number: int) -> None:
        """Partial reads are charged by whole rows, complete ones by the size of the tensor."""
        self.flush()
        self._charge()
        self.number, self._band, self._band_number, self._loaded = number, None, 0, {}

    def band_starts(self, number: int, band: BandView) -> None:
        """What follows moves and makes windows; of network inputs, what bands before had comes again."""
        self.flush()
        if self._band is not None:
            for tensor, (_, high) in self._band.windows.items():
                self._loaded[tensor] = max(self._loaded.get(tensor, 0), high)
        self._band, self._band_number = band, number

    def visits(self, operator: int, first: int, stop: int, placed: Placed) -> None:
        """Everything up to the next visit belongs together."""
        self.flush()
        self._visit = _Visit(operator, first, stop, placed)
        record = self.problem.operators[operator]
        self._visit.share = (0, record.weight_bytes)
        if self._band is not None:
            result = self.problem.tensors[record.output]
            window = self._band.windows[record.output]
            self._visit.share = weight_share(record, result, self._band.axis, window)

    def loads(self, tensor: int, row: int, placed: Placed) -> None:
        """Before the first visit of a range: whole tensors."""
        target = self._fetched if self._visit is None else self._visit.loads
        self._placed = placed
        target.setdefault(tensor, []).append(row)

    def loads_weights(self, operator: int, placed: Placed, share: Interval, *, again: bool) -> None:
        """Of the current visit."""
        del operator, placed, share
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
        source = self.problem.tensors[tensor]
        purpose: Purpose = "input" if source.role == "input" else "spill_read"
        if self._band is None:
            moves = self._moves(tensor, rows, placed)
            self._row_loads.setdefault(tensor, []).append(len(self.commands))
            self.commands.append(Command("load", purpose, tensor, rows[0], len(rows), self.number, 0, moves))
            return
        low, high = self._band.windows[tensor]
        border = min(max(self._loaded.get(tensor, 0), low), high) if purpose == "input" else low
        windows: tuple[tuple[Interval, Purpose], ...] = (((low, border), "spill_read"), ((border, high), purpose))
        for window, why in windows:
            if window[0] < window[1]:
                self._load_window(tensor, rows, placed, window, why)

    def _load_window(self, tensor: int, rows: list[int], placed: Placed, window: Interval, purpose: Purpose) -> None:
        assert self._band is not None
        cell = cell_bytes(self.problem.tensors[tensor], self._band.axis) or 0
        moves = self._moves(tensor, rows, placed, window)
        size = len(rows) * (window[1] - window[0]) * cell
        self._transfer("load", purpose, tensor, rows, size, moves, window)

    def _transfer(
        self,
        kind: Literal["load", "store"],
        purpose: Purpose,
        tensor: int,
        rows: Sequence[int],
        size: int,
        moves: tuple[Move, ...],
        window: Interval | None,
    ) -> None:
        band = self._band_number
        self.commands.append(
            Command(kind, purpose, tensor, rows[0], len(rows), self.number, size, moves, band=band, window=window)
        )

    def _moves(self, tensor: int, rows: list[int], placed: Placed, window: Interval | None = None) -> tuple[Move, ...]:
        source, home = self.problem.tensors[tensor], self.off_chip.tensors[tensor]
        return moves_of(source, rows, placed.pieces[tensor], home, self.program.offsets, self._band, window)

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
            "compute",
            "compute",
            visit.operator,
            visit.first,
            visit.stop - visit.first,
            self.number,
            0,
            (),
            tuple(reads),
            tuple(writes),
            band=self._band_number,
            window=None if self._band is None else self._band.windows[operator.output],
        )
        if operator.weight_bytes == 0:
            self.commands.append(base)
        elif visit.operator in visit.placed.weights:
            start = self.program.offsets[visit.placed.weights[visit.operator]]
            if visit.weights is not None:
                self._load_weights(visit, start, 0, visit.share[1] - visit.share[0])
            own = (start, start + visit.share[1] - visit.share[0])
            self.commands.append(replace(base, reads=(*base.reads, own)))
        else:
            self._streamed(visit, base)

    def _streamed(self, visit: _Visit, base: Command) -> None:
        """Pieces of weights alternate between the halves of their buffer, each with its share of the computation."""
        total = visit.share[1] - visit.share[0]
        name = visit.placed.stream
        size = self.program.buffers[name].size_bytes if name else total
        start = self.program.offsets[name] if name else None
        half = size if total <= size or size < 2 * ALIGNMENT_BYTES else size // 2 // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        pieces = math.ceil(total / half)
        for piece in range(pieces):
            length = min(half, total - piece * half)
            at = None if start is None else start + (piece % 2) * half if 2 * half <= size else start
            self._load_weights(visit, at, piece * half, length)
            reads = base.reads if at is None else (*base.reads, (at, at + length))
            self.commands.append(replace(base, reads=reads, part=(piece, pieces)))

    def _load_weights(self, visit: _Visit, at: int | None, skipped: int, length: int) -> None:
        source = self.off_chip.weights[visit.operator] + visit.share[0] + skipped
        moves = () if at is None else (Move(at, source, 1, length, length, length),)
        assert visit.weights is not None
        self.commands.append(
            Command("load", visit.weights, visit.operator, 0, 1, self.number, length, moves, band=self._band_number)
        )

    def _store(self, visit: _Visit) -> None:
        if not visit.stores:
            return
        tensor, _, there = visit.stores[0]
        rows = [row for _, row, _ in visit.stores]
        fresh = None if self._band is None else self._band.fresh[tensor]
        if fresh is not None and fresh[0] >= fresh[1]:
            return
        purpose: Purpose = "output" if self.problem.tensors[tensor].role == "output" else "spill_write"
        size = sum(
            self._bytes_of(tensor, row, fresh) - sum(self._bytes_of(t, row, fresh) for t in there)
            for row in rows
            if not all_there(self.problem, tensor, there)
        )
        moves = self._leaving(visit, tensor, rows, there, fresh)
        self._transfer("store", purpose, tensor, rows, size, moves, fresh)

    def _bytes_of(self, tensor: int, row: int, fresh: Interval | None) -> int:
        source = self.problem.tensors[tensor]
        if fresh is None or self._band is None:
            return _share(source.size_bytes, source.rows, row)
        return (fresh[1] - fresh[0]) * (cell_bytes(source, self._band.axis) or 0)

    def _leaving(
        self, visit: _Visit, tensor: int, rows: list[int], there: tuple[int, ...], fresh: Interval | None
    ) -> tuple[Move, ...]:
        """Moves of stored rows; those of a concatenation that is not on chip come from its parts."""
        pieces, home = visit.placed.pieces[tensor], self.off_chip.tensors[tensor]
        operator = self.problem.operators[visit.operator]
        if not there and all(store.rows for store, _, _ in pieces):
            return self._moves(tensor, rows, visit.placed, fresh)
        moves: list[Move] = []
        first = 0
        width = element_bytes(self.problem.tensors[tensor])
        for part in operator.inputs:
            channels = self.problem.tensors[part].shape[-1]
            if part not in there:
                base, row, position = home
                inside = (base + first * width, row, position)
                source, at = self.problem.tensors[part], visit.placed.pieces[part]
                moves += moves_of(source, rows, at, inside, self.program.offsets, self._band, fresh)
            first += channels
        return tuple(moves)

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


def _share(size: int, rows: int, row: int) -> int:
    return (row + 1) * size // rows - row * size // rows
