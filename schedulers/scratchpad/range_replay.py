"""One range, replayed row by row: what :mod:`.checker` does between two borders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .bands import (
    Interval,
    band_windows,
    cell_bytes,
    covered,
    extent_of,
    uncovered,
    weight_blocks,
    weight_share,
    widest,
)  # fmt: skip
from .problem import Problem
from .rows import operand_maps, overwritable, stripe_targets
from .schedule import Axis, Range, Schedule


class Chip(Protocol):
    """What a range finds and leaves; see :class:`~.checker.Machine`."""

    problem: Problem
    schedule: Schedule
    whole: set[int]
    copies: set[int]
    bytes: dict[str, int]
    each_stripe: Callable[[], None]

    def needed_after(self, tensor: int, position: int) -> bool:
        """Whether the tensor must be somewhere after the operator before this position."""
        ...

    def count_read(self, tensor: int, size: int) -> None:
        """Bytes of a tensor that come from off-chip."""
        ...

    def parts(self, operator: int) -> tuple[int, ...]:
        """Operands of a concatenation that may be pieces of it."""
        ...

    def name(self, tensor: int) -> str:
        """For messages."""
        ...


class RangeReplay:
    """One range while it runs: rows on chip per tensor, what shares memory, what was read and written."""

    def __init__(self, machine: Chip, piece: Range) -> None:
        self.machine, self.piece = machine, piece
        problem = self.problem = machine.problem
        self.operators = machine.schedule.order[piece.start : piece.stop]
        self.maps = {operator: operand_maps(problem, problem.operators[operator]) for operator in self.operators}
        self.result = {operator: problem.operators[operator].output for operator in self.operators}
        self.made = dict.fromkeys(self.operators, 0)
        self.visits = dict.fromkeys(self.operators, 0)
        self.whole = set(piece.whole)
        self.rows: dict[int, set[int]] = {}
        self.read: dict[int, int] = {}
        self.slots = _slots(problem, self.operators, piece.in_place)
        self.most: dict[int, int] = {}
        self.bands = self._bands()
        self.weights_read = dict.fromkeys(self.operators, 0)
        self.windows_read: dict[int, list[Interval]] = {}
        for tensor in self.whole & (machine.whole | set(piece.fetched)) & self.slots.keys():
            self.rows[tensor] = set(range(problem.tensors[tensor].rows))

    def _bands(self) -> list[dict[int, Interval]]:
        """Windows of every tensor per band; one band without any where the range is not cut, none if it cannot be."""
        if self.piece.band is None:
            return [{}]
        return [] if self.machine.schedule.atomic else band_windows(self.problem, self.operators, self.piece.band) or []

    def pair_violations(self) -> list[str]:
        """In-place pairs that the operators do not allow, or whose guest is needed later; bands that do not exist."""
        wrong = [] if self.bands else [f"expected operators that run in bands, found {self.piece.band}"]
        guests = [guest for guest, _ in self.piece.in_place]
        for guest, host in self.piece.in_place:
            maker = next((operator for operator in self.operators if self.result[operator] == host), None)
            allowed = () if maker is None else self._may_share(maker)
            if guest not in allowed or guests.count(guest) > 1:
                wrong.append(f"{self.machine.name(guest)}: expected an operand that {self.machine.name(host)} may hold")
            elif guest in self.whole and self.machine.needed_after(guest, self.piece.stop):
                wrong.append(f"{self.machine.name(guest)}: expected no later reader of what is overwritten")
            elif self.piece.band is not None and self._shares_whole(guest):
                wrong.append(f"{self.machine.name(guest)}: expected nothing whole to share its memory in bands")
        return wrong

    def _shares_whole(self, guest: int) -> bool:
        """Whether something that is whole lies in the same memory: another band would need what is overwritten."""
        mine = self.slots[guest].keys()
        return any(tensor in self.whole for tensor, slots in self.slots.items() if not mine.isdisjoint(slots))

    def _may_share(self, operator: int) -> tuple[int, ...]:
        if self.machine.schedule.atomic:
            return ()
        return (*overwritable(self.problem, self.problem.operators[operator]), *self.machine.parts(operator))

    def run(self) -> list[str]:
        """All bands with all their stripes; stops at the first row that is missing."""
        last = self.problem.tensors[self.result[self.operators[-1]]].rows
        if self.piece.stripe_rows < min(self.machine.schedule.min_rows, last):
            return [f"expected at least {self.machine.schedule.min_rows} rows per stripe"]
        for windows in self.bands:
            wrong = self._begin(windows) or self._run_stripes(-(-last // self.piece.stripe_rows), windows)
            if wrong:
                return wrong
        self._account()
        return []

    def _begin(self, windows: Mapping[int, Interval]) -> list[str]:
        """A band begins with nothing but what is whole from before; what its operators need must be in its windows."""
        self.made = dict.fromkeys(self.operators, 0)
        self.read = {}
        lines = [t for t in self.rows if t not in self.whole or t in self.result.values()]
        for tensor in lines:
            self.rows[tensor] = set()
        band = self.piece.band
        for operator in self.operators if band is not None else ():
            missing = None if band is None else uncovered(self.problem, operator, band, windows)
            if missing is not None:
                return [f"{self.machine.name(missing)}: expected a window with all that is needed of it"]
        return []

    def _run_stripes(self, stripes: int, windows: Mapping[int, Interval]) -> list[str]:
        for stripe in range(1, stripes + 1):
            self.machine.each_stripe()
            target = stripe_targets(self.problem, self.operators, stripe, self.piece.stripe_rows, self.made)
            for operator in self.operators:
                if target[operator] > self.made[operator]:
                    self._visit(operator, windows)
                for row in range(self.made[operator], target[operator]):
                    wrong = self._make(operator, row)
                    if wrong:
                        return wrong
                self.made[operator] = target[operator]
            self._measure()
            self._forget()
        for tensor, rows in self.read.items():
            self._account_read(tensor, rows, windows.get(tensor))
        return []

    def _visit(self, operator: int, windows: Mapping[int, Interval]) -> None:
        """Weights that do not stay are read in every visit, those that do once, what a band does not need in no one."""
        low, high = self._weights_of(operator, windows)
        once = self.piece.band is None or weight_blocks_of(self.problem, operator, self.piece.band.axis) == 1
        first = (self.visits[operator] if once else self.made[operator]) == 0
        if first or operator not in self.piece.resident_weights:
            self.weights_read[operator] += high - low
        self.visits[operator] += 1

    def _weights_of(self, operator: int, windows: Mapping[int, Interval]) -> Interval:
        record = self.problem.operators[operator]
        if self.piece.band is None:
            return 0, record.weight_bytes
        return weight_share(record, self.problem.tensors[record.output], self.piece.band.axis, windows[record.output])

    def _make(self, operator: int, row: int) -> list[str]:
        for tensor, rows in self.maps[operator].items():
            if self._stays_off_chip(tensor, operator):
                continue
            first, stop = rows.first(row), rows.needed(row + 1)
            if tensor not in self.result.values() and tensor not in self.whole:
                if tensor not in self.machine.copies:
                    return [f"{self.machine.name(tensor)}: expected a copy off-chip to read from, found none"]
                for arriving in range(self.read.get(tensor, 0), stop):
                    self._place(tensor, arriving)
                self.read[tensor] = max(self.read.get(tensor, 0), stop)
            missing = set(range(first, stop)) - self.rows.get(tensor, set())
            if missing:
                name = self.problem.operators[operator].name
                return [f"operator {name!r} row {row}: expected row {min(missing)} of {self.machine.name(tensor)}"]
        self._place(self.result[operator], row)
        return []

    def _place(self, tensor: int, row: int) -> None:
        """Writes a row; what shares its memory loses that row, unless it is a part of this concatenation."""
        self.rows.setdefault(tensor, set()).add(row)
        mine = self.slots[tensor]
        for other, slots in self.slots.items():
            if other != tensor and not mine.keys().isdisjoint(slots) and not self._inside(other, tensor):
                self.rows.get(other, set()).discard(row)

    def _inside(self, part: int, host: int) -> bool:
        """Whether a tensor is a piece of a concatenation, directly or through others."""
        while part != host:
            holder = next((h for guest, h in self.piece.in_place if guest == part), None)
            maker = self.problem.producer[holder] if holder is not None else None
            if holder is None or maker is None or part not in self.machine.parts(maker):
                return False
            part = holder
        return True

    def _stays_off_chip(self, tensor: int, operator: int) -> bool:
        """A part that lies off-chip, of a concatenation that is only wanted there, is in its place already."""
        joined = self.result[operator]
        readers = [reader for reader in self.operators if tensor in self.maps[reader]]
        wanted = joined in self.whole or any(joined in self.maps[reader] for reader in self.operators)
        off_chip = tensor in self.machine.copies and tensor not in self.whole and tensor not in self.result.values()
        return (
            off_chip
            and not wanted
            and joined in self.piece.stored
            and readers == [operator]
            and tensor in self.machine.parts(operator)
        )

    def _measure(self) -> None:
        """Most rows that each slot has held: from the first row to the last, since line buffers are rings."""
        spans: dict[int, tuple[int, int]] = {}
        for tensor, rows in self.rows.items():
            if rows:
                for slot in self.slots[tensor]:
                    low, high = spans.get(slot, (min(rows), max(rows)))
                    spans[slot] = (min(low, *rows), max(high, *rows))
        for slot, (low, high) in spans.items():
            self.most[slot] = max(self.most.get(slot, 0), high - low + 1)

    def _forget(self) -> None:
        """Rows of line buffers that no reader in the range needs any more."""
        for tensor, rows in self.rows.items():
            if tensor in self.whole:
                continue
            readers = [operator for operator in self.operators if tensor in self.maps[operator]]
            needed = (self.maps[reader][tensor].first(self.made[reader]) for reader in readers)
            lowest = min(needed, default=self.problem.tensors[tensor].rows)
            self.rows[tensor] = {row for row in rows if row >= lowest}

    def _account_read(self, tensor: int, rows: int, window: Interval | None) -> None:
        """Rows that a band has read; columns of an input of the network that a band before has read cost again."""
        source = self.problem.tensors[tensor]
        if window is None or self.piece.band is None:
            everything = rows == source.rows
            self.machine.count_read(tensor, source.size_bytes if everything else rows * source.row_bytes)
            return
        cell = rows * (cell_bytes(source, self.piece.band.axis) or 0)
        before = covered(self.windows_read.get(tensor, []))
        self.windows_read.setdefault(tensor, []).append(window)
        fresh = covered(self.windows_read[tensor]) - before
        self.machine.count_read(tensor, fresh * cell)
        self.machine.bytes["spill_read"] += (window[1] - window[0] - fresh) * cell

    def _account(self) -> None:
        for operator in self.operators:
            again = max(self.weights_read[operator] - self.problem.operators[operator].weight_bytes, 0)
            self.machine.bytes["weight_reread"] += again
            if self.result[operator] in self.piece.stored:
                self._account_write(operator)

    def _account_write(self, operator: int) -> None:
        tensor = self.result[operator]
        stored = self.machine.copies | set(self.piece.stored)
        there = [part for part in self.machine.parts(operator) if part in stored]
        size = self.problem.tensors[tensor].size_bytes - sum(self.problem.tensors[part].size_bytes for part in there)
        purpose = "output" if self.problem.tensors[tensor].role == "output" else "spill_write"
        self.machine.bytes[purpose] += max(size, 0)

    def memory_bytes(self) -> int:
        """Slots, resident weights, the buffer for the others, and whole tensors that the range only passes by."""
        sizes: dict[int, int] = {}
        for tensor, slots in self.slots.items():
            for slot, (row_bytes, size) in slots.items():
                line = self._line_bytes(slot, row_bytes, size)
                sizes[slot] = max(sizes.get(slot, 0), size if tensor in self.whole else line)
        passing = sum(self.problem.tensors[t].size_bytes for t in self.whole if t not in self.slots)
        spans = {o: [self._weights_of(o, windows) for windows in self.bands] for o in self.operators}
        weights = {operator: max(high - low for low, high in found) for operator, found in spans.items()}
        resident = sum(weights[operator] for operator in self.piece.resident_weights)
        streamed = max((size for o, size in weights.items() if o not in self.piece.resident_weights), default=0)
        return sum(sizes.values()) + passing + resident + min(self.machine.schedule.stream_buffer_bytes, streamed)

    def _line_bytes(self, slot: int, row_bytes: int, size: int) -> int:
        """A line buffer: the rows that it held at most, of the widest window of all that lies in it."""
        rows = self.most.get(slot, 0)
        if self.piece.band is None:
            return min(rows * row_bytes, size)
        members = [tensor for tensor, slots in self.slots.items() if slot in slots]
        extent = extent_of(self.problem.tensors[slot], self.piece.band.axis)
        return rows * widest(self.bands, members) * (row_bytes // extent)


def weight_blocks_of(problem: Problem, operator: int, axis: Axis) -> int:
    """See :func:`~.bands.weight_blocks`."""
    record = problem.operators[operator]
    return weight_blocks(record, problem.tensors[record.output], axis)


def _slots(
    problem: Problem, operators: Sequence[int], in_place: Sequence[tuple[int, int]]
) -> dict[int, dict[int, tuple[int, int]]]:
    """Per tensor of the range the pieces of memory it occupies: slot -> (bytes per row, bytes of all rows)."""
    touched = dict.fromkeys(t for o in operators for t in (*problem.operators[o].inputs, problem.operators[o].output))
    found: dict[int, dict[int, tuple[int, int]]] = {}
    for tensor in _guests_first(tuple(touched), in_place):
        guests = [guest for guest, host in in_place if host == tensor and guest in found]
        slots = {slot: piece for guest in guests for slot, piece in found[guest].items()}
        rest = problem.tensors[tensor].size_bytes - sum(size for _, size in slots.values())
        if rest > 0 or not slots:
            slots[tensor] = (-(-max(rest, 0) // problem.tensors[tensor].rows), max(rest, 0))
        found[tensor] = slots
    return found


def _guests_first(tensors: Sequence[int], in_place: Sequence[tuple[int, int]]) -> list[int]:
    """The tensors so that guests stand before their hosts; pairs in a circle are refused elsewhere."""
    ordered: list[int] = []
    waiting = list(tensors)
    while waiting:
        ready = [t for t in waiting if not any(host == t and guest in waiting for guest, host in in_place)]
        ordered += ready or waiting
        waiting = [t for t in waiting if t not in ordered]
    return ordered
