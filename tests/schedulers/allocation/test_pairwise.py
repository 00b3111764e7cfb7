"""Pairs of choices: against brute force, by name, and refused where they mean nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings

from instar.ir.errors import ScheduleError
from instar.schedulers.allocation import (
    AllocationBudget,
    AllocationProblem,
    AllocationSolution,
    Pair,
    check,
    dump_problem,
    greedy_promote,
    greedy_ratio,
    load_problem,
    solve,
    uniform,
)
from instar.schedulers.allocation.pairwise_terms import blocks_of

from .instances import brute_force, layer, pairing, preferred, small, smallest


def small_pair(loss: float = 0.0, *costs: int) -> AllocationProblem:
    """Two layers of int4 and int8; the pair is about both at int8."""
    return replace(small(12), pairs=(Pair(("a", "int8"), ("b", "int8"), loss, costs),))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pairing())
def test_agrees_with_brute_force(problem: AllocationProblem):
    best, solution = brute_force(problem), solve(problem)
    assert check(problem, solution) == []
    if best is None:
        assert solution.status == "infeasible"
        for entry in solution.infeasible:
            assert entry.proven
            assert entry.smallest_feasible == smallest(problem, entry.budget, entry.given)
        return
    assert (solution.status, solution.objective) == ("optimal", best)
    assert solution.bound is not None
    assert solution.bound <= best
    assert solution.bound == pytest.approx(best, rel=1e-12, abs=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(pairing())
def test_problems_with_pairs_survive_json(problem: AllocationProblem):
    assert load_problem(dump_problem(problem)) == problem


def test_an_interaction_changes_the_choice():
    assert dict(solve(small_pair()).assignment) == {"a": "int8", "b": "int8"}
    apart = solve(small_pair(loss=0.8))
    assert dict(apart.assignment) == {"a": "int4", "b": "int8"}
    assert apart.objective == 1.5
    together = solve(small_pair(loss=-2.0))
    assert (together.objective, together.bound, together.gap) == (-1.25, -1.25, 0.0)


def test_a_cost_of_two_layers_counts_against_the_budget():
    assert solve(small_pair(0.0, 1)).used == {"size": 10}
    wide = solve(replace(small_pair(0.0, 1), budgets=(AllocationBudget("size", 13),)))
    assert (dict(wide.assignment), wide.used) == ({"a": "int8", "b": "int8"}, {"size": 13})
    saved = solve(replace(small_pair(0.0, -4), budgets=(AllocationBudget("size", 8),)))
    assert (dict(saved.assignment), saved.used) == ({"a": "int8", "b": "int8"}, {"size": 8})


def test_leaving_a_run_of_integer_layers():
    """Every change between integer and float costs 5: one long run, although single layers would rather be float."""
    rows = tuple(layer(f"l{i}", ("float", 0.0, (10,)), ("int", 0.3 if i == 2 else 0.1, (4,))) for i in range(5))
    pairs = tuple(
        Pair((f"l{i}", first), (f"l{i + 1}", second), costs=(5,))
        for i in range(4)
        for first, second in (("float", "int"), ("int", "float"))
    )
    problem = AllocationProblem(rows, (AllocationBudget("time", 26),), pairs=pairs)
    assert dict(solve(problem).assignment) == dict.fromkeys((f"l{i}" for i in range(5)), "int")
    alone = solve(replace(problem, pairs=()))
    assert alone.assignment["l2"] == "float"


def test_infeasible_with_pairs_names_the_smallest_value():
    solution = solve(replace(small_pair(0.0, -4), budgets=(AllocationBudget("size", 5),)))
    (entry,) = solution.infeasible
    assert (entry.budget, entry.smallest_feasible, entry.proven) == ("size", 6, True)


def test_preferences_count_with_pairs_too():
    a = layer("a", ("x", 1.0, (1,)), ("y", 1.0, (1,)))
    a = replace(a, choices=(replace(a.choices[0], preference=3), a.choices[1]))
    b = layer("b", ("x", 2.0, (1,)))
    problem = AllocationProblem((a, b), (AllocationBudget("size", 2),), pairs=(Pair(("a", "x"), ("b", "x"), -0.0),))
    assert preferred(problem) == (3.0, 0)
    assert solve(problem).assignment["a"] == "y"


def interacting(layers: int, seed: int = 0) -> AllocationProblem:
    """CLADO's shape: three widths per layer, measured interactions between all layers."""
    rng = random.Random(seed)
    rows = tuple(
        layer(
            f"l{i}",
            *((f"int{b}", 10 ** rng.uniform(-3, 0) * 4.0 ** (4 - b), (b * rng.randint(5, 50),)) for b in (2, 4, 8)),
        )
        for i in range(layers)
    )
    pairs = tuple(
        Pair((rows[i].name, a.name), (rows[j].name, b.name), rng.uniform(-0.3, 0.6) * math.sqrt(a.loss * b.loss))
        for i in range(layers)
        for j in range(i + 1, layers)
        for a in rows[i].choices
        for b in rows[j].choices
    )
    low, high = (sum(which(c.costs[0] for c in row.choices) for row in rows) for which in (min, max))
    return AllocationProblem(rows, (AllocationBudget("size", (2 * low + high) // 3),), pairs=pairs)


def test_interactions_of_all_layers_are_proven_where_there_are_few():
    problem = interacting(7)
    assert solve(problem).objective == brute_force(problem)
    assert solve(problem) == solve(problem)


def test_a_search_that_ends_early_states_its_gap():
    problem = interacting(14)
    first, again = (solve(problem, work_limit=0.01) for _ in range(2))
    assert check(problem, first) == []
    assert first == again
    assert first.objective is not None
    assert first.bound is not None
    assert first.bound <= first.objective


TAMPERED: list[tuple[Callable[[AllocationSolution], AllocationSolution], str]] = [
    (lambda s: replace(s, objective=0.75, bound=0.75), "objective 0.75 reported, 0.875 found"),
    (lambda s: replace(s, used={"size": 12}), "budget 'size': 12 reported as used, 11 found"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERED)
def test_the_checker_counts_pairs(tamper: Callable[[AllocationSolution], AllocationSolution], message: str):
    problem = small_pair(0.125, -1)
    solution = solve(problem)
    assert check(problem, solution) == []
    assert message in check(problem, tamper(solution))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Pair(("a", "int8"), ("c", "int8")), "pairs: expected the name of a layer, found 'c'"),
        (Pair(("a", "int8"), ("b", "int3")), "pair with layer 'b': expected the name of a choice, found 'int3'"),
        (Pair(("a", "int8"), ("a", "int4")), "expected two layers, found one; add to its own loss and costs"),
        (Pair(("a", "int8"), ("b", "int8"), math.nan), "expected a finite loss, found nan; leave out what does not"),
        (Pair(("a", "int8"), ("b", "int8"), 0.0, (1, 2)), "expected 1 costs, one per budget, or none, found 2"),
        (Pair(("a", "int8"), ("b", "int8"), 0.0, (True,)), "expected integer costs, found True; use a finer unit"),
        (Pair(("a", "int8"), ("b", "int8"), 0.0, (2**61,)), "expected costs of pairs that sum to at most 2..60"),
    ],
)
def test_meaningless_pairs_are_refused(pair: Pair, message: str):
    with pytest.raises(ScheduleError, match=message):
        replace(small(), pairs=(pair,))


def test_a_combination_twice_is_refused():
    pair = Pair(("a", "int8"), ("b", "int8"), 1.0)
    with pytest.raises(ScheduleError, match="expected every combination once, found it twice; add them up"):
        replace(small(), pairs=(pair, Pair(pair.second, pair.first)))


@pytest.mark.parametrize("baseline", [greedy_ratio, greedy_promote, uniform])
def test_baselines_refuse_pairs(baseline: Callable[[AllocationProblem], object]):
    with pytest.raises(ScheduleError, match="greedy: expected layers that add up, found 1 pairs; leave them out"):
        baseline(small_pair(1.0))


def test_a_loss_below_the_solvers_integers_is_stated_as_a_gap():
    tiny = Pair(("a", "int8"), ("b", "int8"), -1e-36, ())
    solution = solve(replace(small(12), pairs=(tiny,)))
    assert check(replace(small(12), pairs=(tiny,)), solution) == []
    assert solution.bound is not None
    assert solution.objective is not None
    assert 0 <= solution.objective - solution.bound < 1e-14


def test_choices_that_cross_alike_share_their_products():
    """Two layers of six choices, three of them in integers: 18 crossings are two products."""
    crossed = {(0, 1, a, b): (7, 1) for a in range(6) for b in range(6) if (a < 3) != (b < 3)}
    blocks = blocks_of(dict.fromkeys(crossed, 0), crossed, [range(6), range(6)], 2)
    assert [(block.firsts, block.seconds) for block in blocks] == [((0, 1, 2), (3, 4, 5)), ((3, 4, 5), (0, 1, 2))]
    assert {(block.value, block.costs) for block in blocks} == {(0, (7, 1))}
    one = blocks_of({(0, 1, 4, 5): -3}, crossed, [range(6), range(6)], 2)
    assert {(block.firsts, block.seconds): block.value for block in one} == {
        ((0, 1, 2), (3, 4)): 0, ((0, 1, 2), (5,)): 0, ((3, 5), (0, 1, 2)): 0, ((4,), (0, 1, 2)): 0, ((4,), (5,)): -3,
    }  # fmt: skip
    fewer = blocks_of({}, crossed, [(0, 4), (1, 2)], 2)
    assert [(block.firsts, block.seconds) for block in fewer] == [((4,), (1, 2))]
