"""``instar schedule``: a network's operators into a scratchpad, or buffers with lifetimes into an arena."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.table import Table

from ..ir.errors import ConfigError, ScheduleError
from ..ir.files import atomic_write_text, check_writable, read_text

if TYPE_CHECKING:
    from ..ir.machine import Machine
    from ..schedulers.scratchpad.options import Options, Tiles
    from ..schedulers.scratchpad.planning import Planned
    from ..schedulers.scratchpad.problem import Problem
    from ..schedulers.scratchpad.schedule import Range, Schedule

BINARY = {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, **BINARY}
"""Spelling of a unit in capitals -> bytes."""


def parse_bytes(text: str, where: str) -> int:
    """``524288``, ``512KiB`` or ``0.5MB`` as bytes.

    Raises:
        ConfigError: it is neither.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in UNITS or ("." in found[1] and not found[2]):
        raise ConfigError(f"{where}: expected bytes such as 524288 or 512KiB, found {text!r}; correct it")
    whole, _, fraction = found[1].partition(".")
    return int(whole + fraction) * UNITS[found[2].upper()] // 10 ** len(fraction)


@dataclass(frozen=True)
class Wanted:
    """What the command line asks of a schedule of operators.

    Attributes:
        budget: bytes of scratchpad as text; the machine's where not given.
        time_limit_s: seconds.
        atomic: operators run whole; always so where the file has no shapes.
        fixed_order: keep the order of the file.
        min_rows: least stripe.
        machine: whose channel bricks pad the tensors and whose slow memory may be read in place.
        no_spill: activations stay on chip.
        objective: ``bytes``, or with a machine ``cycles`` or ``energy``.
        tiles: whether ranges may be cut along columns or channels: ``auto``, ``always`` or ``never``.
        out: file for the schedule, or none.
        report: file for a picture (.html), or none.
    """

    budget: str | None
    time_limit_s: float
    atomic: bool = False
    fixed_order: bool = False
    min_rows: int = 1
    machine: str | None = None
    no_spill: bool = False
    objective: str = "bytes"
    tiles: str = "auto"
    out: Path | None = None
    report: Path | None = None

    def options(self, problem: Problem, described: Machine | None) -> Options:
        """Settings of the search; a slow memory that only is read takes no spills and needs no buffer."""
        from ..schedulers.scratchpad.options import STREAM_BUFFER_BYTES, Options

        atomic, in_place = self.atomic or not problem.has_shapes, described is not None and described.slow.read_only
        return Options(
            self._budget_bytes(described),
            time_limit_s=self.time_limit_s,
            fixed_order=self.fixed_order,
            min_rows=self.min_rows,
            no_spill=self.no_spill or in_place,
            stream_buffer_bytes=0 if atomic or in_place else STREAM_BUFFER_BYTES,
            tiles=cast("Tiles", self.tiles),
            atomic=atomic,
        )

    def _budget_bytes(self, described: Machine | None) -> int:
        if self.budget is not None:
            return parse_bytes(self.budget, "--budget")
        if described is None:
            raise ConfigError(
                "--budget: expected bytes of scratchpad or a --machine, found neither; give such as 512KiB"
            )
        return described.budget_bytes


@dataclass(frozen=True)
class Scheduled:
    """An operator graph with its schedule, and what a picture needs beside them."""

    problem: Problem
    schedule: Schedule
    machine: Machine | None
    planned: Planned | None

    def draw(self, path: Path) -> None:
        """Writes the picture.

        Raises:
            ScheduleError: there is no schedule to draw.
        """
        from .schedule_picture import schedule_page

        atomic_write_text(path, schedule_page(self.problem, self.schedule, self.machine, self.planned))


def schedule_operators(path: Path, wanted: Wanted) -> Scheduled:
    """Reads an operator graph (JSON of either format), schedules it, and writes the solution where asked.

    Raises:
        ConfigError: the objective does not fit, or a size does not parse.
        ScheduleError: the file is no operator graph, or a setting is out of range.
    """
    from ..schedulers.scratchpad.schedule_json import dump_schedule

    for file in (wanted.out, wanted.report):
        if file is not None:
            check_writable(file)
    _check_objective(wanted.objective, wanted.machine, atomic=wanted.atomic)
    problem, described = _read(path, wanted.machine)
    schedule, planned = _scheduled(problem, described, wanted)
    if wanted.out is not None:
        atomic_write_text(wanted.out, dump_schedule(schedule) + "\n")
    return Scheduled(problem, schedule, described, planned)


def _read(path: Path, machine: str | None) -> tuple[Problem, Machine | None]:
    """The operators, in the bricks of the machine where there is one."""
    from ..schedulers.scratchpad.bricks import in_bricks
    from ..schedulers.scratchpad.problem_json import load_problem

    text = read_text(path, error=ScheduleError)
    if text.lstrip("{ \r\n").startswith('"instar_plan"'):
        raise ConfigError(
            f"{path}: expected an operator graph, found a plan that compile wrote; 'instar explain' shows it, and "
            "'instar compile --target scratchpad:MACHINE' schedules a model"
        )
    problem = load_problem(text, str(path))
    if machine is None:
        return problem, None
    from ..ir.machine_file import machine as load_machine

    described = load_machine(machine)
    return in_bricks(problem, described.channel_brick), described


def _scheduled(problem: Problem, described: Machine | None, wanted: Wanted) -> tuple[Schedule, Planned | None]:
    """The schedule, with its commands and their time where these are asked for."""
    from ..schedulers.scratchpad.solver import solve

    options = wanted.options(problem, described)
    timed = wanted.report is not None or wanted.objective != "bytes"
    if described is not None and not options.atomic and timed:
        planned = _planned(problem, described, options, wanted.objective)
        return planned.schedule, planned
    return (_atomic if options.atomic and not options.no_spill else solve)(problem, options), None


def _check_objective(objective: str, machine: str | None, *, atomic: bool) -> None:
    if objective not in ("bytes", "cycles", "energy"):
        raise ConfigError(f"--objective: expected bytes, cycles or energy, found {objective!r}; correct it")
    if objective != "bytes" and (machine is None or atomic):
        raise ConfigError(
            f"--objective: {objective!r} needs --machine and stripes, found "
            f"{'no machine' if machine is None else '--atomic'}; whole operators have no time here"
        )


def _planned(problem: Problem, machine: Machine, options: Options, objective: str) -> Planned:
    """Schedule, addresses, commands and time."""
    from ..schedulers.scratchpad.planning import Objective, PlanOptions, plan
    from .schedule_picture import dtypes_of

    wanted = PlanOptions(
        cast("Objective", objective),
        options.min_rows,
        options.time_limit_s,
        options.fixed_order,
        options.no_spill,
        options.budget_bytes,
        options.tiles,
    )
    return plan(problem, machine, wanted, dtypes_of(problem))


def _atomic(problem: Problem, options: Options) -> Schedule:
    """Operators that run whole, in any order unless it is fixed, with addresses."""
    from ..schedulers.scratchpad.atomic.flow import make_flow
    from ..schedulers.scratchpad.atomic.schedule import as_schedule
    from ..schedulers.scratchpad.atomic.solver import AtomicOptions, solve_atomic

    wanted = AtomicOptions(options.budget_bytes, options.time_limit_s, options.fixed_order)
    return as_schedule(problem, make_flow(problem), solve_atomic(problem, wanted))


def operators_json(schedule: Schedule) -> str:
    """The schedule as the one JSON object that scripts read."""
    traffic = schedule.traffic
    document: dict[str, object] = {
        "status": schedule.status,
        "traffic_bytes": traffic.total_bytes if schedule.status in ("optimal", "feasible") else None,
        "bound_bytes": schedule.bound_bytes,
        "gap": schedule.gap,
        "peak_bytes": schedule.peak_bytes,
        "budget_bytes": schedule.budget_bytes,
        "wall_s": schedule.wall_s,
        "order": list(schedule.order),
        "traffic": {
            "spill_write_bytes": traffic.spill_write_bytes,
            "spill_read_bytes": traffic.spill_read_bytes,
            "weight_reread_bytes": traffic.weight_reread_bytes,
            "input_bytes": traffic.input_bytes,
            "output_bytes": traffic.output_bytes,
            "weight_bytes": traffic.weight_bytes,
        },
        "ranges": [
            {"start": piece.start, "stop": piece.stop, "stripe_rows": piece.stripe_rows, "band": _band(piece)}
            for piece in schedule.ranges
        ],
    }
    if schedule.infeasible is not None:
        document["operator"] = schedule.infeasible.operator
        document["smallest_budget_bytes"] = schedule.infeasible.smallest_budget_bytes
    return json.dumps(document)


def _band(piece: Range) -> dict[str, object] | None:
    return None if piece.band is None else {"axis": piece.band.axis, "extent": piece.band.extent}


def operators_table(problem: Problem, schedule: Schedule) -> Table:
    """The schedule for people: ranges with what they keep and move."""
    title = f"{problem.model}: {schedule.status}, {schedule.budget_bytes} bytes of scratchpad"
    if schedule.infeasible is not None:
        found = schedule.infeasible
        table = Table(title=title)
        table.add_column("operator that needs most")
        table.add_column("smallest feasible budget", justify="right")
        table.add_row(found.operator, f"{found.smallest_budget_bytes} bytes")
        return table
    moved = f"{schedule.traffic.total_bytes} avoidable bytes (at least {schedule.bound_bytes})"
    table = Table(title=f"{title}, {moved}, peak {schedule.peak_bytes}, {schedule.wall_s:.1f} s")
    for name in ("operators", "rows", "on chip", "fetched", "stored"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for piece in schedule.ranges:
        first, last = (problem.operators[schedule.order[p]].name for p in (piece.start, piece.stop - 1))
        table.add_row(
            first if first == last else f"{first} .. {last} ({piece.stop - piece.start})",
            str(piece.stripe_rows) + ("" if piece.band is None else f" x {piece.band.extent} {piece.band.axis}"),
            *(
                ", ".join(problem.tensors[t].name for t in group)
                for group in (piece.whole, piece.fetched, piece.stored)
            ),
        )
    return table
