"""What a search found as a schedule, counted by the replay within the time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...ir.errors import ScheduleError
from ..status import Status
from .candidates import OutOfTimeError
from .checker import Replay, check, replay
from .options import Options
from .schedule import Range, Schedule
from .search import Found, Step
from .sequenced import Sequenced

SOLVER = "dynamic programming over range borders"

OVERTIME = 1.05
"""Of the time limit, after which no replay goes on."""


class InHand:
    """The first schedule that a search finds, replayed at once.

    How long that takes is kept free for the replay of the best one. If that lasts longer still, there is this one.
    """

    def __init__(self, options: Options, started: float) -> None:
        """``started`` is when the time limit began, in ``time.perf_counter()``."""
        self._options = options
        self._limit, self._stop = started + options.time_limit_s, started + OVERTIME * options.time_limit_s
        self._known: tuple[Sequenced, Found, Schedule] | None = None
        self._lasted_s = 0.0

    def take(self, net: Sequenced, found: Found) -> None:
        """Replays what was found unless there is something already.

        Raises:
            OutOfTimeError: the time limit passed meanwhile.
            ScheduleError: the independent checker refuses it (a defect).
        """
        if self._known is None:
            began = time.perf_counter()
            self._known = net, found, _schedule(net, found, self._options, self._tick)
            self._lasted_s = time.perf_counter() - began

    def latest(self, deadline: float) -> float:
        """When the search ends, so that the best schedule can still be replayed."""
        return min(deadline, self._limit - self._lasted_s)

    def judged(self, net: Sequenced, found: Found, bound: int) -> Schedule:
        """What was found as a schedule with what bounds this order; what is in hand where the time is over.

        Raises:
            OutOfTimeError: nothing is in hand.
            ScheduleError: the independent checker refuses it (a defect).
        """
        if self._known is not None and found is self._known[1]:
            return _bounded(net, self._known[2], bound)
        try:
            return _bounded(net, _schedule(net, found, self._options, self._tick), bound)
        except OutOfTimeError:
            if self._known is None:
                raise
            before, _, schedule = self._known
            return _bounded(net, schedule, bound) if before is net else schedule

    def _tick(self) -> None:
        if time.perf_counter() > self._stop:
            raise OutOfTimeError


def empty_schedule(status: Status, options: Options) -> Schedule:
    """Without an order, for these options."""
    return Schedule(
        status,
        options.budget_bytes,
        min_rows=options.min_rows,
        no_spill=options.no_spill,
        stream_buffer_bytes=options.stream_buffer_bytes,
        atomic=options.atomic,
        solver=SOLVER,
    )


def _schedule(net: Sequenced, found: Found, options: Options, tick: Callable[[], None]) -> Schedule:
    """The steps as a schedule, with the bytes that the replay counts; nothing is proven about it yet."""
    ranges = tuple(_range(net, step) for step in found.steps)
    draft = replace(empty_schedule("feasible", options), order=net.order, ranges=ranges)
    counted = replay(net.problem, draft, tick)
    if counted.violations:
        raise ScheduleError(f"schedule: expected a valid one, found: {'; '.join(counted.violations[:5])}; report this")
    schedule = replace(draft, traffic=counted.traffic, peak_bytes=counted.peak_bytes)
    _accepted(check(net.problem, schedule, counted))
    return schedule


def _bounded(net: Sequenced, schedule: Schedule, bound: int) -> Schedule:
    """The schedule with its bound, optimal where it moves no more."""
    total = schedule.traffic.total_bytes
    proven = replace(schedule, status="optimal" if total == bound else "feasible", bound_bytes=bound)
    known = Replay(proven.traffic, proven.peak_bytes, ())
    _accepted(check(net.problem, proven, known))
    return proven


def _accepted(wrong: Sequence[str]) -> None:
    if wrong:
        raise ScheduleError(f"schedule: expected a valid one, found: {'; '.join(wrong)}; report this")


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
        stripes.layouts[step.layout].pairs,
        step.candidate.band,
    )
