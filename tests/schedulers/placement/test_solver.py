"""Brute force is the oracle for small instances; exactly filled memories test the searches on larger ones."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.schedulers.placement import (
    Buffer,
    PlacementProblem,
    check,
    greedy_by_conflicts,
    greedy_by_size,
    hill_climb,
    lower_bound,
    solve,
)
from instar.schedulers.placement.baselines import height
from instar.schedulers.placement.constraint import ConstraintSearch, Formulation
from instar.schedulers.placement.instance import make_instance
from instar.schedulers.placement.portfolio import Portfolio
from instar.schedulers.placement.search import Search

from .instances import buffers, cut_memory, example, lowest_height, problems

NEVER = float("inf")


def searched(items: tuple[Buffer, ...], capacity: int, *, divide: bool) -> str:
    """What one complete run of the canonical search says."""
    instance = make_instance(items, capacity)
    search = Search(instance, np.zeros(len(instance.size)), np.ones(instance.sections), divide=divide)
    outcome = search.run(10**6, NEVER)
    if outcome == "found":
        offsets = [0] * len(items)
        for place, offset in zip(instance.origin, search.offsets.tolist(), strict=True):
            offsets[place] = offset * instance.unit_bytes
        assert check(PlacementProblem(items), _as_solution(items, offsets)) == []
        assert height(items, offsets) <= capacity
    return outcome


def _as_solution(items: tuple[Buffer, ...], offsets: list[int]):
    from instar.schedulers.placement import PlacementSolution

    placed = {item.name: offset for item, offset in zip(items, offsets, strict=True)}
    return PlacementSolution("feasible", placed, height(items, offsets), 0, 0.0)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems(aligned=True), st.booleans())
def test_search_equals_brute_force(items: tuple[Buffer, ...], divide: bool):
    if all(item.size_bytes == 0 for item in items):
        return
    best = lowest_height(items)
    assert lower_bound(items) <= best
    assert searched(items, best, divide=divide) == "found"
    assert searched(items, best - 1, divide=divide) == "impossible"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(aligned=True), st.sampled_from(["boxes", "slices"]))
def test_constraint_search_equals_brute_force(items: tuple[Buffer, ...], formulation: Formulation):
    if all(item.size_bytes == 0 for item in items):
        return
    best = lowest_height(items)
    found = ConstraintSearch(make_instance(items, best), formulation, 0)
    assert found.run(1.0, time.perf_counter() + 60) == "found"
    assert ConstraintSearch(make_instance(items, best - 1), formulation, 0).run(1.0, NEVER) == "impossible"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(aligned=True), st.data())
def test_fixed_offsets_equal_brute_force(items: tuple[Buffer, ...], data: st.DataObject):
    place = data.draw(st.integers(0, len(items) - 1))
    old = items[place]
    at = data.draw(st.integers(0, 6)) * old.alignment_bytes
    items = (
        *items[:place],
        Buffer(old.name, old.lower, old.upper, old.size_bytes, old.alignment_bytes, at),
        *items[place + 1 :],
    )
    best = lowest_height(items)
    solution = solve(PlacementProblem(items), workers=1)
    assert solution.height_bytes == best
    assert solve(PlacementProblem(items, best), workers=1).status in ("optimal", "feasible")
    if best:
        assert solve(PlacementProblem(items, best - 1), workers=1).status == "infeasible"


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems(most=6, aligned=True))
def test_lowest_height_equals_brute_force_and_beats_every_baseline(items: tuple[Buffer, ...]):
    solution = solve(PlacementProblem(items), workers=1)
    assert solution.height_bytes is not None
    assert solution.height_bytes == lowest_height(items)
    for offsets in (greedy_by_size(items), greedy_by_conflicts(items), hill_climb(items, steps=20)):
        assert solution.height_bytes <= height(items, offsets)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems(most=40))
def test_larger_random_problems_pass_their_checker(items: tuple[Buffer, ...]):
    problem = PlacementProblem(items)
    solution = solve(problem, workers=1, time_limit_s=20)
    assert check(problem, solution) == []
    assert solution.height_bytes is not None
    assert lower_bound(items) <= solution.height_bytes <= height(items, greedy_by_size(items))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_without_a_free_byte_is_filled(seed: int, workers: int):
    items = cut_memory(seed, 40, 1000, 60)
    solution = solve(PlacementProblem(items, 1000), seed=seed, workers=workers)
    assert (solution.status, solution.height_bytes) == ("optimal", 1000)


def test_example_of_minimalloc():
    solution = solve(example(), workers=1)
    assert (solution.status, solution.height_bytes) == ("optimal", 12)


def test_same_seed_same_offsets():
    items = cut_memory(9, 60, 4096, 80)
    problem = PlacementProblem(items, 4096)
    assert solve(problem, seed=3) == solve(problem, seed=3)


def test_infeasible_names_the_crowd_and_what_is_enough():
    solution = solve(PlacementProblem(example().buffers, 11), workers=1)
    assert solution.status == "infeasible"
    assert solution.message(11) == (
        "capacity 11: no placement exists: 3 buffers alive at 0 need 12 bytes; 12 bytes are enough"
    )
    assert solve(example(), workers=1).message(12) == ""


def test_infeasible_by_search_names_bound_and_known_height():
    items = (Buffer("a", 0, 2, 2), Buffer("b", 1, 3, 2, 1, 1), Buffer("c", 2, 4, 2))
    solution = solve(PlacementProblem(items, 4), workers=1)
    assert solution.status == "infeasible"
    assert solution.message(4) == (
        "capacity 4: no placement exists: the buffers need at least 4 bytes; 5 bytes are enough"
    )


def test_fixed_buffers_that_collide_are_infeasible_at_every_capacity():
    items = (Buffer("a", 0, 2, 4, 1, 0), Buffer("b", 1, 3, 4, 1, 2), Buffer("c", 0, 9, 1))
    for capacity in (None, 100):
        solution = solve(PlacementProblem(items, capacity), workers=1)
        assert solution.status == "infeasible"
        assert solution.crowd is not None
        assert solution.crowd.buffers == ("a", "b")


def test_time_that_is_over_is_told():
    items = cut_memory(2, 120, 100_000, 300)
    solution = solve(PlacementProblem(items, 100_000), time_limit_s=1e-6)
    assert solution.status == "timeout"
    assert solution.message(100_000).startswith("capacity 100000: no placement was found in time: ")


def test_edges():
    assert solve(PlacementProblem((), 0)).status == "optimal"
    nothing = solve(PlacementProblem(buffers((0, 1, 0), (0, 2, 0)), 0))
    assert (nothing.status, nothing.height_bytes, nothing.offsets) == ("optimal", 0, {"b0": 0, "b1": 0})
    assert solve(PlacementProblem(buffers((0, 1, 1)), 0)).status == "infeasible"
    one = solve(PlacementProblem(buffers((-5, 1, 7)), 7))
    assert (one.status, one.height_bytes) == ("optimal", 7)
    apart = solve(PlacementProblem(buffers((0, 1, 7), (1, 2, 9))))
    assert (apart.height_bytes, apart.offsets) == (9, {"b0": 0, "b1": 0})


def test_sizes_above_32_bits():
    items = tuple(
        Buffer(item.name, item.lower, item.upper, item.size_bytes * 3 * 2**40) for item in cut_memory(0, 30, 1000, 40)
    )
    solution = solve(PlacementProblem(items, 3000 * 2**40), workers=1)
    assert (solution.status, solution.height_bytes) == ("optimal", 3000 * 2**40)


def test_sizes_above_64_bits_are_refused_where_they_need_a_search():
    items = (Buffer("a", 0, 2, 2**70 + 1), Buffer("b", 1, 4, 3), Buffer("c", 0, 1, 5), Buffer("d", 3, 5, 2**70))
    assert solve(PlacementProblem(items)).status == "optimal"
    with pytest.raises(ScheduleError, match="expected sizes that add up to less than"):
        make_instance(items, 2**71)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit_s": 0.0}, "time limit: expected a positive number of seconds, found 0.0"),
        ({"time_limit_s": float("nan")}, "time limit: expected a positive number of seconds, found nan"),
        ({"workers": 3}, "workers: expected 1 or 2, found 3"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str):
    with pytest.raises(ScheduleError, match=message):
        solve(example(), time_limit_s=options.get("time_limit_s", 1.0), workers=int(options.get("workers", 1)))


def test_portfolio_proves_what_the_bound_does_not():
    items = (Buffer("a", 0, 2, 2), Buffer("b", 1, 3, 2, 1, 1), Buffer("c", 2, 4, 2))
    portfolio = Portfolio(make_instance(items, 4), 0, 2)
    assert portfolio.round(NEVER) == "impossible"
    assert portfolio.solver == "canonical search"
