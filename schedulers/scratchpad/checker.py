"""The judge: replays a schedule row by row and counts bytes. Knows no solver and none of its formulas.

Every operator row asks for the input rows that it reads; they must be on chip at that moment, valid, not overwritten.
Rows that come from off-chip must have a copy there. What lies on chip is counted from the rows that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .problem import Problem
from .range_replay import RangeReplay
from .rows import parts
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


def _go_on() -> None:
    """No limit."""


def replay(problem: Problem, schedule: Schedule, each_stripe: Callable[[], None] = _go_on) -> Replay:
    """Runs the schedule on paper. Stops at the first range that cannot run.

    Args:
        problem: the network.
        schedule: its order and ranges.
        each_stripe: called before every stripe; what it raises ends the replay, such as where the time is over.
    """
    wrong = _order_violations(problem, schedule)
    if wrong:
        return Replay(Traffic(), 0, tuple(wrong))
    machine = Machine(problem.without_shapes() if schedule.atomic else problem, schedule, each_stripe)
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
        each_stripe: called before every stripe.
    """

    def __init__(self, problem: Problem, schedule: Schedule, each_stripe: Callable[[], None] = _go_on) -> None:
        self.problem, self.schedule, self.each_stripe = problem, schedule, each_stripe
        inputs = {t for t, tensor in enumerate(problem.tensors) if tensor.role == "input"}
        self.whole: set[int] = {t for t in inputs if problem.consumers[t]} if schedule.no_spill else set()
        self.copies: set[int] = set() if schedule.no_spill else inputs
        self.fetched: set[int] = set()
        self.peak = 0
        self.line_rows: list[Mapping[int, int]] = []
        self.range_bytes: list[int] = []
        self.bytes: dict[str, int] = dict.fromkeys(("spill_write", "spill_read", "weight_reread", "input", "output"), 0)
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
        stripes = RangeReplay(self, piece)
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
