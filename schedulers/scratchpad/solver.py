"""``solve``: problem in, checked schedule out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...ir.errors import ScheduleError
from .candidates import ALONE, ANY, MANY, Candidate, OutOfTimeError, Reach, candidates
from .checker import check
from .feasibility import Start, first_that_fits, one_by_one, smallest_budget
from .moves import Moves
from .options import Options
from .orders import orders
from .problem import Problem
from .relaxed import Relaxation
from .results import InHand, empty_schedule
from .schedule import Infeasible, Refused, Schedule
from .search import Found, Outcome, Search
from .sequenced import Sequenced, sequenced
from .shares import shares_bound
from .stripes import MOST_STRIPES
from .windows import Windows


@dataclass(frozen=True)
class Phase:
    """One search: which ranges, how many labels per border, and whether tensors may be in both places."""

    reach: Reach
    width: int
    both: bool


EVERYTHING = Reach(ANY, ANY)

IN_BANDS = Reach(ANY, ANY, bands=True)
"""Ranges that are cut along columns or channels too."""

PHASES = (Phase(EVERYTHING, 24, both=False), Phase(EVERYTHING, 200, both=True), Phase(EVERYTHING, 1600, both=True))
"""One search after the other, each below the ceiling of the one before; the first that leaves nothing out proves it."""

QUICK = Phase(ALONE, 1, both=False)
"""Operators one by one, one state per border: what is found where time is short."""

LARGE_PHASES = (
    QUICK,
    Phase(Reach(6, 1), 4, both=False),
    Phase(Reach(24, 1), 8, both=False),
    Phase(Reach(24, 2), 8, both=False),
    Phase(Reach(24, 2), 32, both=False),
    Phase(Reach(32, 3), 16, both=False),
    Phase(Reach(32, 3), 64, both=False),
)
"""The phases that come first where there are many operators."""

LONG_PHASES = (QUICK, Phase(ALONE, 8, both=False), Phase(ALONE, 64, both=False))
"""Until one finds a schedule, where windows of it are searched afterwards."""

SMALL_PHASES = (QUICK, Phase(Reach(16, 2), 8, both=False))
"""The phases that come first elsewhere, for results where time is short."""

FIRST_BAND_PHASES = (Phase(Reach(1, ANY, bands=True), 8, both=False), Phase(Reach(4, 2, bands=True), 8, both=False))
"""What comes first with bands: operators alone, short ranges."""

BAND_PHASES = tuple(replace(phase, reach=IN_BANDS) for phase in PHASES)
"""The phases with bands, after the first ones without; only for networks of which all ranges can be made."""

AFTER_SHARES = (LARGE_PHASES[2], PHASES[0])
"""Phases before which costs are shared for a bound: the order has been chosen, and the rest takes long."""

SOON_MADE = 60
"""Operators up to which all ranges are made soon, and exact bounds with them."""

SHARES_SHARE = 0.35
"""Of the time that is left, for a bound by shares."""

SEARCH_SHARE = 0.9
"""Of the time limit; the rest is for the replay of what was found."""

PEAK_SHARE = 0.1
"""Of the time that is left, for the order of the lowest peak."""

LARGEST = 1 << 60
"""Bytes: what sums of sizes stay below, as 64-bit integers hold them."""

WINDOWED = 1000
"""Operators above which only windows of an order are searched with ranges of several operators."""


def solve(problem: Problem, options: Options, *, hint: Schedule | None = None) -> Schedule:
    """The schedule that moves the fewest avoidable bytes, with a bound.

    Args:
        problem: the network.
        options: budget, time and what is allowed.
        hint: a schedule of the same problem that keeps to the options, such as one for a smaller budget: the result
            is never worse than it.

    Returns:
        A schedule that the checker has accepted; ``infeasible`` and ``timeout`` are results, not errors.

    Raises:
        ScheduleError: the hint breaks the options, or the schedule failed the independent checker (a defect).
    """
    started = time.perf_counter()
    _check_sizes(problem)
    deadline = started + SEARCH_SHARE * options.time_limit_s
    known = None if hint is None else _taken_over(problem, options, hint)
    schedule = known
    try:
        start = _start(problem, options, deadline, known)
        if isinstance(start, Infeasible):
            refusal = replace(empty_schedule("infeasible", options), infeasible=start)
            return replace(refusal, wall_s=time.perf_counter() - started)
        schedule = _solved(start, options, started, known)
    except OutOfTimeError:
        pass
    schedule = schedule or empty_schedule("timeout", options)
    return replace(schedule, wall_s=time.perf_counter() - started)


def _start(problem: Problem, options: Options, deadline: float, known: Schedule | None) -> Start | Infeasible:
    """Where to begin: in the order of a schedule that is known, else in the first order that fits."""
    if known is None:
        return first_that_fits(problem, options, deadline)
    net = sequenced(problem, range(len(problem.operators)), atomic=options.atomic)
    fitting = [way for way in one_by_one(net, options, deadline) if way.least_bytes() <= options.budget_bytes]
    return Start(net, fitting, cut=options.tiles == "always" and not options.atomic)


def _solved(start: Start, options: Options, started: float, known: Schedule | None) -> Schedule | None:
    """The best schedule of the first order; where that is proven and moves something, of other orders below it."""
    spent = time.perf_counter() - started
    deadline = started + min(SEARCH_SHARE * options.time_limit_s, options.time_limit_s - spent)
    hand, net, cut = InHand(options, started), start.net, start.cut
    ceiling = None if known is None else known.traffic.total_bytes
    best, net, bound = _search(net, options, deadline, ceiling, hand, alone=start.alone, cut=cut)
    ceiling = ceiling if best is None else best.cost_bytes
    if net.count <= MANY and 0 < bound == ceiling:
        for other in _other_orders(net, options, deadline):
            again, _, least = _search(other, replace(options, fixed_order=True), deadline, ceiling, hand, cut=cut)
            if again is not None:
                best, net, bound, ceiling = again, other, least, again.cost_bytes
    return _result(best, net, bound, hand, known)


def _check_sizes(problem: Problem) -> None:
    """Raises an error where sums of what is moved would not fit 64-bit integers."""
    moves = zip(problem.tensors, problem.consumers, strict=True)
    moved = sum(tensor.size_bytes * (2 + len(readers)) for tensor, readers in moves)
    most = max(moved, MOST_STRIPES * sum(operator.weight_bytes for operator in problem.operators))
    if most > LARGEST:
        raise ScheduleError(
            f"{problem.model}: expected sizes whose sums fit 64 bits, found up to {most} bytes that may be moved; "
            "count in larger units"
        )


def _result(best: Found | None, net: Sequenced, bound: int, hand: InHand, known: Schedule | None) -> Schedule | None:
    """What was found, else what was known with what was proven about it."""
    if best is not None:
        return hand.judged(net, best, bound)
    if known is None:
        return None
    proven = bound == known.traffic.total_bytes
    return replace(known, status="optimal" if proven else "feasible", bound_bytes=bound)


def sweep(problem: Problem, options: Options, budgets: Iterable[int]) -> tuple[Schedule, ...]:
    """One schedule per budget, ascending. Each search starts from the one before, so more memory is never worse.

    Args:
        problem: the network.
        options: of every search; its budget is not used.
        budgets: in bytes, in any order.
    """
    found: list[Schedule] = []
    for budget in sorted(budgets):
        hint = found[-1] if found and found[-1].order else None
        found.append(solve(problem, replace(options, budget_bytes=budget), hint=hint))
    return tuple(found)


def next_best(
    problem: Problem, options: Options, order: Sequence[int], refused: Sequence[Sequence[Refused]]
) -> Schedule:
    """The best schedule in this order that takes none of the refused sequences of ranges; ``timeout`` if none is found.

    Nothing is proven about it: what is left out may be more than what has no addresses.
    """
    started = time.perf_counter()
    deadline = started + SEARCH_SHARE * options.time_limit_s
    fixed = replace(options, fixed_order=True)
    net = sequenced(problem, order, atomic=options.atomic)
    hand = InHand(options, started)
    try:
        best, net, _ = _search(net, fixed, deadline, None, hand, refused, cut=_needs_bands(net, options, deadline))
        schedule = _result(best, net, 0, hand, None)
    except OutOfTimeError:
        schedule = None
    schedule = schedule or empty_schedule("timeout", options)
    return replace(schedule, wall_s=time.perf_counter() - started)


def _needs_bands(net: Sequenced, options: Options, deadline: float) -> bool:
    """Whether ranges are to be cut: always, or because rows alone do not fit."""
    if options.tiles != "auto" or options.atomic:
        return options.tiles == "always" and not options.atomic
    try:
        return smallest_budget(net, options, deadline) is not None
    except OutOfTimeError:
        return False


def _taken_over(problem: Problem, options: Options, hint: Schedule) -> Schedule:
    """The hint as a schedule for these options, with nothing proven."""
    empty = empty_schedule("feasible", options)
    schedule = replace(
        empty,
        order=hint.order,
        ranges=hint.ranges,
        traffic=hint.traffic,
        peak_bytes=hint.peak_bytes,
        solver=hint.solver,
    )
    wrong = check(problem, schedule)
    if options.fixed_order and hint.order != tuple(range(len(problem.operators))):
        wrong = (*wrong, "order: expected that of the problem, which the options fix")
    if wrong:
        raise ScheduleError(f"hint: expected a schedule that keeps to the options, found: {wrong[0]}; leave it out")
    return schedule


def _search(
    net: Sequenced,
    options: Options,
    deadline: float,
    ceiling: int | None,
    hand: InHand,
    refused: Sequence[Sequence[Refused]] = (),
    alone: list[Candidate] | None = None,
    cut: bool = False,
) -> tuple[Found | None, Sequenced, int]:
    """The best schedule below the ceiling, its order, and what no schedule in that order can be below.

    Searches of growing effort: the first one decides between orders, the others improve on its result. ``alone`` are
    the ranges of single operators in the given order, where they are known; with ``cut`` there are ranges in bands.

    Raises:
        OutOfTimeError: the replay of the first schedule took longer than there was time.
    """
    best: Found | None = None
    bound, deadline = 0, hand.latest(deadline)
    found: dict[Reach, list[Candidate]] = {} if alone is None else {ALONE: alone}
    whole = ALONE if options.atomic else IN_BANDS if cut else EVERYTHING
    windowed = net.count > WINDOWED and not refused and not options.atomic
    for phase in _phases(net, options, cut):
        if phase in AFTER_SHARES and ceiling and not (refused or cut):
            bound = max(bound, _shares(net, options, ceiling, deadline))
        if ceiling is not None and ceiling <= bound:
            return best, net, bound
        outcome = _run(net, phase, options, ceiling, deadline, found, refused)
        rough = outcome.found is None and best is None and ceiling is None and phase.reach.longest == 1
        if rough and not options.no_spill:
            outcome = _run(net, phase, options, ceiling, deadline, found, refused, spilled=True)
        if outcome.found is not None:
            best, ceiling = outcome.found, outcome.found.cost_bytes
            hand.take(net, best)
            deadline = hand.latest(deadline)
        for other in _other_orders(net, options, deadline) if phase == LARGE_PHASES[1] and ceiling else ():
            again = _run(other, phase, options, ceiling, deadline, {})
            if again.found is not None:
                best, ceiling, net, found = again.found, again.found.cost_bytes, other, {}
        if ceiling is not None and phase.reach == whole and not refused:
            complete = phase.both and outcome.complete
            bound = ceiling if complete else max(bound, _bound(net, found, options, phase, ceiling, deadline))
            if bound == ceiling:
                return best, net, bound
        if time.perf_counter() > deadline or (phase in LONG_PHASES and windowed and best is not None and not rough):
            break
    if windowed and best is not None:
        bound = bound if cut else max(bound, _shares(net, options, best.cost_bytes, deadline))
        best = Windows(net, options, deadline).improved(best)
    return best, net, bound


def _shares(net: Sequenced, options: Options, ceiling: int, deadline: float) -> int:
    """A lower bound without making all ranges, 0 where there was no time for it or exact ones are made in seconds."""
    if net.count <= SOON_MADE or options.atomic:
        return 0
    now = time.perf_counter()
    try:
        return shares_bound(net, options, ceiling, now + SHARES_SHARE * (deadline - now))
    except OutOfTimeError:
        return 0


def _bound(
    net: Sequenced,
    found: dict[Reach, list[Candidate]],
    options: Options,
    phase: Phase,
    ceiling: int,
    deadline: float,
) -> int:
    """A lower bound with as many labels as the search of the phase had, 0 where there was no time for it."""
    if phase.reach not in found:
        return 0
    try:
        return Relaxation(net, found[phase.reach], options, deadline).bound(phase.width, ceiling)
    except OutOfTimeError:
        return 0


def _phases(net: Sequenced, options: Options, cut: bool) -> tuple[Phase, ...]:
    if options.atomic:
        return tuple(replace(phase, reach=ALONE) for phase in PHASES)
    if cut:
        rows = (*SMALL_PHASES, PHASES[0]) if net.count <= MANY else LARGE_PHASES
        return (*rows[:1], *FIRST_BAND_PHASES, *rows[1:], *BAND_PHASES)
    if net.count > WINDOWED:
        return LONG_PHASES
    return (*LARGE_PHASES, *PHASES) if net.count > MANY else (*SMALL_PHASES, *PHASES)


def _run(
    net: Sequenced,
    phase: Phase,
    options: Options,
    ceiling: int | None,
    deadline: float,
    known: dict[Reach, list[Candidate]],
    refused: Sequence[Sequence[Refused]] = (),
    *,
    spilled: bool = False,
) -> Outcome:
    if phase.reach not in known:
        known.clear()
        try:
            known[phase.reach] = list(candidates(net, options, phase.reach, deadline))
        except OutOfTimeError:
            return Outcome(None, complete=False)
    moves = Moves(net, options, both=phase.both)
    return Search(net, known[phase.reach], moves, options, phase.width, deadline, refused, spilled=spilled).run(ceiling)


def _other_orders(net: Sequenced, options: Options, deadline: float) -> Iterator[Sequenced]:
    """Orders to try beside the one that the network has here."""
    if not (options.fixed_order or options.atomic):
        left = max(deadline - time.perf_counter(), 0.0)
        others = orders(net.problem, time.perf_counter() + PEAK_SHARE * left)
        yield from (sequenced(net.problem, order) for order in others if order != net.order)
