"""Placement: lower bound, quick heuristics, then exact searches on the stretches of time that they left unsolved."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...ir.errors import ScheduleError
from .baselines import greedy_by_conflicts, greedy_by_size, height, hill_climb
from .bound import crowd
from .checker import check, overlaps
from .instance import make_instance
from .portfolio import Portfolio
from .problem import Buffer, Crowd, PlacementProblem, PlacementSolution
from .search import Outcome

CLIMB_STEPS = 200
"""Placements that hill climbing may try where a lowest height is asked for."""

ROUNDS_PER_HEIGHT = 5
"""Rounds of the exact searches for each height that is tried."""


def solve(
    problem: PlacementProblem, *, time_limit_s: float = 60.0, workers: int = 2, seed: int = 0
) -> PlacementSolution:
    """Place all buffers within the capacity, or as low as can be found where none is given.

    Args:
        problem: what to place.
        time_limit_s: wall time; kept within a tenth.
        workers: threads, 1 or 2. The second one runs CP-SAT beside the canonical search.
        seed: of everything random; where time does not run out it alone decides the result.

    Raises:
        ScheduleError: an option is out of range, or sizes are too large for 64-bit arithmetic.
    """
    if not (time_limit_s > 0 and math.isfinite(time_limit_s)):
        raise ScheduleError(f"time limit: expected a positive number of seconds, found {time_limit_s}; correct it")
    if workers not in (1, 2):
        raise ScheduleError(f"workers: expected 1 or 2, found {workers}; correct it")
    started = time.perf_counter()
    solution = _Run(problem, started + time_limit_s, workers, seed).solve()
    solution = replace(solution, wall_s=time.perf_counter() - started, seed=seed)
    wrong = check(problem, solution)
    if wrong:
        raise ScheduleError(f"placement: expected a solution that its checker accepts, found: {wrong[0]}; report this")
    return solution


class _Run:
    """One call of :func:`solve`."""

    def __init__(self, problem: PlacementProblem, deadline: float, workers: int, seed: int) -> None:
        self._buffers = problem.buffers
        self._capacity = problem.capacity_bytes
        self._deadline = deadline
        self._workers = workers
        self._seed = seed
        self._solver = "greedy"
        self._greedy_s = 0.0
        self._crowd = crowd(problem.buffers)
        self._bound = 0 if self._crowd is None else self._crowd.needed_bytes

    def solve(self) -> PlacementSolution:
        collision = _collision(self._buffers)
        if collision is not None:
            return self._without("infeasible", collision, None)
        best = self._heuristics()
        if self._capacity is not None:
            return self._decide(self._capacity, best)
        return self._minimise(best)

    def _heuristics(self) -> tuple[int, ...]:
        """First fit by size, and by conflicts where that is not enough and time is left for it."""
        started = time.perf_counter()
        best = greedy_by_size(self._buffers)
        self._greedy_s = time.perf_counter() - started
        enough = self._bound if self._capacity is None else self._capacity
        if height(self._buffers, best) <= enough or not self._time_for_greedy():
            return best
        other = greedy_by_conflicts(self._buffers)
        return min(best, other, key=lambda offsets: height(self._buffers, offsets))

    def _time_for_greedy(self) -> bool:
        """Whether one more first fit ends before the deadline."""
        return time.perf_counter() + self._greedy_s < self._deadline

    def _decide(self, capacity: int, best: tuple[int, ...]) -> PlacementSolution:
        known = height(self._buffers, best)
        if self._bound > capacity:
            return self._without("infeasible", self._crowd, known)
        if known <= capacity:
            return self._found(best)
        outcome, offsets = self._attempt(capacity, best, math.inf)
        if outcome == "found":
            return self._found(offsets)
        return self._without("infeasible" if outcome == "impossible" else "timeout", self._crowd, known)

    def _minimise(self, best: tuple[int, ...]) -> PlacementSolution:
        """Try the bound, then heights halfway between what was not found and what was."""
        if height(self._buffers, best) > self._bound and self._time_for_greedy():
            until = self._deadline - self._greedy_s
            climbed = hill_climb(
                self._buffers, seed=self._seed, steps=CLIMB_STEPS, goal_bytes=self._bound, deadline=until
            )
            if height(self._buffers, climbed) < height(self._buffers, best):
                best, self._solver = climbed, "hill climbing"
        missed = self._bound - 1
        target = self._bound
        while missed + 1 < height(self._buffers, best) and time.perf_counter() < self._deadline:
            outcome, offsets = self._attempt(target, best, ROUNDS_PER_HEIGHT)
            if outcome == "found":
                best = offsets
            else:
                missed = target
            if outcome == "impossible":
                self._bound = max(self._bound, target + 1)
            target = (missed + height(self._buffers, best)) // 2
        return self._found(best)

    def _attempt(self, capacity: int, best: tuple[int, ...], rounds: float) -> tuple[Outcome, tuple[int, ...]]:
        """Search every stretch of time in which the known placement is too high; the others keep theirs."""
        offsets = list(best)
        for stretch in _stretches(self._buffers):
            members = [self._buffers[place] for place in stretch]
            if height(members, [best[place] for place in stretch]) <= capacity:
                continue
            outcome, found = self._search(members, capacity, rounds)
            if outcome != "found":
                return outcome, best
            for place, offset in zip(stretch, found, strict=True):
                offsets[place] = offset
        return "found", tuple(offsets)

    def _search(self, buffers: Sequence[Buffer], capacity: int, rounds: float) -> tuple[Outcome, tuple[int, ...]]:
        instance = make_instance(buffers, capacity)
        portfolio = Portfolio(instance, self._seed, self._workers)
        outcome: Outcome = "stopped"
        while outcome == "stopped" and portfolio.rounds < rounds and time.perf_counter() < self._deadline:
            outcome = portfolio.round(self._deadline)
        if outcome != "stopped":
            self._solver = portfolio.solver
        if outcome != "found":
            return outcome, ()
        offsets = [buffer.offset_bytes or 0 for buffer in buffers]
        for place, offset in zip(instance.origin, portfolio.offsets.tolist(), strict=True):
            offsets[place] = offset * instance.unit_bytes
        return outcome, tuple(offsets)

    def _found(self, offsets: tuple[int, ...]) -> PlacementSolution:
        reached = height(self._buffers, offsets)
        return PlacementSolution(
            status="optimal" if reached == self._bound else "feasible",
            offsets={buffer.name: at for buffer, at in zip(self._buffers, offsets, strict=True)},
            height_bytes=reached,
            bound_bytes=self._bound,
            wall_s=0.0,
            solver=self._solver,
        )

    def _without(self, status: Outcome | str, why: Crowd | None, known: int | None) -> PlacementSolution:
        return PlacementSolution(
            status="infeasible" if status == "infeasible" else "timeout",
            offsets={},
            height_bytes=None,
            bound_bytes=self._bound,
            wall_s=0.0,
            solver=self._solver,
            crowd=why if status == "infeasible" else None,
            lowest_known_bytes=known,
        )


def _collision(buffers: Sequence[Buffer]) -> Crowd | None:
    """Buffers with fixed offsets that overlap each other: no capacity helps."""
    fixed = PlacementProblem(tuple(buffer for buffer in buffers if buffer.offset_bytes is not None))
    offsets = {buffer.name: buffer.offset_bytes for buffer in fixed.buffers if buffer.offset_bytes is not None}
    if next(overlaps(fixed, offsets), None) is None:
        return None
    at = min(buffer.lower for buffer in fixed.buffers)
    return Crowd(at, tuple(offsets), max(b.size_bytes + offsets[b.name] for b in fixed.buffers))


def _stretches(buffers: Sequence[Buffer]) -> Iterator[list[int]]:
    """Positions of buffers with bytes, in groups that do not meet in time."""
    used = [place for place in range(len(buffers)) if buffers[place].size_bytes > 0]
    group: list[int] = []
    end = -math.inf
    for place in sorted(used, key=lambda place: buffers[place].lower):
        if buffers[place].lower >= end and group:
            yield group
            group = []
        group.append(place)
        end = max(end, buffers[place].upper)
    if group:
        yield group
