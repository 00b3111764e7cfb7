"""The judge: replays a schedule row by row and counts bytes. Knows no solver and none of its formulas.

Every operator row asks for the input rows that it reads; they must be on chip at that moment, valid, not overwritten.
Rows that come from off-chip must have a copy there. What lies on chip is counted from the rows that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .problem import Problem
from .rows import operand_maps, overwritable, parts, stripe_targets
from .schedule import Range, Schedule, Traffic


@dataclass(frozen=True)
class Replay:
    """What a schedule really does: bytes by purpose, most bytes on chip, and everything that is wrong with it.

    ``line_rows`` has per range the rows that each piece of memory holds at most, by the tensor that opens it;
    ``range_bytes`` has what is on chip during each range.
    """

    traffic: Traffic
    peak_bytes: int
    violations: tuple[str, ...]
    line_rows: tuple[Mapping[int, int], ...] = ()
    range_bytes: tuple[int, ...] = ()


def check(problem: Problem, schedule: Schedule, replayed: Replay | None = None) -> tuple[str, ...]:
    """Everything that is wrong with a schedule, as sentences; empty if nothing is.

    Args:
        problem: the network.
        schedule: to be judged.
        replayed: what :func:`replay` found for the same order and ranges, if that is known already.
    """
    if schedule.status in ("infeasible", "timeout"):
        return ("expected no order beside this status, found one",) if schedule.order else ()
    found = replay(problem, schedule) if replayed is None else replayed
    wrong = list(found.violations)
    if found.traffic != schedule.traffic:
        wrong.append(f"traffic: expected {found.traffic}, found {schedule.traffic}")
    if found.peak_bytes != schedule.peak_bytes:
        wrong.append(f"peak: expected {found.peak_bytes} bytes, found {schedule.peak_bytes}")
    if schedule.peak_bytes > schedule.budget_bytes:
        wrong.append(f"peak: expected at most {schedule.budget_bytes} bytes, found {schedule.peak_bytes}")
    if schedule.bound_bytes > schedule.traffic.total_bytes:
        wrong.append(f"bound: expected at most {schedule.traffic.total_bytes} bytes, found {schedule.bound_bytes}")
    if schedule.status == "optimal" and schedule.bound_bytes != schedule.traffic.total_bytes:
        wrong.append(f"status: expected a bound of {schedule.traffic.total_bytes}, found {schedule.bound_bytes}")
    return tuple(wrong)


def replay(problem: Problem, schedule: Schedule) -> Replay:
    """Runs the schedule on paper. Stops at the first range that cannot run."""
    wrong = _order_violations(problem, schedule)
    if wrong:
        return Replay(Traffic(), 0, tuple(wrong))
    machine = Machine(problem.without_shapes() if schedule.atomic else problem, schedule)
    for number, piece in enumerate(schedule.ranges):
        wrong = machine.run(piece)
        if wrong:
            return Replay(machine.traffic(), machine.peak, tuple(f"range {number}: {text}" for text in wrong))
    return Replay(
        machine.traffic(),
        machine.peak,
        tuple(machine.unfinished()),
        tuple(machine.line_rows),
        tuple(machine.range_bytes),
    )


def _order_violations(problem: Problem, schedule: Schedule) -> list[str]:
    if sorted(schedule.order) != list(range(len(problem.operators))):
        return ["order: expected every operator once"]
    position = {operator: place for place, operator in enumerate(schedule.order)}
    wrong = [
        f"order: expected {problem.operators[made].name!r} before {problem.operators[reader].name!r}"
        for made, readers in zip(problem.producer, problem.consumers, strict=True)
        for reader in readers
        if made is not None and position[made] > position[reader]
    ]
    borders = [0, *(piece.stop for piece in schedule.ranges)]
    starts = [*(piece.start for piece in schedule.ranges), len(problem.operators)]
    if borders != starts or any(piece.stop <= piece.start for piece in schedule.ranges):
        wrong.append("ranges: expected them to cover the order once, in order")
    return wrong


class Machine:
    """On-chip and off-chip memory between ranges, which :meth:`run` carries from one border to the next.

    Attributes:
        whole: tensors on chip with all their rows.
        copies: tensors with a copy off-chip.
        peak: most bytes on chip so far.
    """

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        inputs = {t for t, tensor in enumerate(problem.tensors) if tensor.role == "input"}
        self.whole: set[int] = {t for t in inputs if problem.consumers[t]} if schedule.no_spill else set()
        self.copies: set[int] = set() if schedule.no_spill else inputs
        self.fetched: set[int] = set()
        self.peak = 0
        self.line_rows: list[Mapping[int, int]] = []
        self.range_bytes: list[int] = []
        self.bytes = dict.fromkeys(("spill_write", "spill_read", "weight_reread", "input", "output"), 0)
        self.position = {operator: place for place, operator in enumerate(schedule.order)}

    def traffic(self) -> Traffic:
        """Bytes so far; all weights are read at least once."""
        weights = sum(operator.weight_bytes for operator in self.problem.operators)
        counts = self.bytes
        return Traffic(
            counts["spill_write"],
            counts["spill_read"],
            counts["weight_reread"],
            counts["input"],
            counts["output"],
            weights,
        )

    def run(self, piece: Range) -> list[str]:
        """One range; what is wrong with it."""
        wrong = [*self._arrivals(piece), *self._departures(piece)]
        if self.schedule.atomic and piece.stop - piece.start > 1:
            wrong.append("expected one operator in every range")
        if wrong:
            return wrong
        stripes = _Stripes(self, piece)
        wrong = stripes.pair_violations() or stripes.run()
        if wrong:
            return wrong
        self.range_bytes.append(stripes.memory_bytes())
        self.peak = max(self.peak, self.range_bytes[-1])
        self.line_rows.append(dict(stripes.most))
        made = {self.problem.operators[operator].output for operator in stripes.operators}
        self.copies |= set(piece.stored)
        self.whole = {t for t in piece.whole if self.needed_after(t, piece.stop)}
        lost = [t for t in made if self.needed_after(t, piece.stop) and t not in self.whole and t not in self.copies]
        return [f"{self.name(t)}: expected it on chip or stored, found neither" for t in lost]

    def _arrivals(self, piece: Range) -> list[str]:
        made = {self.problem.operators[self.schedule.order[p]].output for p in range(piece.start, piece.stop)}
        there = self.whole | made | set(piece.fetched)
        wrong = [
            f"{self.name(tensor)}: expected it on chip already, made or fetched here, found neither"
            for tensor in piece.whole
            if tensor not in there
        ]
        for tensor in piece.fetched:
            if tensor not in self.copies or tensor not in piece.whole:
                wrong.append(f"{self.name(tensor)}: expected a copy off-chip to fetch whole, found none")
            elif tensor not in self.whole:
                self.count_read(tensor, self.problem.tensors[tensor].size_bytes)
        gone = self.whole - set(piece.whole) - self.copies
        wrong += [f"{self.name(t)}: expected it to stay on chip, it has no copy elsewhere" for t in sorted(gone)]
        return wrong

    def _departures(self, piece: Range) -> list[str]:
        made = {self.problem.operators[self.schedule.order[p]].output for p in range(piece.start, piece.stop)}
        wrong = [f"{self.name(t)}: expected it to be made here to be stored" for t in piece.stored if t not in made]
        if self.schedule.no_spill:
            wrong += [f"{self.name(t)}: expected nothing to leave the chip" for t in (*piece.stored, *piece.fetched)]
        return wrong

    def needed_after(self, tensor: int, position: int) -> bool:
        """Whether the tensor must be somewhere after the operator before this position."""
        kept = self.schedule.no_spill and self.problem.tensors[tensor].role == "output"
        return kept or any(self.position[reader] >= position for reader in self.problem.consumers[tensor])

    def count_read(self, tensor: int, size: int) -> None:
        """Bytes of a tensor that come from off-chip; where operators run whole, an input is compulsory only once."""
        first = not (self.schedule.atomic and tensor in self.fetched)
        self.fetched.add(tensor)
        self.bytes["input" if self.problem.tensors[tensor].role == "input" and first else "spill_read"] += size

    def unfinished(self) -> list[str]:
        """Outputs of the network that are not where they must be at the end."""
        outputs = [t for t, tensor in enumerate(self.problem.tensors) if tensor.role == "output"]
        there = self.whole if self.schedule.no_spill else self.copies
        return [f"{self.name(t)}: expected the output to be delivered" for t in outputs if t not in there]

    def parts(self, operator: int) -> tuple[int, ...]:
        """Operands of a concatenation that may be pieces of it."""
        return () if self.schedule.atomic else parts(self.problem, self.problem.operators[operator])

    def name(self, tensor: int) -> str:
        """For messages."""
        return f"tensor {self.problem.tensors[tensor].name!r}"


class _Stripes:
    """One range while it runs: rows on chip per tensor, what shares memory, what was read and written."""

    def __init__(self, machine: Machine, piece: Range) -> None:
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
        for tensor in self.whole & (machine.whole | set(piece.fetched)) & self.slots.keys():
            self.rows[tensor] = set(range(problem.tensors[tensor].rows))

    def pair_violations(self) -> list[str]:
        """In-place pairs that the operators do not allow, or whose guest is needed later."""
        wrong: list[str] = []
        guests = [guest for guest, _ in self.piece.in_place]
        for guest, host in self.piece.in_place:
            maker = next((operator for operator in self.operators if self.result[operator] == host), None)
            allowed = () if maker is None else self._may_share(maker)
            if guest not in allowed or guests.count(guest) > 1:
                wrong.append(f"{self.machine.name(guest)}: expected an operand that {self.machine.name(host)} may hold")
            elif guest in self.whole and self.machine.needed_after(guest, self.piece.stop):
                wrong.append(f"{self.machine.name(guest)}: expected no later reader of what is overwritten")
        return wrong

    def _may_share(self, operator: int) -> tuple[int, ...]:
        if self.machine.schedule.atomic:
            return ()
        return (*overwritable(self.problem, self.problem.operators[operator]), *self.machine.parts(operator))

    def run(self) -> list[str]:
        """All stripes; stops at the first row that is missing."""
        last = self.problem.tensors[self.result[self.operators[-1]]].rows
        stripes = -(-last // self.piece.stripe_rows)
        if self.piece.stripe_rows < min(self.machine.schedule.min_rows, last):
            return [f"expected at least {self.machine.schedule.min_rows} rows per stripe"]
        for stripe in range(1, stripes + 1):
            target = stripe_targets(self.problem, self.operators, stripe, self.piece.stripe_rows, self.made)
            for operator in self.operators:
                self.visits[operator] += target[operator] > self.made[operator]
                for row in range(self.made[operator], target[operator]):
                    wrong = self._make(operator, row)
                    if wrong:
                        return wrong
                self.made[operator] = target[operator]
            self._measure()
            self._forget()
        self._account()
        return []

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

    def _account(self) -> None:
        machine, tensors = self.machine, self.problem.tensors
        for tensor, rows in self.read.items():
            everything = rows == tensors[tensor].rows
            machine.count_read(tensor, tensors[tensor].size_bytes if everything else rows * tensors[tensor].row_bytes)
        for operator in self.operators:
            if operator not in self.piece.resident_weights:
                again = max(self.visits[operator] - 1, 0)
                machine.bytes["weight_reread"] += again * self.problem.operators[operator].weight_bytes
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
                line = self.most.get(slot, 0) * row_bytes
                sizes[slot] = max(sizes.get(slot, 0), size if tensor in self.whole else min(line, size))
        passing = sum(self.problem.tensors[t].size_bytes for t in self.whole if t not in self.slots)
        weights = {operator: self.problem.operators[operator].weight_bytes for operator in self.operators}
        resident = sum(weights[operator] for operator in self.piece.resident_weights)
        streamed = max((size for o, size in weights.items() if o not in self.piece.resident_weights), default=0)
        return sum(sizes.values()) + passing + resident + min(self.machine.schedule.stream_buffer_bytes, streamed)


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
