"""``solve``: problem in, checked schedule out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ...ir.errors import ScheduleError
from ..status import Status
from .candidates import Candidate, Reach, candidates
from .checker import check, replay
from .feasibility import LONGEST, smallest_budget
from .moves import Moves
from .options import Options
from .orders import depth_first_order
from .problem import Problem
from .schedule import Range, Schedule
from .search import Found, Outcome, Search, Step
from .stripes import Sequenced, sequenced


@dataclass(frozen=True)
class Phase:
    """One search: which ranges, how many labels per border, and whether tensors may be in both places."""

    reach: Reach
    width: int
    both: bool


EVERYTHING = Reach(LONGEST, 6)

PHASES = (Phase(EVERYTHING, 24, both=False), Phase(EVERYTHING, 200, both=True), Phase(EVERYTHING, 1600, both=True))
"""One search after the other, each below the ceiling of the one before; the first that leaves nothing out proves it."""

LARGE = 160
"""Operators from which on the phases for large networks come first."""

LARGE_PHASES = tuple(
    Phase(reach, width, both=False)
    for reach, widths in ((Reach(6, 1), (4,)), (Reach(24, 1), (8,)), (Reach(24, 2), (8, 32)), (Reach(32, 3), (16, 64)))
    for width in widths
)

SEARCH_SHARE = 0.9
"""Of the time limit; the rest is for the replay of what was found."""

ATOMIC = Reach(1, 1)


def solve(problem: Problem, options: Options) -> Schedule:
    """The schedule that moves the fewest avoidable bytes, with a bound.

    Args:
        problem: the network.
        options: budget, time and what is allowed.

    Returns:
        A schedule that the checker has accepted; ``infeasible`` and ``timeout`` are results, not errors.

    Raises:
        ScheduleError: the schedule failed the independent checker (a defect).
    """
    started = time.perf_counter()
    deadline = started + SEARCH_SHARE * options.time_limit_s
    net = sequenced(problem, range(len(problem.operators)), atomic=options.atomic)
    infeasible = smallest_budget(net, options)
    if infeasible is not None:
        return replace(_empty("infeasible", options), infeasible=infeasible, wall_s=time.perf_counter() - started)
    best, net, proven = _search(net, options, deadline)
    if best is None:
        return replace(_empty("timeout", options), wall_s=time.perf_counter() - started)
    schedule = _schedule(net, best, options, proven=proven)
    schedule = replace(schedule, wall_s=time.perf_counter() - started)
    wrong = check(problem, schedule)
    if wrong:
        raise ScheduleError(f"schedule: expected a valid one, found: {'; '.join(wrong[:5])}; report this")
    return schedule


def _search(net: Sequenced, options: Options, deadline: float) -> tuple[Found | None, Sequenced, bool]:
    """The best schedule of searches of growing effort, its order, and whether no better one exists in that order."""
    best: Found | None = None
    phases = (*LARGE_PHASES, *PHASES) if net.count > LARGE else PHASES
    if options.atomic:
        phases = tuple(replace(phase, reach=ATOMIC) for phase in PHASES)
    ways = [net] if options.fixed_order or net.count <= LARGE else [net, _reordered(net)]
    found: dict[Reach, list[Candidate]] = {}
    for phase in phases:
        tried: list[tuple[Outcome, Sequenced]] = []
        for way in ways:
            tried.append((_run(way, phase, options, best, deadline, found if way is ways[0] else {}), way))
            if tried[-1][0].found is not None and tried[-1][0].found.cost_bytes == 0:
                break
        better = [(outcome.found.cost_bytes, way) for outcome, way in tried if outcome.found is not None]
        if better:
            cost, net = min(better, key=lambda pair: pair[0])
            best = next(
                o.found for o, way in tried if way is net and o.found is not None and o.found.cost_bytes == cost
            )
        if len(ways) > 1:
            ways, found = [net], {}
        everything = phase.reach in (EVERYTHING, ATOMIC) and phase.both
        if (best is not None and best.cost_bytes == 0) or (everything and tried[-1][0].complete):
            return best, net, True
        if time.perf_counter() > deadline:
            break
    return best, net, False


def _run(
    net: Sequenced,
    phase: Phase,
    options: Options,
    best: Found | None,
    deadline: float,
    known: dict[Reach, list[Candidate]],
) -> Outcome:
    if phase.reach not in known:
        known.clear()
        found: list[Candidate] = []
        for candidate in candidates(net, options, phase.reach):
            found.append(candidate)
            if time.perf_counter() > deadline:
                return Outcome(None, complete=False)
        known[phase.reach] = found
    moves = Moves(net, options, both=phase.both)
    ceiling = None if best is None else best.cost_bytes
    return Search(net, known[phase.reach], moves, options, phase.width, deadline).run(ceiling)


def _reordered(net: Sequenced) -> Sequenced:
    return sequenced(net.problem, depth_first_order(net.problem))


def _empty(status: Status, options: Options) -> Schedule:
    return Schedule(
        status,
        options.budget_bytes,
        min_rows=options.min_rows,
        no_spill=options.no_spill,
        stream_buffer_bytes=options.stream_buffer_bytes,
        atomic=options.atomic,
        solver=SOLVER,
    )


SOLVER = "dynamic programming over range borders"


def _schedule(net: Sequenced, found: Found, options: Options, *, proven: bool) -> Schedule:
    """The steps as a schedule, with the bytes that the replay counts."""
    ranges = tuple(_range(net, step) for step in found.steps)
    draft = replace(_empty("feasible", options), order=net.order, ranges=ranges)
    counted = replay(net.problem, draft)
    return replace(
        draft,
        status="optimal" if proven else "feasible",
        traffic=counted.traffic,
        peak_bytes=counted.peak_bytes,
        bound_bytes=counted.traffic.total_bytes if proven else 0,
    )


def _range(net: Sequenced, step: Step) -> Range:
    stripes, point = step.candidate.stripes, step.candidate.points[step.point]
    outputs = [net.output(position) for position in range(stripes.start, stripes.end + 1)]
    delivered = [t for t in outputs if net.problem.tensors[t].role == "output" and t not in step.whole]
    resident = [
        net.order[position]
        for position in range(stripes.start, stripes.end + 1)
        if point.members >> (stripes.end - position) & 1
    ]
    return Range(
        stripes.start,
        stripes.end + 1,
        stripes.heights[point.height],
        step.whole,
        step.fetched,
        tuple(sorted({*step.stored, *delivered})),
        tuple(resident),
        stripes.layouts[step.layout][1],
    )
