"""Cycles of a listing: its commands as events of the time model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.machine import Machine
from ..timing.cost import energy_pj
from ..timing.events import Compute, Event, Transfer
from ..timing.timeline import Timing
from ..timing.timeline import cycles as count
from .bands import extent_of
from .commands import Command, Listing


@dataclass(frozen=True)
class Prediction:
    """What a listing takes on a machine.

    Attributes:
        timing: with the span of every command.
        events: that were timed, one per command.
        energy_pj: of off-chip traffic and arithmetic, or ``None`` where the machine's description does not say.
    """

    timing: Timing
    events: tuple[Event, ...]
    energy_pj: float | None = None


def events_of(listing: Listing, dtypes: Sequence[str]) -> tuple[Event, ...]:
    """One event per command.

    Args:
        listing: of commands.
        dtypes: per operator of both factors of its products; ``""`` where it has none.
    """
    return tuple(_event(listing, command, dtypes) for command in listing.commands)


def _event(listing: Listing, command: Command, dtypes: Sequence[str]) -> Event:
    problem = listing.problem
    if command.kind != "compute":
        name = (problem.operators if "weight" in command.purpose else problem.tensors)[command.subject].name
        direction = "read" if command.kind == "load" else "write"
        return Transfer(f"{command.purpose} {name}", command.size_bytes, direction, command.needs)
    operator = problem.operators[command.subject]
    piece, pieces = command.part
    rows = problem.tensors[operator.output].rows
    macs = _part(operator.macs, command.first, command.rows, rows)
    if command.window is not None:
        axis = listing.program.ranges[command.range_number].bands[command.band].axis
        macs = macs * (command.window[1] - command.window[0]) // extent_of(problem.tensors[operator.output], axis)
    macs = macs * (piece + 1) // pieces - macs * piece // pieces
    read = sum(stop - first for first, stop in command.reads)
    written = sum(stop - first for first, stop in command.writes)
    written = written * (piece + 1) // pieces - written * piece // pieces
    return Compute(operator.name, macs, dtypes[command.subject] or "int8", read, written, command.needs)


def _part(total: int, first: int, count: int, rows: int) -> int:
    """Of an amount that is spread over rows, that of some of them; all of them have all of it."""
    return total * (first + count) // rows - total * first // rows


def predict(machine: Machine, listing: Listing, dtypes: Sequence[str], *, energy: bool = False) -> Prediction:
    """Cycles, and energy where it is asked for.

    Raises:
        ConfigError: the machine's description lacks a number; it is named.
    """
    events = events_of(listing, dtypes)
    return Prediction(count(machine, events), events, energy_pj(machine, events) if energy else None)
