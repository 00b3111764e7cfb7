"""From a network and a machine to commands: schedules under an objective, addresses, cycles.

The solver minimises avoidable bytes. Cycles and energy are made small over a family of its schedules: with stripes of
at least 1, 2, 4, ... rows. Weights arrive one range early where there is room. The fewest bytes do not always take the
fewest cycles: thin stripes wait for transfers, and many small commands for latencies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ...ir.errors import ConfigError, ScheduleError
from ...ir.machine import Machine
from .addresses import solve_with_addresses
from .commands import Listing
from .cycles import Prediction, predict
from .lowering import lower
from .options import STREAM_BUFFER_BYTES, Options, Tiles
from .problem import Problem
from .program import Program
from .schedule import Schedule

Objective = Literal["bytes", "cycles", "energy"]

OBJECTIVES: tuple[Objective, ...] = ("bytes", "cycles", "energy")


@dataclass(frozen=True)
class PlanOptions:
    """What to plan for.

    Attributes:
        objective: what is to be small.
        min_rows: least stripe.
        time_limit_s: for all schedules together.
        fixed_order: keep the order of the problem.
        no_spill: activations stay on chip, also where the machine could spill.
        budget_bytes: of the scratchpad; not given: what the machine has.
        tiles: whether ranges may be cut along columns or channels, see :class:`~.options.Options`.
        seed: of everything random.
    """

    objective: Objective = "bytes"
    min_rows: int = 1
    time_limit_s: float = 60.0
    fixed_order: bool = False
    no_spill: bool = False
    budget_bytes: int | None = None
    tiles: Tiles = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(
                f"objective: expected one of {', '.join(OBJECTIVES)}, found {self.objective!r}; correct it"
            )


@dataclass(frozen=True)
class Tried:
    """One schedule that was looked at: stripes of at least ``min_rows``, its avoidable bytes, cycles and energy."""

    min_rows: int
    traffic_bytes: int
    cycles: int | None
    energy_pj: float | None


@dataclass(frozen=True)
class Planned:
    """What came of it.

    Attributes:
        schedule: chosen; without an order where there is none.
        program: with addresses, if there is a schedule.
        listing: its commands.
        prediction: its time, or ``None`` where the machine's description does not give one.
        untimed: why there is no time.
        tried: all schedules that were compared.
    """

    schedule: Schedule
    program: Program | None = None
    listing: Listing | None = None
    prediction: Prediction | None = None
    untimed: str = ""
    tried: tuple[Tried, ...] = field(default=())


def plan(problem: Problem, machine: Machine, options: PlanOptions, dtypes: Sequence[str]) -> Planned:
    """The best schedule that was found, as commands.

    Args:
        problem: the network, padded to the machine's bricks.
        machine: whose memory, DMA and array it is for.
        options: objective and limits.
        dtypes: per operator of its products, ``""`` where it has none.

    Raises:
        ConfigError: the objective needs a number that the machine's description does not give; it is named.
        ScheduleError: no schedule found in time has addresses.
    """
    deadline = time.perf_counter() + options.time_limit_s
    best: Planned | None = None
    tried: list[Tried] = []
    heights = list(_heights(problem, options))
    for place, rows in enumerate(heights):
        left = max(deadline - time.perf_counter(), 0.1) / (1 if place else 1 + 0.5 * (len(heights) > 1))
        found = _one(problem, machine, replace(options, min_rows=rows, time_limit_s=left), dtypes)
        if found.program is None:
            best = best or found
            continue
        tried.append(_tried(rows, found))
        if best is None or best.program is None or _cost(found, options) < _cost(best, options):
            best = found
        if time.perf_counter() > deadline:
            break
    assert best is not None
    return replace(best, tried=tuple(tried))


def solver_options(machine: Machine, options: PlanOptions) -> Options:
    """What the solver is asked."""
    read_only = machine.slow.read_only
    return Options(
        machine.budget_bytes if options.budget_bytes is None else options.budget_bytes,
        time_limit_s=options.time_limit_s,
        fixed_order=options.fixed_order,
        min_rows=options.min_rows,
        no_spill=options.no_spill or read_only,
        stream_buffer_bytes=0 if read_only else STREAM_BUFFER_BYTES,
        tiles=options.tiles,
        seed=options.seed,
    )


def _heights(problem: Problem, options: PlanOptions) -> Iterator[int]:
    yield options.min_rows
    if options.objective == "bytes":
        return
    rows, most = 2 * options.min_rows, max((tensor.rows for tensor in problem.tensors), default=1)
    while rows <= most:
        yield rows
        rows *= 2


def _one(problem: Problem, machine: Machine, options: PlanOptions, dtypes: Sequence[str]) -> Planned:
    schedule, program = _with_addresses(problem, machine, options)
    if program is None:
        return Planned(schedule)
    listing = lower(program, cell_bytes=machine.fast[0].alignment_bytes)
    try:
        prediction = predict(machine, listing, dtypes, energy=options.objective == "energy")
    except ConfigError as problem_found:
        if options.objective != "bytes":
            raise
        return Planned(schedule, program, listing, untimed=str(problem_found))
    return Planned(schedule, program, listing, prediction)


def _with_addresses(problem: Problem, machine: Machine, options: PlanOptions) -> tuple[Schedule, Program | None]:
    """The best schedule that was found whose buffers have addresses."""
    wanted = solver_options(machine, options)
    found = solve_with_addresses(problem, wanted, alignment_bytes=machine.fast[0].alignment_bytes, early_weights=True)
    if found.program is None and found.refused:
        raise ScheduleError(
            f"plan: expected addresses within {wanted.budget_bytes} bytes, found none for {found.refused} schedules; "
            f"allow more time or a larger budget"
        )
    return found.schedule, found.program


def _tried(rows: int, found: Planned) -> Tried:
    known = found.prediction
    cycles = None if known is None else known.timing.total_cycles
    return Tried(rows, found.schedule.traffic.total_bytes, cycles, None if known is None else known.energy_pj)


def _cost(found: Planned, options: PlanOptions) -> tuple[float, float]:
    known, moved = found.prediction, float(found.schedule.traffic.total_bytes)
    if options.objective == "bytes" or known is None:
        return moved, 0.0
    if options.objective == "energy":
        return known.energy_pj or 0.0, float(known.timing.total_cycles)
    return float(known.timing.total_cycles), moved
