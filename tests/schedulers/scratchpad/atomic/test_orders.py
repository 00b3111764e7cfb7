"""Brute force over all orders and all replacements is the oracle for every exact part, and below every heuristic."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from instar.schedulers.scratchpad.atomic.baselines import fewest_bytes, replay_rule
from instar.schedulers.scratchpad.atomic.beam import beam_order
from instar.schedulers.scratchpad.atomic.bounds import traffic_bound
from instar.schedulers.scratchpad.atomic.fixed_order import replace_exactly
from instar.schedulers.scratchpad.atomic.flow import make_flow, peak_bytes
from instar.schedulers.scratchpad.atomic.free_order import solve_free_order
from instar.schedulers.scratchpad.atomic.local import LocalSearch
from instar.schedulers.scratchpad.atomic.peak import lowest_peak
from instar.schedulers.scratchpad.problem import Problem

from .graphs import cheapest_replacement, graph, graphs, orders

NEVER = float("inf")


@settings(max_examples=120, deadline=None, derandomize=True)
@given(graphs(7))
def test_lowest_peak_equals_brute_force(problem: Problem):
    flow = make_flow(problem)
    found = lowest_peak(flow)
    assert found.peak_bytes == found.bound_bytes == min(peak_bytes(flow, order) for order in orders(flow))
    assert peak_bytes(flow, found.order) == found.peak_bytes
    assert found.order in set(orders(flow))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(graphs(7), st.integers(0, 12))
def test_fixed_order_equals_brute_force_and_is_below_every_rule(problem: Problem, extra: int):
    flow = make_flow(problem)
    order, budget = range(flow.steps), flow.required_bytes + extra
    found = replace_exactly(flow, order, budget)
    assert found.traffic_bytes == found.bound_bytes == cheapest_replacement(flow, order, budget)
    for rule in ("belady", "fewest"):
        counted = replay_rule(flow, order, budget, rule, addresses=False)
        assert counted.traffic_bytes is not None
        assert found.traffic_bytes <= counted.traffic_bytes
        placed = replay_rule(flow, order, budget, rule, addresses=True)
        assert (placed.traffic_bytes is None) == (placed.failed_step is not None)
        if placed.traffic_bytes is not None:
            assert found.traffic_bytes <= placed.traffic_bytes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs(6), st.integers(0, 6))
def test_free_order_equals_brute_force(problem: Problem, extra: int):
    flow = make_flow(problem)
    start, budget = tuple(range(flow.steps)), flow.required_bytes + extra
    best = min(cheapest_replacement(flow, order, budget) for order in orders(flow))
    bound = traffic_bound(flow, lowest_peak(flow).bound_bytes, budget)
    assert bound <= best
    dropped = replace_exactly(flow, start, budget).dropped
    found = solve_free_order(flow, budget, start, dropped, bound, seconds=30, workers=1, seed=0)
    assert found.bound_bytes == best
    assert replace_exactly(flow, found.order, budget).traffic_bytes == best


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs(8), st.integers(0, 6), st.sampled_from([1, 3]))
def test_heuristic_orders_are_executable_and_no_worse_than_where_they_start(problem: Problem, extra: int, width: int):
    flow = make_flow(problem)
    budget, valid = flow.required_bytes + extra, set(orders(flow))
    beam = beam_order(flow, budget, width, NEVER)
    assert beam in valid
    search = LocalSearch(flow, budget, 0, NEVER)
    start = search.judge(tuple(range(flow.steps)))
    found = search.improve(start, 0, 2)
    assert found.order in valid
    assert found.traffic_bytes <= start.traffic_bytes
    assert search.tidy(start.order) in valid


def test_two_branches_are_finished_one_after_the_other():
    """Both branches widen and narrow again; side by side they need 18 bytes, one after the other 13."""
    problem = graph([[], [0], [0], [1], [2], [3, 4]], [1, 8, 8, 2, 2, 1])
    flow = make_flow(problem)
    assert peak_bytes(flow, range(6)) == 18
    assert lowest_peak(flow).peak_bytes == 12
    assert lowest_peak(flow).order in set(orders(flow))


def test_bound_adds_up_whole_tensors():
    """Of 5, 5 and 1 bytes too many by 3, five must leave and come back; with a copy off-chip they only come back."""
    wide = make_flow(graph([[], [], [0, 1], []], [5, 5, 1, 1]))
    assert traffic_bound(wide, 13, 10) == 10
    assert traffic_bound(wide, 10, 10) == 0
    read = make_flow(graph([[0], [0, 1]], [5, 1], inputs=[4]))
    assert traffic_bound(read, 13, 10) == 4


def test_a_search_for_the_peak_that_is_stopped_keeps_its_bound():
    problem = graph([[], [0], [0], [1], [2], [3, 4]], [1, 8, 8, 2, 2, 1])
    found = lowest_peak(make_flow(problem), states=0)
    assert found.order == ()
    assert not found.optimal
    assert make_flow(problem).required_bytes <= found.bound_bytes <= 12


def test_beam_search_stops_at_its_deadline():
    flow = make_flow(graph([[], [0]], [1, 1]))
    assert beam_order(flow, 10, 1, 0.0) is None


def test_fewest_bytes():
    assert fewest_bytes([(0, 5), (1, 3), (2, 4)], 6) == (1, 2)
    assert fewest_bytes([(0, 5)], 6) == ()
