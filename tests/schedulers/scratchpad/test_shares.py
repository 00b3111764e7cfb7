"""Bounds of long orders: never above the optimum, above 0 where something must move, and kept when time is over."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import random_network, residual

from instar.schedulers.scratchpad import shares, solver
from instar.schedulers.scratchpad.candidates import OutOfTimeError
from instar.schedulers.scratchpad.lives import Reals, lives_of
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor
from instar.schedulers.scratchpad.sequenced import sequenced
from instar.schedulers.scratchpad.shares import shares_bound
from instar.schedulers.scratchpad.solver import solve

from .brute_force import cheapest

NOTHING = 1 << 60


def bound_of(network: Problem, options: Options) -> int:
    net = sequenced(network, range(len(network.operators)))
    return shares_bound(net, options, NOTHING, math.inf)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from((30, 45, 60, 100, 160)), st.booleans())
def test_no_bound_is_above_the_optimum(seed: int, operators: int, budget: int, no_spill: bool) -> None:
    options = Options(budget, stream_buffer_bytes=8, no_spill=no_spill, fixed_order=True)
    network = random_network(seed, operators)
    best = solve(network, options)
    if best.status != "infeasible":
        assert best.status == "optimal"
        assert bound_of(network, options) <= best.traffic.total_bytes


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from((30, 60)))
def test_brute_force_finds_nothing_below_a_bound(seed: int, operators: int, budget: int) -> None:
    network, options = random_network(seed, operators), Options(budget, stream_buffer_bytes=8)
    if solve(network, options).status != "infeasible":
        bound = bound_of(network, options)
        assert not bound or cheapest(network, options, bound) is None


def test_parts_share_the_bytes_of_their_concatenation() -> None:
    shape = (1, 4, 1, 8)
    tensors = (
        Tensor("x", 32, shape, "input"),
        Tensor("a", 32, shape),
        Tensor("b", 32, shape),
        Tensor("c", 64, (1, 4, 1, 16)),
        Tensor("y", 64, (1, 4, 1, 16), "output"),
    )
    operators = (
        Operator("a", "relu", (0,), 1),
        Operator("b", "relu", (0,), 2),
        Operator("c", "concatenation", (1, 2), 3),
        Operator("y", "relu", (3,), 4),
    )
    lives = lives_of(sequenced(Problem("joined", tensors, operators), range(4)))
    for pool in (lives.writes, lives.reads):
        shares = pool.split(np.zeros(len(pool.event)))
        assert shares.sum() == pytest.approx(64)  # of a, b and c together, not 128
        assert (np.bincount(pool.event, shares) <= pool.most[: pool.event.max() + 1] + 1e-9).all()


def test_a_large_network_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = residual(), Options(1500, stream_buffer_bytes=64, fixed_order=True)
    best = solve(network, options)
    monkeypatch.setattr(solver, "SOON_MADE", 0)
    monkeypatch.setattr(solver, "PHASES", (solver.Phase(solver.Reach(16, 2), 8, both=False),))
    monkeypatch.setattr(solver, "AFTER_SHARES", solver.PHASES)
    found = solve(network, options)
    assert 0 < found.bound_bytes <= best.traffic.total_bytes <= found.traffic.total_bytes


def test_a_bound_stops_in_time() -> None:
    net = sequenced(residual(), range(len(residual().operators)))
    with pytest.raises(OutOfTimeError):
        shares_bound(net, Options(1000, stream_buffer_bytes=64), NOTHING, time.perf_counter() - 1)


def test_whole_tensors_leave_and_not_fractions_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net = sequenced(random_network(7, 30), range(30))
    options = Options(60, stream_buffer_bytes=8, fixed_order=True, tiles="never")
    whole = shares_bound(net, options, NOTHING, math.inf)
    assert whole <= solve(net.problem, options).traffic.total_bytes

    def none(self: shares.Splits, price: Reals, costs: Reals) -> None:
        del self, price, costs

    monkeypatch.setattr(shares.Splits, "_count_whole", none)
    assert shares_bound(net, options, NOTHING, math.inf) < whole
