"""The range solver against everything that can be done: brute force, the rules of others, whole operators."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import random_network

from instar.schedulers.scratchpad import solver
from instar.schedulers.scratchpad.atomic.baselines import Rule, replay_rule
from instar.schedulers.scratchpad.atomic.fixed_order import replace_exactly
from instar.schedulers.scratchpad.atomic.flow import make_flow
from instar.schedulers.scratchpad.candidates import Reach
from instar.schedulers.scratchpad.checker import check
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.solver import solve, sweep

from .brute_force import cheapest

TIGHT = (30, 60, 100, 160, 260)
NOTHING = 1 << 60


def equals_brute_force(seed: int, operators: int, budget: int, no_spill: bool) -> bool:
    """Whether no schedule at all is cheaper, or exists where the solver says that there is none."""
    options = Options(budget, stream_buffer_bytes=8, no_spill=no_spill, fixed_order=True)
    network = random_network(seed, operators)
    schedule = solve(network, options)
    assert check(network, schedule) == ()
    assert schedule.status in ("optimal", "infeasible")
    found = schedule.traffic.total_bytes if schedule.status == "optimal" else NOTHING
    return not found or cheapest(network, options, found) is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(TIGHT), st.booleans())
def test_nothing_is_cheaper(seed: int, operators: int, budget: int, no_spill: bool) -> None:
    assert equals_brute_force(seed, operators, budget, no_spill)


@pytest.mark.parametrize(
    ("seed", "operators", "budget", "no_spill"),
    [
        (10, 3, 100, True),  # the network's input is overwritten
        (110, 4, 30, False),  # so is a row of it that came from off-chip, although it is read again later
        (209, 6, 30, False),  # the same twice
        (1020, 4, 30, False),  # a set of weights that is no use to a range is what a longer one needs
        (1022, 4, 160, False),  # rows may be overwritten at one stripe height and not at another
        (1111, 5, 100, True),  # a part of a concatenation that is read again, in one stripe
        (307, 7, 160, False),  # parts of a concatenation that stay in place keep it from being overwritten
        (301, 7, 160, False),
    ],
)
def test_what_brute_force_has_taught(seed: int, operators: int, budget: int, no_spill: bool) -> None:
    assert equals_brute_force(seed, operators, budget, no_spill)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(0, 300), st.sampled_from(("belady", "fewest")))
def test_no_rule_is_better(seed: int, operators: int, spare: int, rule: Rule) -> None:
    network = random_network(seed, operators)
    flow = make_flow(network)
    budget = flow.required_bytes + spare
    schedule = solve(network, Options(budget, stream_buffer_bytes=0))
    ruled = replay_rule(flow, range(flow.steps), budget, rule, addresses=False).traffic_bytes
    assert schedule.status == "optimal"
    assert ruled is not None
    assert schedule.traffic.spill_read_bytes + schedule.traffic.spill_write_bytes <= ruled
    assert schedule.traffic.total_bytes <= ruled


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spare", [0, 7, 25])
def test_whole_operators_move_what_exact_replacement_does(seed: int, spare: int) -> None:
    network = random_network(seed, 2 + seed)
    flow = make_flow(network)
    budget = flow.required_bytes + spare
    schedule = solve(network, Options(budget, stream_buffer_bytes=0, fixed_order=True, atomic=True))
    assert check(network, schedule) == ()
    assert schedule.status == "optimal"
    assert schedule.traffic.total_bytes == replace_exactly(flow, range(flow.steps), budget).traffic_bytes


def test_an_input_of_the_network_stays_for_a_second_operator_that_runs_whole() -> None:
    network = random_network(0, 2)
    schedule = solve(network, Options(30, stream_buffer_bytes=8, fixed_order=True, atomic=True))
    assert check(network, schedule) == ()
    assert (schedule.status, schedule.traffic.total_bytes, schedule.traffic.input_bytes) == ("optimal", 0, 24)
    assert (schedule.peak_bytes, schedule.ranges[0].fetched) == (28, (0,))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("no_spill", [False, True])
def test_more_memory_is_never_worse_where_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch, seed: int, no_spill: bool
) -> None:
    monkeypatch.setattr(solver, "PHASES", (solver.Phase(Reach(3, 2), 2, both=False),))
    network = random_network(seed, 30)
    options = Options(1, stream_buffer_bytes=8, no_spill=no_spill)
    found = sweep(network, options, (1000, 60, 90, 150, 200, 300, 500))
    assert [schedule.budget_bytes for schedule in found] == [60, 90, 150, 200, 300, 500, 1000]
    solved = [schedule for schedule in found if schedule.order]
    assert solved == list(found[-len(solved) :])
    assert solved[0].traffic.total_bytes == 0 or {schedule.status for schedule in solved} != {"optimal"}
    for smaller, larger in pairwise(solved):
        assert larger.traffic.total_bytes <= smaller.traffic.total_bytes
    for schedule in found:
        assert check(network, schedule) == ()
