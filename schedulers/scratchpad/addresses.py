"""Schedules with addresses: where the buffers of the cheapest one do not fit, the next best one is tried.

Residency first, placement second, and a cut on failure (logic-based Benders decomposition): the shortest sequence of
ranges whose buffers are proven to have no placement is refused, and the search goes on without it. Where time ran out,
or too many were refused, schedules for a little less memory leave room for gaps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..placement import Buffer, PlacementProblem
from ..placement import solve as place
from .checker import replay
from .options import Options
from .problem import Problem
from .program import NoAddressesError, Program, assemble
from .schedule import Refused, Schedule
from .solver import next_best, solve

MOST_REFUSED = 12
"""Sequences of ranges that are refused before schedules for less memory are tried."""

ROOMIER = (0.98, 0.95, 0.9, 0.8, 0.65)
"""Parts of the budget that those may fill."""

SOLVING_SHARE = 0.6
"""Of the time, for the first schedule."""

PLACING_S = 10.0
"""Seconds for one placement at most."""


@dataclass(frozen=True)
class Addressed:
    """A schedule with addresses, beside what the cheapest one without them moves.

    Attributes:
        schedule: with the address of every buffer; without ``program`` the one that was not placed, or the reason why
            there is none.
        program: with addresses, or ``None``.
        refused: schedules that turned out to have no addresses.
        unplaced_bytes: what the best schedule moves if only bytes are counted.
    """

    schedule: Schedule
    program: Program | None
    refused: int = 0
    unplaced_bytes: int = 0

    @property
    def fragmentation_bytes(self) -> int:
        """What addresses cost in avoidable bytes."""
        return 0 if self.program is None else self.schedule.traffic.total_bytes - self.unplaced_bytes

    @property
    def gap_bytes(self) -> int:
        """What addresses cost in memory: the highest one beyond the most bytes on chip."""
        return 0 if self.program is None else self.program.height_bytes - self.schedule.peak_bytes


def solve_with_addresses(
    problem: Problem, options: Options, *, alignment_bytes: int = 1, early_weights: bool = False
) -> Addressed:
    """The best schedule that was found whose buffers have addresses within the budget.

    Args:
        problem: the network.
        options: budget, time for everything together, and what is allowed.
        alignment_bytes: every address is a multiple of it.
        early_weights: see :func:`~.program.assemble`.
    """
    deadline = time.perf_counter() + options.time_limit_s
    first = solve(problem, replace(options, time_limit_s=SOLVING_SHARE * options.time_limit_s))
    run = _Placing(problem, options, deadline, alignment_bytes, early_weights, first)
    return run.placed() if first.order else Addressed(first, None)


class _Placing:
    """Schedules of one order, from the cheapest on, until one has addresses."""

    def __init__(
        self,
        problem: Problem,
        options: Options,
        deadline: float,
        alignment_bytes: int,
        early_weights: bool,
        first: Schedule,
    ) -> None:
        self._problem, self._options, self._deadline = problem, options, deadline
        self._alignment, self._early, self._first = alignment_bytes, early_weights, first
        self._refused = 0
        self._cuts: list[tuple[Refused, ...]] = []

    def placed(self) -> Addressed:
        schedule = self._first
        while schedule.order:
            found = self._try(schedule)
            if found is not None:
                return found
            if self._failed is None or len(self._cuts) >= MOST_REFUSED or self._left() <= 0:
                break
            self._cuts.append(shortest_failure(self._problem, schedule, self._failed, self._left() / 4))
            options = replace(self._options, time_limit_s=max(self._left() / 2, 0.1))
            schedule = next_best(self._problem, options, self._first.order, self._cuts)
        return self._roomier()

    def _roomier(self) -> Addressed:
        for share in ROOMIER:
            if self._left() <= 0:
                break
            budget = int(share * self._options.budget_bytes)
            options = replace(self._options, budget_bytes=budget, time_limit_s=max(self._left() / 2, 0.1))
            schedule = next_best(self._problem, options, self._first.order, ())
            found = self._try(schedule) if schedule.order else None
            if found is not None:
                return found
        return Addressed(self._first, None, self._refused, self._first.traffic.total_bytes)

    def _try(self, schedule: Schedule) -> Addressed | None:
        """The schedule with addresses; without any, ``_failed`` has its buffers if that is proven."""
        within = replace(schedule, budget_bytes=self._options.budget_bytes)
        seconds = min(PLACING_S, max(self._left() / 2, 0.1))
        try:
            program = assemble(
                self._problem,
                within,
                time_limit_s=seconds,
                alignment_bytes=self._alignment,
                early_weights=self._early,
            )
        except NoAddressesError as error:
            self._failed = error.buffers if error.proven else None
            self._refused += 1
            return None
        return self._finished(within, program)

    def _finished(self, schedule: Schedule, program: Program) -> Addressed:
        """What the first schedule was proven to be bounds all others of its order."""
        bound, best = self._first.bound_bytes, self._first.traffic.total_bytes
        proven = self._first.status == "optimal" and schedule.traffic.total_bytes == bound
        final = replace(
            schedule,
            status="optimal" if proven else "feasible",
            bound_bytes=bound,
            offsets=dict(program.offsets),
        )
        return Addressed(final, replace(program, schedule=final), self._refused, best)

    def _left(self) -> float:
        return self._deadline - time.perf_counter()


def shortest_failure(
    problem: Problem, schedule: Schedule, buffers: Mapping[str, Buffer], time_limit_s: float
) -> tuple[Refused, ...]:
    """The ranges of the shortest part of a schedule whose buffers are proven to have no addresses.

    Args:
        problem: the network.
        schedule: without addresses.
        buffers: with their lifetimes in ranges; there is no placement of all of them.
        time_limit_s: seconds; what is not proven in time is not shortened.
    """
    deadline = time.perf_counter() + time_limit_s
    first, stop = 0, len(schedule.ranges)
    while stop - first > 1 and _fails(buffers, first + 1, stop, schedule.budget_bytes, deadline):
        first += 1
    while stop - first > 1 and _fails(buffers, first, stop - 1, schedule.budget_bytes, deadline):
        stop -= 1
    sizes = replay(problem, schedule).range_bytes
    return tuple(
        Refused(piece.start, piece.stop, frozenset(piece.whole), size)
        for piece, size in zip(schedule.ranges[first:stop], sizes[first:stop], strict=True)
    )


def _fails(buffers: Mapping[str, Buffer], first: int, stop: int, budget_bytes: int, deadline: float) -> bool:
    alive = tuple(
        replace(buffer, lower=max(buffer.lower, first), upper=min(buffer.upper, stop))
        for buffer in buffers.values()
        if buffer.lower < stop and first < buffer.upper
    )
    left = deadline - time.perf_counter()
    found = left > 0 and place(PlacementProblem(alive, capacity_bytes=budget_bytes), time_limit_s=left, workers=1)
    return found and found.status == "infeasible"
