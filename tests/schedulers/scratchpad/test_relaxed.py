"""Lower bounds: never above the optimum, equal to it with nothing merged, and above 0 where something must move."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import random_network, residual

from instar.schedulers.scratchpad import relaxed, solver
from instar.schedulers.scratchpad.candidates import ANY, OutOfTimeError, Reach, candidates
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.relaxed import Relaxation
from instar.schedulers.scratchpad.sequenced import sequenced
from instar.schedulers.scratchpad.solver import solve

from .brute_force import cheapest

NOTHING = 1 << 60
TIGHT = (30, 60, 100, 160)


def relaxation(network: Problem, options: Options, deadline: float = math.inf) -> Relaxation:
    net = sequenced(network, range(len(network.operators)))
    return Relaxation(net, list(candidates(net, options, Reach(ANY, ANY))), options, deadline)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from(TIGHT), st.booleans())
def test_no_bound_is_above_the_optimum(seed: int, operators: int, budget: int, no_spill: bool) -> None:
    options = Options(budget, stream_buffer_bytes=8, no_spill=no_spill, fixed_order=True)
    network = random_network(seed, operators)
    best = solve(network, options)
    if best.status == "infeasible":
        return
    relaxing = relaxation(network, options)
    assert best.status == "optimal"
    assert all(relaxing.bound(width, NOTHING) <= best.traffic.total_bytes for width in (1, 2, 5))
    assert relaxing.bound(NOTHING, NOTHING) == best.traffic.total_bytes
    assert relaxing.bound(1, best.traffic.total_bytes) <= best.traffic.total_bytes


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 4), st.sampled_from((30, 60)))
def test_brute_force_finds_nothing_below_a_bound(seed: int, operators: int, budget: int) -> None:
    network, options = random_network(seed, operators), Options(budget, stream_buffer_bytes=8)
    if solve(network, options).status != "infeasible":
        bound = relaxation(network, options).bound(2, NOTHING)
        assert not bound or cheapest(network, options, bound) is None


@pytest.mark.parametrize("seed", range(6))
def test_ranges_that_leave_much_behind_stay_open(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    network, options = random_network(seed, 9), Options(60, stream_buffer_bytes=8, fixed_order=True)
    best = solve(network, options)
    monkeypatch.setattr(relaxed, "MAX_EXPORTS", 0)
    monkeypatch.setattr(relaxed, "MAX_DROPS", 0)
    assert best.status in ("optimal", "infeasible")
    if best.status == "optimal":
        assert relaxation(network, options).bound(8, NOTHING) <= best.traffic.total_bytes


def test_a_result_that_is_not_proven_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = residual(), Options(1500, stream_buffer_bytes=64, fixed_order=True)
    best = solve(network, options)
    monkeypatch.setattr(solver, "SMALL_PHASES", ())
    monkeypatch.setattr(solver, "PHASES", (solver.Phase(solver.EVERYTHING, 2, both=False),))
    found = solve(network, options)
    assert 0 < found.bound_bytes <= best.traffic.total_bytes <= found.traffic.total_bytes


def test_a_bound_stops_in_time() -> None:
    with pytest.raises(OutOfTimeError):
        relaxation(residual(), Options(1000, stream_buffer_bytes=64), deadline=0.0).bound(4, NOTHING)
