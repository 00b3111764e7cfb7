"""``solve``: problem in, checked schedule out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ...ir.errors import ScheduleError
from ..status import Status
from .candidates import Candidate, candidates
from .checker import check, replay
from .feasibility import smallest_budget
from .options import Options
from .problem import Problem
from .schedule import Range, Schedule
from .search import Found, Search, Step
from .stripes import Sequenced, sequenced

WIDTHS = (24, 200, 1600)
"""Labels per border of one search after the other; the first that keeps all proves the optimum."""

LONGEST = 48
"""Operators in a depth-first range at most."""


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
    deadline = started + options.time_limit_s
    net = sequenced(problem, range(len(problem.operators)), atomic=options.atomic)
    infeasible = smallest_budget(net, options)
    if infeasible is not None:
        return replace(_empty("infeasible", options), infeasible=infeasible, wall_s=time.perf_counter() - started)
    found = list(candidates(net, options, 1 if options.atomic else LONGEST))
    best, proven = _search(net, found, options, deadline)
    if best is None:
        return replace(_empty("timeout", options), wall_s=time.perf_counter() - started)
    schedule = _schedule(net, best, options, proven=proven)
    schedule = replace(schedule, wall_s=time.perf_counter() - started)
    wrong = check(problem, schedule)
    if wrong:
        raise ScheduleError(f"schedule: expected a valid one, found: {'; '.join(wrong[:5])}; report this")
    return schedule


def _search(net: Sequenced, found: Sequence[Candidate], options: Options, deadline: float) -> tuple[Found | None, bool]:
    """The best schedule of searches of growing width, and whether it is proven to be the best."""
    best: Found | None = None
    for width in WIDTHS:
        ceiling = None if best is None else best.cost_bytes
        outcome = Search(net, found, options, width, deadline).run(ceiling)
        best = outcome.found or best
        if outcome.complete or (best is not None and best.cost_bytes == 0):
            return best, True
        if time.perf_counter() > deadline:
            break
    return best, False


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
