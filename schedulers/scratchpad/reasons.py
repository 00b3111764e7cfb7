"""Why a tensor leaves the chip, and what would keep it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.machine import Machine
from .commands import Listing
from .planning import PlanOptions, solver_options
from .problem import Problem
from .program import Program
from .schedule import Schedule
from .solver import solve

STEPS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Multiples of the budget that are tried for one without spills."""

HALVINGS = 4
"""Of the interval that contains it."""


@dataclass(frozen=True)
class Spill:
    """One tensor that is written off-chip or read back, or an input of the network or weights that are read again.

    Attributes:
        name: of the tensor, or of the operator whose weights they are.
        what: ``activation``, ``input`` (what it moves is no avoidable byte, except between bands) or ``weights``.
        moved_bytes: that this costs.
        tightest: the range where there is least room for it: names of its first and last operator.
        needed_bytes: budget with which this schedule could keep it, everything else as it is.
        reason: a sentence.
    """

    name: str
    what: str
    moved_bytes: int
    tightest: tuple[str, str]
    needed_bytes: int
    reason: str


def spills(listing: Listing) -> tuple[Spill, ...]:
    """Every spill of a schedule, the most expensive first. Inputs count where they are read again."""
    found = [*_activations(listing), *_weights(listing)]
    return tuple(sorted(found, key=lambda spill: (-spill.moved_bytes, spill.name)))


def budget_without_spills(problem: Problem, machine: Machine, options: PlanOptions, schedule: Schedule) -> int | None:
    """A budget with which nothing avoidable moves, not far above the least one; ``None`` if none was found.

    Args:
        problem: the network.
        machine: what it is for.
        options: of the schedule.
        schedule: that has spills; nothing is searched if it has none.
    """
    if not schedule.traffic.total_bytes:
        return schedule.budget_bytes
    low, high = schedule.budget_bytes, 0
    for step in STEPS:
        budget = int(schedule.budget_bytes * step)
        if _moves_nothing(problem, machine, options, budget):
            high = budget
            break
        low = budget
    for _ in range(HALVINGS if high else 0):
        middle = (low + high) // 2
        if _moves_nothing(problem, machine, options, middle):
            high = middle
        else:
            low = middle
    return high or None


def _moves_nothing(problem: Problem, machine: Machine, options: PlanOptions, budget: int) -> bool:
    found = solve(problem, solver_options(machine, replace(options, budget_bytes=budget)))
    return bool(found.order) and found.traffic.total_bytes == 0


def _range_bytes(program: Program) -> list[int]:
    """Bytes of the buffers that are alive in each range."""
    live = [0] * len(program.ranges)
    for buffer in program.buffers.values():
        for number in range(max(buffer.lower, 0), min(buffer.upper, len(live))):
            live[number] += buffer.size_bytes
    return live


def _names(program: Program, number: int) -> tuple[str, str]:
    piece, problem = program.schedule.ranges[number], program.problem
    order = program.schedule.order
    return problem.operators[order[piece.start]].name, problem.operators[order[piece.stop - 1]].name


def _activations(listing: Listing) -> list[Spill]:
    problem, program = listing.problem, listing.program
    live, made = _range_bytes(program), _range_of(program.schedule)
    moved: dict[int, int] = {}
    ranges: dict[int, list[int]] = {}
    for command in listing.commands:
        if command.purpose in ("spill_read", "spill_write", "input"):
            moved[command.subject] = moved.get(command.subject, 0) + command.size_bytes
            ranges.setdefault(command.subject, []).append(command.range_number)
    found: list[Spill] = []
    for tensor, size in moved.items():
        source, producer = problem.tensors[tensor], problem.producer[tensor]
        avoidable = size - (source.size_bytes if source.role == "input" else 0)
        if avoidable <= 0:
            continue
        first = min(ranges[tensor]) if producer is None else made[producer]
        room = {n: live[n] + _missing(program, n, tensor) for n in range(first, max(ranges[tensor]) + 1)}
        worst = max(room, key=room.__getitem__)
        what = "input" if source.role == "input" else "activation"
        found.append(_spill(program, source.name, what, avoidable, worst, room[worst]))
    return found


def _range_of(schedule: Schedule) -> dict[int, int]:
    return {schedule.order[p]: n for n, piece in enumerate(schedule.ranges) for p in range(piece.start, piece.stop)}


def _missing(program: Program, number: int, tensor: int) -> int:
    """Bytes that the whole tensor takes in a range beyond what is there of it."""
    pieces = program.ranges[number].pieces.get(tensor, ())
    there = sum(program.buffers[s.name].size_bytes for s, _, _ in pieces if s.name in program.buffers)
    return max(program.problem.tensors[tensor].size_bytes - there, 0)


def _weights(listing: Listing) -> list[Spill]:
    live = _range_bytes(listing.program)
    moved: dict[tuple[int, int], int] = {}
    for command in listing.commands:
        if command.purpose == "weight_reread":
            key = (command.subject, command.range_number)
            moved[key] = moved.get(key, 0) + command.size_bytes
    found: list[Spill] = []
    for (operator, number), size in moved.items():
        record = listing.problem.operators[operator]
        room = live[number] + record.weight_bytes
        found.append(_spill(listing.program, record.name, "weights", size, number, room))
    return found


def _spill(program: Program, name: str, what: str, moved: int, number: int, room: int) -> Spill:
    first, last = _names(program, number)
    where = first if first == last else f"{first} .. {last}"
    budget = program.schedule.budget_bytes
    short = room - budget
    if short > 0:
        text = f"while {where} runs it would need {short} bytes more than the budget of {budget}"
    elif what == "input":
        text = f"it would fit while {where} runs, but what inputs of the network move is not made small"
    else:
        text = f"it would fit while {where} runs, but keeping it costs more elsewhere"
    return Spill(name, what, moved, (first, last), max(room, budget), text)


def sentences(found: Sequence[Spill], limit: int = 10) -> tuple[str, ...]:
    """Lines for people, the most expensive spills first."""
    lines = [
        f"{spill.name}: {spill.what} {'spilled' if spill.what == 'activation' else 'read again'}, "
        f"{spill.moved_bytes} bytes: {spill.reason}"
        for spill in found[:limit]
    ]
    rest = len(found) - limit
    return (*lines, f"and {rest} more") if rest > 0 else tuple(lines)
