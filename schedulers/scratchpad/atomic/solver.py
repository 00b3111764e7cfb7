"""Whole operators: order, residency and addresses, from what is proven at once to what must be searched.

1. The given order with its best replacement. 2. The order of the lowest peak: if it fits, nothing is spilled; if not,
what exceeds the budget bounds the traffic of every order. 3. Beam search, and descent around what is evicted.
4. CP-SAT on order and residency together where the graph is small. 5. Addresses; a residency without a placement is
refused, and the next best one of that order is placed; one for which time ran out is exchanged for one with room to
spare.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ....ir.errors import ScheduleError
from ...placement import PlacementProblem
from ...placement import solve as place
from ..problem import Problem
from ..schedule import Infeasible
from .beam import beam_order
from .bounds import traffic_bound
from .checker import check
from .fixed_order import Replacement, replace_exactly, traffic_bytes
from .flow import Flow, Gap, gaps, make_flow
from .free_order import solve_free_order
from .local import Found, LocalSearch
from .peak import lowest_peak
from .schedule import AtomicSchedule, Stay, buffers_of, on_chip_bytes, stays_of

EXACT_STEPS = 100
"""Operators up to which order and residency are solved together."""

PEAK_STATES = 60_000
"""Sets of operators that the search for the lowest peak looks at."""

BEAM_WIDTHS = (1, 4)

LEAST_S = 0.05
"""Seconds for a step that must be taken even where time is over."""

DESCENTS = 6
"""Descents of the local search, each from another shaken order."""

Addresses = tuple[tuple[Stay, ...], tuple[int, ...]]
"""Stays with addresses; where constants are on chip, their address in every step."""

SEARCH_SHARE = 0.75
"""Share of the time for order and residency; the rest is for addresses."""

ROOMIER = (0.95, 0.85, 0.7, 0.4, 0.0)
"""Where no addresses were found in time: how much is filled of what the budget has beyond the largest operator."""

PLACING_SHARE = 0.5
"""Share of the time that is left for addresses of one residency."""


@dataclass(frozen=True)
class AtomicOptions:
    """How to schedule.

    Attributes:
        budget_bytes: of scratchpad.
        time_limit_s: wall time; kept within a tenth.
        fixed_order: keep the order of the problem.
        weights: an operator's constants are on chip while it runs.
        alignment_bytes: of all addresses.
        workers: threads, 1 or 2.
        seed: of everything random.
    """

    budget_bytes: int
    time_limit_s: float = 60.0
    fixed_order: bool = False
    weights: bool = False
    alignment_bytes: int = 1
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget_bytes < 0:
            raise ScheduleError(f"budget: expected at least 0 bytes, found {self.budget_bytes}; correct it")
        if not 0 < self.time_limit_s < float("inf"):
            raise ScheduleError(f"time limit: expected a positive number of seconds, found {self.time_limit_s}")
        if self.workers not in (1, 2):
            raise ScheduleError(f"workers: expected 1 or 2, found {self.workers}; correct it")
        if self.alignment_bytes < 1:
            raise ScheduleError(f"alignment: expected at least 1, found {self.alignment_bytes}; correct it")


def solve_atomic(problem: Problem, options: AtomicOptions) -> AtomicSchedule:
    """The schedule with least traffic that was found in time, with a bound, addresses, and the checker's approval.

    Raises:
        ScheduleError: the schedule failed its checker (a defect).
    """
    started = time.perf_counter()
    found = _Run(problem, options, started + options.time_limit_s).solve()
    found = replace(found, wall_s=time.perf_counter() - started)
    wrong = check(problem, found, weights=options.weights)
    if wrong:
        raise ScheduleError(f"schedule: expected one that its checker accepts, found: {wrong[0]}; report this")
    return found


class _Run:
    def __init__(self, problem: Problem, options: AtomicOptions, deadline: float) -> None:
        self._problem = problem
        self._options = options
        self._deadline = deadline
        self._search_until = deadline - (1 - SEARCH_SHARE) * options.time_limit_s
        self._flow: Flow = make_flow(problem, weights=options.weights)
        self._budget = options.budget_bytes
        self._bound = 0
        self._solver = "fixed order"

    def solve(self) -> AtomicSchedule:
        flow = self._flow
        if flow.required_bytes > self._budget:
            operator = max(range(flow.steps), key=lambda place: flow.pinned[place])
            why = Infeasible(self._problem.operators[operator].name, flow.required_bytes)
            return AtomicSchedule("infeasible", self._budget, fixed_order=self._options.fixed_order, infeasible=why)
        best = self._given()
        if self._options.fixed_order:
            self._bound = best.replacement.bound_bytes
        elif best.traffic_bytes:
            best = self._free(best)
        return self._placed(best)

    def _given(self) -> Found:
        order = tuple(range(self._flow.steps))
        seconds = max(self._searching(), LEAST_S)
        seed = self._options.seed
        return Found(order, replace_exactly(self._flow, order, self._budget, seconds=seconds, seed=seed))

    def _free(self, best: Found) -> Found:
        """A better order, if there is time for one, and a bound for all orders."""
        search = LocalSearch(self._flow, self._budget, self._options.seed, self._search_until)
        lowest = lowest_peak(self._flow, states=PEAK_STATES, above_bytes=self._budget, deadline=self._until(1 / 3))
        self._bound = traffic_bound(self._flow, lowest.bound_bytes, self._budget)
        if lowest.order:
            best = self._better(best, search.judge(lowest.order), "lowest peak")
        for width in BEAM_WIDTHS:
            order = None if self._done(best) else beam_order(self._flow, self._budget, width, self._until(1 / 3))
            if order is not None:
                best = self._better(best, search.judge(order), "beam search")
        if not self._done(best):
            best = self._better(best, search.improve(best, self._bound, DESCENTS), "local search")
        return best if self._done(best) or self._flow.steps > EXACT_STEPS else self._exact(best)

    def _exact(self, best: Found) -> Found:
        options = self._options
        found = solve_free_order(
            self._flow,
            self._budget,
            best.order,
            best.replacement.dropped,
            self._bound,
            seconds=self._searching(),
            workers=options.workers,
            seed=options.seed,
        )
        self._bound = max(self._bound, found.bound_bytes)
        seconds = max(self._searching(), LEAST_S)
        replacement = replace_exactly(self._flow, found.order, self._budget, seconds=seconds, seed=options.seed)
        return self._better(best, Found(found.order, replacement), "CP-SAT")

    def _better(self, best: Found, other: Found, solver: str) -> Found:
        if other.traffic_bytes >= best.traffic_bytes:
            return best
        self._solver = solver
        return other

    def _done(self, best: Found) -> bool:
        return best.traffic_bytes <= self._bound or self._searching() <= 0

    def _searching(self) -> float:
        return self._search_until - time.perf_counter()

    def _left(self) -> float:
        return self._deadline - time.perf_counter()

    def _until(self, share: float) -> float:
        return time.perf_counter() + share * max(self._searching(), 0.0)

    def _placed(self, best: Found) -> AtomicSchedule:
        """Addresses for the cheapest residency of the order that has some."""
        forbidden: list[tuple[Gap, ...]] = []
        replacement, order = best.replacement, best.order
        while True:
            stays = stays_of(self._flow, order, replacement.dropped)
            outcome = self._addresses(order, stays)
            if outcome is not None:
                return self._finished(order, replacement, outcome, len(forbidden))
            every = gaps(self._flow, order)
            kept = tuple(gap for gap in every if gap not in set(replacement.dropped))
            if not kept or not self._proven:
                return self._roomier(order, len(forbidden) + 1)
            forbidden.append(kept)
            replacement = replace_exactly(
                self._flow, order, self._budget, seconds=max(self._left() / 2, LEAST_S), forbidden=forbidden
            )
            if self._options.fixed_order:
                self._bound = max(self._bound, replacement.bound_bytes)

    def _roomier(self, order: tuple[int, ...], refused: int) -> AtomicSchedule:
        """Residencies that leave some of the budget free, until one has addresses; at last all leave that can."""
        for replacement in self._roomier_residencies(order):
            outcome = self._addresses(order, stays_of(self._flow, order, replacement.dropped))
            if outcome is not None:
                return self._finished(order, replacement, outcome, refused)
            refused += 1
        return AtomicSchedule("timeout", self._budget, fixed_order=self._options.fixed_order)

    def _roomier_residencies(self, order: tuple[int, ...]) -> Iterator[Replacement]:
        spare = self._budget - self._flow.required_bytes
        for budget in dict.fromkeys(self._flow.required_bytes + int(spare * share) for share in ROOMIER):
            seconds = max(self._left() / 4, LEAST_S)
            yield replace_exactly(self._flow, order, budget, seconds=seconds, seed=self._options.seed)
        every = tuple(gaps(self._flow, order))
        yield Replacement(every, traffic_bytes(self._flow, every), 0)

    def _addresses(self, order: Sequence[int], stays: Sequence[Stay]) -> Addresses | None:
        """Stays with addresses, and those of constants; ``None`` if none were found."""
        step = self._options.alignment_bytes
        buffers = buffers_of(self._flow, order, stays, step)
        limit = max(PLACING_SHARE * self._left(), LEAST_S)
        options = self._options
        found = place(
            PlacementProblem(buffers, self._budget), time_limit_s=limit, workers=options.workers, seed=options.seed
        )
        self._proven = found.status == "infeasible"
        if found.height_bytes is None:
            return None
        offsets = [found.offsets[buffer.name] for buffer in buffers]
        constants = tuple(found.offsets.get(f"constants@{step}", 0) for step in range(len(order)))
        placed = tuple(replace(stay, offset_bytes=at) for stay, at in zip(stays, offsets, strict=False))
        return placed, constants if len(buffers) > len(stays) else ()

    def _finished(
        self,
        order: tuple[int, ...],
        replacement: Replacement,
        placed: Addresses,
        refused: int,
    ) -> AtomicSchedule:
        flow, (stays, constants) = self._flow, placed
        tops = [(stay.offset_bytes or 0) + flow.sizes[stay.tensor] for stay in stays if flow.sizes[stay.tensor]]
        for step, at in enumerate(constants):
            tops.append(at + flow.pinned[order[step]] - sum(flow.sizes[t] for t in self._touched(order[step])))
        return AtomicSchedule(
            status="optimal" if replacement.traffic_bytes == self._bound else "feasible",
            budget_bytes=self._budget,
            order=order,
            stays=stays,
            constants=constants,
            traffic_bytes=replacement.traffic_bytes,
            bound_bytes=self._bound,
            peak_bytes=max(on_chip_bytes(flow, order, stays), default=0),
            height_bytes=max(tops, default=0),
            fixed_order=self._options.fixed_order,
            solver=self._solver,
            refused=refused,
        )

    def _touched(self, operator: int) -> set[int]:
        return {*self._flow.reads[operator], self._flow.makes[operator]}
