"""Schedules against the checker, against brute force and against what must hold between budgets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import Builder, forked, random_network, residual

from instar.ir.errors import ScheduleError
from instar.schedulers.scratchpad import solver, windows
from instar.schedulers.scratchpad.candidates import Candidate, OutOfTimeError
from instar.schedulers.scratchpad.checker import check
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor
from instar.schedulers.scratchpad.solver import solve
from instar.schedulers.scratchpad.stripes import stripe_heights

BUDGETS = (600, 1000, 1500, 2500, 4000, 8000, 20000)


@pytest.mark.parametrize("network", [residual(), forked()])
def test_more_budget_is_never_worse(network: Problem) -> None:
    results = [solve(network, Options(budget, stream_buffer_bytes=64)) for budget in BUDGETS]
    for smaller, larger in itertools.pairwise(results):
        if smaller.status == "optimal":
            assert larger.status == "optimal"
            assert larger.traffic.total_bytes <= smaller.traffic.total_bytes
    assert results[-1].traffic.total_bytes == 0
    assert results[0].traffic.total_bytes > 0 or results[0].status == "infeasible"


@pytest.mark.parametrize("network", [residual(), forked()])
@pytest.mark.parametrize("no_spill", [False, True])
def test_the_smallest_budget_is_the_smallest(network: Problem, no_spill: bool) -> None:
    options = Options(1, stream_buffer_bytes=64, no_spill=no_spill)
    refused = solve(network, options)
    assert refused.status == "infeasible"
    assert refused.infeasible is not None
    assert refused.infeasible.operator in {operator.name for operator in network.operators}
    least = refused.infeasible.smallest_budget_bytes
    assert solve(network, replace(options, budget_bytes=least)).status == "optimal"
    assert solve(network, replace(options, budget_bytes=least - 1)).status == "infeasible"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from(BUDGETS), st.booleans(), st.integers(1, 4))
def test_the_checker_accepts_every_schedule(seed: int, operators: int, budget: int, no_spill: bool, rows: int) -> None:
    network = random_network(seed, operators)
    options = Options(budget, stream_buffer_bytes=32, no_spill=no_spill, min_rows=rows)
    schedule = solve(network, options)
    assert check(network, schedule) == ()
    if schedule.status != "infeasible":
        assert schedule.peak_bytes <= budget
        assert schedule.status == "optimal"
        atomic = solve(network, replace(options, atomic=True))
        assert check(network, atomic) == ()
        if atomic.status == "optimal" and rows == 1:
            assert schedule.traffic.total_bytes <= atomic.traffic.total_bytes


def test_rows_that_a_stride_skips_need_room_too() -> None:
    net = Builder(9, 4, 4)
    net.conv(net.conv(net.conv(0, 4, 1, 2), 4, 1), 4, 1, 3)
    for budget in range(20, 100, 4):
        schedule = solve(net.problem(), Options(budget, stream_buffer_bytes=0, tiles="never"))
        assert schedule.status == ("optimal" if budget >= 40 else "infeasible"), budget


def test_options_are_checked() -> None:
    for change, message in (
        ({"budget_bytes": -1}, "budget: expected at least 0 bytes, found -1"),
        ({"time_limit_s": 0.0}, "time limit: expected more than 0 seconds"),
        ({"min_rows": 0}, "min rows: expected at least 1, found 0"),
        ({"stream_buffer_bytes": -1}, "stream buffer: expected at least 0 bytes"),
    ):
        with pytest.raises(ScheduleError, match=message):
            replace(Options(1), **change)


def test_a_network_without_operators_needs_nothing() -> None:
    schedule = solve(Problem("empty", (), ()), Options(0))
    assert (schedule.status, schedule.peak_bytes, schedule.order) == ("optimal", 0, ())


def test_no_capacity_names_what_is_missing() -> None:
    for network in (residual(), forked()):
        for options in (Options(0), Options(0, no_spill=True), Options(0, atomic=True)):
            refused = solve(network, options)
            assert refused.status == "infeasible"
            assert refused.infeasible is not None
            least = replace(options, budget_bytes=refused.infeasible.smallest_budget_bytes)
            assert solve(network, least).status == "optimal"


def test_one_operator() -> None:
    tensors = (Tensor("x", 64, (1, 8, 8, 1), "input"), Tensor("y", 64, (1, 8, 8, 1), "output"))
    alone = Problem("alone", tensors, (Operator("f", "relu", (0,), 1),))
    schedule = solve(alone, Options(8))
    assert (schedule.status, schedule.peak_bytes, schedule.traffic.total_bytes) == ("optimal", 8, 0)
    assert solve(alone, Options(7, tiles="never")).infeasible is not None
    assert solve(alone, Options(7)).peak_bytes <= 7  # in bands of columns


def test_something_is_found_where_everything_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "PHASES", ())
    monkeypatch.setattr(solver, "SMALL_PHASES", (solver.QUICK,))
    network = random_network(7, 60)
    schedule = solve(network, Options(300, stream_buffer_bytes=8))
    assert schedule.status in ("feasible", "optimal")
    assert check(network, schedule) == ()


def test_no_budget_is_enough_for_empty_tensors() -> None:
    tensors = (Tensor("x", 0, (0,), "input"), Tensor("y", 0, (0,), "output"))
    schedule = solve(Problem("nothing", tensors, (Operator("f", "relu", (0,), 1),)), Options(0))
    assert (schedule.status, schedule.peak_bytes) == ("optimal", 0)


def test_sizes_beyond_32_bits() -> None:
    size = 1 << 40
    tensors = (Tensor("x", size, (), "input"), Tensor("y", size), Tensor("z", size, (), "output"))
    operators = (Operator("f", "conv", (0,), 1), Operator("g", "conv", (1,), 2))
    problem = Problem("large", tensors, operators)
    assert solve(problem, Options(2 * size)).traffic.total_bytes == 0
    refused = solve(problem, Options(2 * size - 1)).infeasible
    assert refused is not None
    assert refused.smallest_budget_bytes == 2 * size


def test_sizes_beyond_64_bits_are_refused() -> None:
    image = (1, 1 << 20, 1 << 20, 1 << 20)
    network = Problem(
        "huge",
        (Tensor("x", 1 << 60, image, "input"), Tensor("y", 1 << 60, image, "output")),
        (Operator("o", "relu", (0,), 1),),
    )
    for no_spill in (False, True):
        with pytest.raises(ScheduleError, match="huge: expected sizes whose sums fit 64 bits, found up to"):
            solve(network, Options(1 << 40, no_spill=no_spill))


def test_very_many_rows_are_cut_into_as_many_stripes_as_can_be_counted() -> None:
    image = (1, 1 << 30, 1, 8)
    network = Problem(
        "long",
        (Tensor("x", 1 << 33, image, "input"), Tensor("y", 1 << 33, image, "output")),
        (Operator("o", "relu", (0,), 1),),
    )
    refused = solve(network, Options(1, tiles="never"))
    assert refused.infeasible is not None
    assert refused.infeasible.smallest_budget_bytes == 8 << 14  # 2^30 rows in 2^16 stripes
    assert stripe_heights(1 << 30, 1)[0] == 1 << 14


@pytest.mark.parametrize("atomic", [False, True])
def test_another_order_needs_less_memory(atomic: bool) -> None:
    network = two_wide_branches()
    options = Options(0, no_spill=True, stream_buffer_bytes=0, atomic=atomic, tiles="never")
    given, free = (solve(network, replace(options, fixed_order=fixed)).infeasible for fixed in (True, False))
    assert given is not None
    assert free is not None
    assert free.smallest_budget_bytes < given.smallest_budget_bytes
    fits = replace(options, budget_bytes=free.smallest_budget_bytes)
    assert solve(network, fits).status == "optimal"
    assert check(network, solve(network, fits)) == ()
    assert solve(network, replace(fits, fixed_order=True)).status == "infeasible"


def two_wide_branches() -> Problem:
    """Both branches are widened before either is made narrow again."""
    wide, narrow = (8, 64), (8, 4)
    tensors = (
        Tensor("x", 32, narrow, "input"),
        *(Tensor(name, 512, wide) for name in ("a", "b")),
        *(Tensor(name, 32, narrow) for name in ("c", "d")),
        Tensor("y", 32, narrow, "output"),
    )
    operators = (
        Operator("widen a", "gather", (0,), 1),
        Operator("widen b", "gather", (0,), 2),
        Operator("narrow a", "gather", (1,), 3),
        Operator("narrow b", "gather", (2,), 4),
        Operator("sum", "add", (3, 4), 5),
    )
    return Problem("branches", tensors, operators)


def test_many_readers_and_outputs() -> None:
    tensors = [Tensor("x", 8, (1, 4, 2), "input"), Tensor("y", 8, (1, 4, 2))]
    tensors += [Tensor(f"z{place}", 8, (1, 4, 2), "output") for place in range(500)]
    operators = [Operator("f", "relu", (0,), 1)]
    operators += [Operator(f"g{place}", "relu", (1,), place + 2) for place in range(500)]
    schedule = solve(Problem("fan", tuple(tensors), tuple(operators)), Options(16))
    assert (schedule.status, schedule.traffic.total_bytes) == ("optimal", 0)
    assert schedule.traffic.output_bytes == 4000


def test_parts_without_connection() -> None:
    tensors = [
        Tensor(f"{kind}{place}", 8, (1, 4, 2), "input" if kind == "x" else "output")
        for place in range(3)
        for kind in "xy"
    ]
    operators = [Operator(f"f{place}", "relu", (2 * place,), 2 * place + 1) for place in range(3)]
    schedule = solve(Problem("islands", tuple(tensors), tuple(operators)), Options(4))
    assert (schedule.status, schedule.traffic.total_bytes, schedule.traffic.input_bytes) == ("optimal", 0, 24)


def test_a_hint_is_never_made_worse() -> None:
    network, options = residual(), Options(1500, stream_buffer_bytes=64)
    best = solve(network, options)
    known = solve(network, replace(options, budget_bytes=4000), hint=best)
    assert (known.status, known.budget_bytes) == ("optimal", 4000)
    assert known.traffic.total_bytes <= best.traffic.total_bytes
    assert solve(network, options, hint=best).ranges == best.ranges
    hurried = solve(network, replace(options, time_limit_s=1e-6), hint=best)
    assert (hurried.status, hurried.traffic, hurried.bound_bytes) == ("feasible", best.traffic, 0)
    for wrong, message in (
        (replace(options, budget_bytes=best.peak_bytes - 1), "peak: expected at most"),
        (replace(options, min_rows=4), "expected at least 4 rows per stripe"),
    ):
        with pytest.raises(ScheduleError, match=f"hint: expected a schedule that keeps to the options.*{message}"):
            solve(network, wrong, hint=best)
    other = next(order for order in itertools.permutations(range(8)) if valid_order(network, order))
    moved = replace(best, order=other)
    with pytest.raises(ScheduleError, match="hint: expected a schedule that keeps to the options"):
        solve(network, replace(options, fixed_order=True), hint=moved)


def valid_order(network: Problem, order: tuple[int, ...]) -> bool:
    place = {operator: position for position, operator in enumerate(order)}
    made = zip(network.producer, network.consumers, strict=True)
    fits = all(place[m] < place[r] for m, readers in made for r in readers if m is not None)
    return fits and order != tuple(range(len(order)))


@pytest.mark.parametrize(("seed", "budget"), [(2, 100), (3, 60), (4, 100)])
def test_windows_of_a_long_order_make_it_better(monkeypatch: pytest.MonkeyPatch, seed: int, budget: int) -> None:
    network, options = random_network(seed, 24), Options(budget, stream_buffer_bytes=8)
    best = solve(network, options)
    monkeypatch.setattr(solver, "PHASES", ())
    monkeypatch.setattr(solver, "SMALL_PHASES", solver.LONG_PHASES)
    quick = solve(network, options)
    monkeypatch.setattr(solver, "WINDOWED", 10)
    found = solve(network, options)
    assert check(network, found) == ()
    assert best.traffic.total_bytes <= found.traffic.total_bytes < quick.traffic.total_bytes


def test_windows_never_leave_less_than_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = random_network(2, 24), Options(100, stream_buffer_bytes=8)
    monkeypatch.setattr(solver, "WINDOWED", 10)
    monkeypatch.setattr(windows, "ending", late)
    schedule = solve(network, options)
    assert schedule.status == "feasible"
    assert check(network, schedule) == ()


def late(*_: object) -> Iterator[Candidate]:
    raise OutOfTimeError


@pytest.mark.parametrize(("seed", "budget"), [(3, 60), (7, 100), (12, 100)])
def test_another_order_is_taken_where_it_moves_less(seed: int, budget: int) -> None:
    network, options = random_network(seed, 12), Options(budget, stream_buffer_bytes=8)
    given = solve(network, replace(options, fixed_order=True))
    free = solve(network, options)
    assert check(network, free) == ()
    assert given.status == free.status == "optimal"
    assert given.order == tuple(range(12)) != free.order
    assert free.traffic.total_bytes < given.traffic.total_bytes
