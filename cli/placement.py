"""``instar schedule buffers.csv``: buffers with fixed lifetimes into one memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from ..ir.errors import ConfigError, ScheduleError
from ..ir.files import atomic_write_text, check_writable, read_text
from .output import show

if TYPE_CHECKING:
    from rich.console import Console

    from ..schedulers.placement import PlacementProblem, PlacementSolution


def place_buffers(
    path: Path, capacity_bytes: int | None, *, time_limit_s: float, out: Path | None, report: Path | None = None
) -> tuple[PlacementProblem, PlacementSolution]:
    """Reads buffers, places them, and writes the solution where asked.

    Args:
        path: CSV in MiniMalloc's columns.
        capacity_bytes: of the memory, or ``None`` for the lowest height.
        time_limit_s: seconds.
        out: file for the solution, or none.
        report: file for a picture (.html) that is to be writable, or none.
    """
    from ..schedulers.placement import dump_solution, load_csv, solve

    for file in (out, report):
        if file is not None:
            check_writable(file)
    problem = load_csv(read_text(path, error=ScheduleError), capacity_bytes, str(path))
    solution = solve(problem, time_limit_s=time_limit_s)
    if out is not None:
        atomic_write_text(out, dump_solution(solution) + "\n")
    return problem, solution


def placement_json(problem: PlacementProblem, solution: PlacementSolution) -> str:
    """The placement as the one JSON object that scripts read."""
    document: dict[str, object] = {
        "status": solution.status,
        "height_bytes": solution.height_bytes,
        "bound_bytes": solution.bound_bytes,
        "capacity_bytes": problem.capacity_bytes,
        "wall_s": solution.wall_s,
        "solver": solution.solver,
        "offsets": dict(solution.offsets),
    }
    if not solution.offsets and solution.height_bytes is None:
        document["reason"] = solution.message(problem.capacity_bytes)
        document["lowest_known_bytes"] = solution.lowest_known_bytes
    return json.dumps(document)


def placement_table(problem: PlacementProblem, solution: PlacementSolution) -> Table:
    """The placement for people: where every buffer lies."""
    reached = (
        "" if solution.height_bytes is None else f", {solution.height_bytes} bytes (at least {solution.bound_bytes})"
    )
    table = Table(title=f"{len(problem.buffers)} buffers: {solution.status}{reached}, {solution.wall_s:.1f} s")
    if solution.height_bytes is None:
        table.add_column("why")
        table.add_row(solution.message(problem.capacity_bytes))
        return table
    for name in ("buffer", "from", "to", "offset", "bytes"):
        table.add_column(name, justify="left" if name == "buffer" else "right")
    for buffer in problem.buffers:
        numbers = (buffer.lower, buffer.upper, solution.offsets[buffer.name], buffer.size_bytes)
        table.add_row(buffer.name, *(str(number) for number in numbers))
    return table


def placement_of(
    path: Path, budget: str | None, capacity: str | None, time_limit_s: float, out: Path | None, report: Path | None
) -> tuple[PlacementProblem, PlacementSolution]:
    """What the options of ``instar schedule buffers.csv`` ask for.

    Raises:
        ConfigError: a budget, which operator graphs have.
    """
    from .schedule import parse_bytes

    if budget is not None:
        raise ConfigError("--budget: expected --capacity for buffers of a .csv; operator graphs have a budget")
    limit = None if capacity is None else parse_bytes(capacity, "--capacity")
    return place_buffers(path, limit, time_limit_s=time_limit_s, out=out, report=report)


def placement_shown(
    console: Console,
    buffers: PlacementProblem,
    found: PlacementSolution,
    *,
    as_json: bool,
    report: Path | None = None,
) -> None:
    """One JSON object, or a table; then the picture.

    Raises:
        ScheduleError: there is no placement to draw.
    """
    if as_json:
        console.out(placement_json(buffers, found), highlight=False)
    else:
        show(console, placement_table(buffers, found))
    if report is not None:
        from .schedule_picture import placement_page

        atomic_write_text(report, placement_page(buffers, found))
