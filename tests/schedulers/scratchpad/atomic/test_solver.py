"""Whole schedules: brute force, two checkers, addresses that force another residency, and the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.schedulers.placement import PlacementProblem, PlacementSolution
from instar.schedulers.placement import solve as place
from instar.schedulers.scratchpad.atomic import solver
from instar.schedulers.scratchpad.atomic.checker import check
from instar.schedulers.scratchpad.atomic.fixed_order import replace_exactly
from instar.schedulers.scratchpad.atomic.flow import Gap, gaps, make_flow
from instar.schedulers.scratchpad.atomic.schedule import AtomicSchedule, Stay, as_schedule, on_chip_bytes, stays_of
from instar.schedulers.scratchpad.atomic.solver import AtomicOptions, solve_atomic
from instar.schedulers.scratchpad.checker import check as check_ranges
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor

from .graphs import cheapest_replacement, graph, graphs, orders

CHAIN = graph([[], [0], [1], [0, 2]], [4, 4, 4, 4])
"""t0 waits while t1 and t2 are made: 12 bytes where everything stays, 8 where t0 leaves."""


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs(6), st.integers(0, 6), st.booleans())
def test_schedules_equal_brute_force_and_pass_both_checkers(problem: Problem, extra: int, fixed: bool):
    flow = make_flow(problem)
    budget = flow.required_bytes + extra
    found = solve_atomic(problem, AtomicOptions(budget, 60, fixed_order=fixed, workers=1))
    assert check(problem, found) == []
    tried = [tuple(range(flow.steps))] if fixed else orders(flow)
    least = min(cheapest_replacement(flow, order, budget) for order in tried)
    assert found.bound_bytes >= least or found.traffic_bytes == least
    assert found.traffic_bytes == least or found.refused > 0
    assert check_ranges(problem, as_schedule(problem, flow, found)) == ()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(graphs(8))
def test_more_memory_is_never_worse(problem: Problem):
    flow = make_flow(problem)
    traffic = [
        solve_atomic(problem, AtomicOptions(flow.required_bytes + extra, 60, workers=1)).traffic_bytes
        for extra in (0, 2, 5, 40)
    ]
    assert traffic == sorted(traffic, reverse=True)
    assert traffic[-1] == 0


def test_what_waits_leaves():
    found = solve_atomic(CHAIN, AtomicOptions(12, workers=1))
    assert (found.status, found.traffic_bytes, found.peak_bytes) == ("optimal", 0, 12)
    tight = graph([[], [0], [1], [2], [0, 3]], [4, 4, 4, 4, 4])
    found = solve_atomic(tight, AtomicOptions(12, fixed_order=True, workers=1))
    assert (found.status, found.traffic_bytes) == ("optimal", 0)
    small = graph([[], [0], [1], [2], [0, 3]], [4, 6, 6, 4, 1])
    found = solve_atomic(small, AtomicOptions(12, fixed_order=True, workers=1))
    assert (found.status, found.traffic_bytes, found.bound_bytes) == ("optimal", 8, 8)
    assert Stay(0, 0, 2, 0) in [replace(stay, offset_bytes=0) for stay in found.stays]


def test_an_input_of_the_network_is_only_read_again():
    problem = graph([[0], [1], [2], [0, 3]], [6, 6, 4, 1], inputs=[4])
    found = solve_atomic(problem, AtomicOptions(12, fixed_order=True, workers=1))
    assert (found.status, found.traffic_bytes) == ("optimal", 4)
    counted = as_schedule(problem, make_flow(problem), found).traffic
    assert (counted.input_bytes, counted.spill_read_bytes, counted.spill_write_bytes) == (4, 4, 0)


def test_constants_are_on_chip_if_they_count():
    tensors = (Tensor("a", 4), Tensor("b", 4, role="output"))
    problem = Problem("net", tensors, (Operator("f", "op", (), 0, 7), Operator("g", "op", (0,), 1, 3)))
    assert solve_atomic(problem, AtomicOptions(8, workers=1)).status == "optimal"
    found = solve_atomic(problem, AtomicOptions(11, weights=True, workers=1))
    assert (found.status, found.peak_bytes, found.height_bytes, len(found.constants)) == ("optimal", 11, 11, 2)
    infeasible = solve_atomic(problem, AtomicOptions(10, weights=True, workers=1))
    assert infeasible.infeasible is not None
    assert (infeasible.status, infeasible.infeasible.smallest_budget_bytes) == ("infeasible", 11)


def test_infeasible_names_the_operator_and_what_would_be_enough():
    found = solve_atomic(CHAIN, AtomicOptions(11, workers=1))
    assert found.status == "infeasible"
    assert found.infeasible is not None
    assert (found.infeasible.operator, found.infeasible.smallest_budget_bytes) == ("o3", 12)
    assert check(CHAIN, found) == []


def fragmented() -> Problem:
    """At its own order and 14 bytes, the cheapest residency fits as bytes in every step, but has no addresses."""
    reads = [[], [0], [0], [1, 2], [3], [2], [1, 3], [4], [4, 5], [6, 7], [7, 8], [7], [9], [8, 12]]
    return graph(reads, [5, 6, 1, 3, 4, 3, 2, 6, 1, 6, 1, 2, 6, 5])


def test_a_residency_without_addresses_is_refused_for_the_next_best():
    problem = fragmented()
    relaxed = replace_exactly(make_flow(problem), range(14), 14)
    found = solve_atomic(problem, AtomicOptions(14, fixed_order=True, workers=1))
    assert found.refused == 1
    assert (found.status, found.traffic_bytes, found.bound_bytes) == ("optimal", 17, 17)
    assert relaxed.traffic_bytes <= 17
    assert check(problem, found) == []
    again = replace_exactly(make_flow(problem), range(14), 14, forbidden=[_kept(problem, relaxed.dropped)])
    assert again.traffic_bytes == 17


def test_a_residency_whose_addresses_take_too_long_makes_room(monkeypatch: pytest.MonkeyPatch):
    problem, calls = fragmented(), list[int]()

    def slow_once(placement: PlacementProblem, **options: Any) -> PlacementSolution:
        calls.append(len(placement.buffers))
        late = PlacementSolution("timeout", {}, None, 0, 0.0)
        return late if len(calls) == 1 else place(placement, **options)

    monkeypatch.setattr(solver, "place", slow_once)
    found = solve_atomic(problem, AtomicOptions(14, fixed_order=True, workers=1))
    assert found.status == "feasible"
    assert found.refused >= 1
    assert found.bound_bytes <= 17 <= found.traffic_bytes
    assert check(problem, found) == []


def test_without_time_everything_leaves_that_can():
    flow = make_flow(fragmented())
    found = replace_exactly(flow, range(14), 14, seconds=0.0)
    assert max(on_chip_bytes(flow, range(14), stays_of(flow, range(14), found.dropped))) <= 14
    assert found.bound_bytes <= replace_exactly(flow, range(14), 14).traffic_bytes <= found.traffic_bytes


def _kept(problem: Problem, dropped: Sequence[Gap]) -> list[Gap]:
    return [gap for gap in gaps(make_flow(problem), range(len(problem.operators))) if gap not in dropped]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_bytes": -1}, "budget: expected at least 0 bytes, found -1"),
        ({"budget_bytes": 1, "time_limit_s": 0}, "time limit: expected a positive number of seconds, found 0"),
        ({"budget_bytes": 1, "workers": 5}, "workers: expected 1 or 2, found 5"),
        ({"budget_bytes": 1, "alignment_bytes": 0}, "alignment: expected at least 1, found 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str):
    with pytest.raises(ScheduleError, match=message):
        AtomicOptions(**options)


def test_edges():
    one = solve_atomic(graph([[]], [5]), AtomicOptions(5, workers=1))
    assert (one.status, one.traffic_bytes, one.peak_bytes, one.order) == ("optimal", 0, 5, (0,))
    empty = solve_atomic(graph([[], [0]], [0, 0]), AtomicOptions(0, workers=1))
    assert (empty.status, empty.peak_bytes) == ("optimal", 0)
    apart = solve_atomic(graph([[], [], [0], [1]], [4, 4, 1, 1]), AtomicOptions(5, workers=1))
    assert (apart.status, apart.traffic_bytes) == ("optimal", 0)
    wide = solve_atomic(graph([[], *([[0]] * 500)], [4, *([1] * 500)]), AtomicOptions(5, workers=1))
    assert (wide.status, wide.traffic_bytes) == ("optimal", 0)
    huge = graph([[], [0], [1], [2], [0, 3]], [4 << 40, 6 << 40, 6 << 40, 4 << 40, 1 << 40])
    found = solve_atomic(huge, AtomicOptions(12 << 40, fixed_order=True, workers=1))
    assert (found.status, found.traffic_bytes) == ("optimal", 8 << 40)


def test_same_seed_same_schedule():
    problem = graph([[], [0], [0], [1], [2], [3, 4], [0, 5]], [5, 8, 8, 2, 2, 1, 3])
    budget = make_flow(problem).required_bytes
    assert solve_atomic(problem, AtomicOptions(budget)) == solve_atomic(problem, AtomicOptions(budget))


GOOD = solve_atomic(CHAIN, AtomicOptions(12, fixed_order=True, workers=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": (0, 1, 2)}, "the order does not hold every operator once"),
        ({"order": (1, 0, 2, 3)}, "step 0: 'o1' reads 't0' before it is made"),
        ({"stays": GOOD.stays[1:]}, "step 0: the output of 'o0' is not on chip"),
        ({"stays": (Stay(0, 0, 1, 0), *GOOD.stays[1:])}, "step 1: 'o1' does not find 't0' on chip"),
        ({"stays": (*GOOD.stays, Stay(3, 1, 2, 99))}, "step 1: tensor 't3' is on chip before it is made"),
        ({"stays": (*GOOD.stays, Stay(0, 1, 2, 99))}, "step 1: a tensor is on chip twice"),
        ({"stays": (*GOOD.stays, Stay(0, 9, 10, 99))}, "1 stays start after the last step"),
        ({"stays": (*GOOD.stays, Stay(0, 3, 3, 99))}, "tensor 't0': the stay [3, 3) is not one"),
        ({"budget_bytes": 11}, "12 bytes on chip exceed the budget of 11"),
        ({"stays": tuple(replace(stay, offset_bytes=0) for stay in GOOD.stays)}, "memory at 0 is used twice"),
        ({"stays": (*GOOD.stays[1:], replace(GOOD.stays[0], offset_bytes=9))}, "exceed the budget of 12"),
        ({"stays": (*GOOD.stays[1:], replace(GOOD.stays[0], offset_bytes=None))}, "some tensors have an address"),
        ({"traffic_bytes": 4}, "traffic of 4 bytes claimed, 0 found"),
        ({"peak_bytes": 4}, "peak of 4 bytes claimed, 12 found"),
        ({"height_bytes": 4}, "height of 4 bytes claimed, 12 found"),
        ({"bound_bytes": 1}, "bound 1 is above the traffic 0"),
        ({"status": "timeout"}, "a schedule comes with a status that has none"),
    ],
)
def test_checker_finds_mistakes(change: dict[str, Any], message: str):
    assert check(CHAIN, GOOD) == []
    assert any(message in sentence for sentence in check(CHAIN, replace(GOOD, **change)))


def test_checker_counts_spills_and_knows_the_order():
    problem = graph([[], [], [0], [1]], [4, 4, 1, 1])
    stays = (Stay(0, 0, 1), Stay(1, 1, 2), Stay(0, 2, 3), Stay(2, 2, 3), Stay(1, 3, 4), Stay(3, 3, 4))
    schedule = AtomicSchedule("feasible", 5, (0, 1, 2, 3), stays, (), 16, 0, 5, 0)
    assert check(problem, schedule) == []
    assert check(problem, replace(schedule, status="optimal")) == ["called optimal with traffic 16 and bound 0"]
    assert check(
        graph([[], []], [1, 1]),
        AtomicSchedule("optimal", 9, (1, 0), (Stay(1, 0, 1), Stay(0, 1, 2)), peak_bytes=1, fixed_order=True),
    ) == ["the given order was not kept"]
