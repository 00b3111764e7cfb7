"""Pairs along narrow graphs: bounds against brute force, both ways of solving against each other, and what is fixed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.schedulers.allocation import (
    AllocationBudget,
    AllocationProblem,
    Choice,
    LayerChoices,
    Pair,
    Trait,
    check,
    solve,
)
from instar.schedulers.allocation import pairwise as solving
from instar.schedulers.allocation import pairwise_graph as graphs
from instar.schedulers.allocation import pairwise_stages as staging
from instar.schedulers.allocation.pairwise_bounds import best_prices, bound_of, least_with, tails_of
from instar.schedulers.allocation.pairwise_graph import graph_of
from instar.schedulers.allocation.pairwise_stages import stages_of
from instar.schedulers.allocation.pairwise_terms import terms_of

from .instances import assignments, brute_force, fits, layer, pairing, totals


def crossing(edges: Sequence[tuple[int, int]], count: int, options: int, seed: int = 0) -> AllocationProblem:
    """Layers of which every second option is in integers; each edge has what entering and leaving cost."""
    rng = random.Random(seed)
    layers = tuple(
        LayerChoices(
            f"l{i}",
            tuple(
                Choice(
                    f"c{j}", scale * 2.0**-j * rng.uniform(0.5, 1), (rng.randint(5, 40) + 10 * j, rng.randint(5, 60))
                )
                for j in range(options)
            ),
        )
        for i, scale in enumerate(rng.uniform(0.1, 2) for _ in range(count))
    )
    pairs = tuple(
        Pair((f"l{a}", f"c{i}"), (f"l{b}", f"c{j}"), costs=(0, cost[i % 2]))
        for a, b, cost in ((a, b, (rng.randint(0, 25), rng.randint(0, 25))) for a, b in edges)
        for i in range(options)
        for j in range(options)
        if i % 2 != j % 2
    )
    sums = [[sum(which(c.costs[b] for c in each.choices) for each in layers) for which in (min, max)] for b in range(2)]
    budgets = tuple(AllocationBudget(name, (2 * low + high) // 3) for name, (low, high) in zip("ab", sums, strict=True))
    return AllocationProblem(layers, budgets, pairs=pairs)


CHAIN = [*pairwise(range(40))]
RESIDUAL = [*CHAIN, *((a, a + 3) for a in range(0, 37, 2))]
TREE = [((reader - 1) // 2, reader) for reader in range(1, 40)]


@pytest.mark.parametrize("edges", [CHAIN, RESIDUAL, TREE], ids=["chain", "residual", "tree"])
def test_narrow_graphs_are_proven_without_cp_sat(edges: Sequence[tuple[int, int]]):
    problem = crossing(edges, 40, 6)
    with patch.object(solving, "_modelled", side_effect=AssertionError("asked CP-SAT")):
        found = solve(problem)
    assert (found.status, found.gap) == ("optimal", 0.0)
    assert check(problem, found) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairing())
def test_wide_graphs_agree_with_brute_force(problem: AllocationProblem):
    with patch.object(staging, "MOST_TRANSITIONS", 0):
        found = solve(problem)
    assert check(problem, found) == []
    best = brute_force(problem)
    assert (found.status, found.objective) == (("infeasible", None) if best is None else ("optimal", best))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05]))
def test_both_ways_find_the_same(seed: int, gap: float):
    """Tied layers, a trait and a cycle in a chain of eight."""
    plain = crossing([*pairwise(range(8)), (0, 4), (2, 7)], 8, 4, seed)
    trait = Trait("t", {"l3": ("x", "x", "y", "y"), "l6": ("x", "y", "x", "y")})
    problem = replace(plain, ties=(("l1", "l5"),), traits=(trait,), forbidden=(("l0", "c3"),))
    found = solve(problem, relative_gap=gap)
    with patch.object(graphs, "MOST_OPTIONS", 0):
        other = solve(problem)
    assert check(problem, found) == []
    assert (found.status == "infeasible") == (other.status == "infeasible")
    if found.objective is None or other.objective is None or found.bound is None:
        assert [entry.smallest_feasible for entry in found.infeasible] == [
            entry.smallest_feasible for entry in other.infeasible
        ]
        return
    assert found.bound <= other.objective <= found.objective
    assert found.objective * (1 - gap) <= found.bound
    assert gap or found.objective == other.objective


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pairing(), st.lists(st.floats(0, 8), min_size=3, max_size=3))
def test_no_assignment_is_below_its_bounds(problem: AllocationProblem, asked: list[float]):
    terms = terms_of(problem)
    graph = graph_of(problem, terms)
    assert graph is not None
    stages = stages_of(graph, [1.0] * len(graph.nodes))
    assert stages is not None
    unit = float(terms.total(_places(problem, next(assignments(problem))))) or 1.0
    for prices in (np.array(asked[: len(problem.budgets)]) * abs(unit) / 8, best_prices(stages, np.zeros(0))):
        tails = tails_of(stages, prices[None])
        bound, through = bound_of(stages, tails), least_with(stages, tails)
        for chosen in assignments(problem):
            if not fits(problem, totals(problem, chosen)[1]):
                continue
            loss = terms.total(_places(problem, chosen))
            assert bound <= loss
            for stage, least in zip(stages.stages, through, strict=True):
                node = graph.nodes[stage.node]
                names = tuple(chosen[member] for member in node.members)
                for option, value in zip(node.options, least, strict=True):
                    assert option.names != names or value <= loss


def _places(problem: AllocationProblem, chosen: dict[str, str]) -> tuple[int, ...]:
    return tuple([choice.name for choice in each.choices].index(chosen[each.name]) for each in problem.layers)


def test_options_beaten_by_one_that_crosses_alike_are_left_out():
    a = layer("a", ("f", 0.0, (9,)), ("i8", 0.1, (4,)), ("i7", 0.2, (4,)), ("i6", 0.3, (3,)))
    b = layer("b", ("f", 0.0, (9,)), ("i8", 0.1, (4,)))
    made = tuple(Pair(("a", name), ("b", "f"), costs=(2,)) for name in ("i8", "i7", "i6"))
    problem = AllocationProblem(
        (a, b), (AllocationBudget("ms", 12),), pairs=(*made, Pair(("a", "f"), ("b", "i8"), costs=(1,)))
    )
    graph = graph_of(problem, terms_of(problem))
    assert graph is not None
    assert [[option.names[0] for option in node.options] for node in graph.nodes] == [["f", "i8", "i6"], ["f", "i8"]]
    assert [node.kind for node in graph.nodes] == [(0, 1, 1), (0, 1)]
    decided = graph.with_options([[1, 2], [0, 1]])
    assert not decided.edges
    assert [option.costs for option in decided.nodes[1].options] == [(11,), (4,)]
    assert decided.nodes[1].kinds == 1


def test_a_graph_that_is_too_wide_has_no_stages():
    everything = crossing([(a, b) for a in range(20) for b in range(a)], 20, 4)
    graph = graph_of(everything, terms_of(everything))
    assert graph is not None
    assert stages_of(graph, [1.0] * 20) is None
    chain = graph_of(problem := crossing(CHAIN, 40, 4), terms_of(problem))
    assert chain is not None
    stages = stages_of(chain, [1.0] * 40)
    assert stages is not None
    assert stages.transitions == 2 + 39 * 4


def test_a_chain_that_cannot_meet_its_budget_is_told_the_least():
    problem = crossing([*pairwise(range(5))], 5, 3, seed=3)
    tight = replace(problem, budgets=tuple(replace(b, limit=20) for b in problem.budgets))
    with patch.object(solving, "_modelled", side_effect=AssertionError("asked CP-SAT")):
        found = solve(tight)
    assert check(tight, found) == []
    least = [min(totals(tight, chosen)[1][b] for chosen in assignments(tight)) for b in range(2)]
    assert [(entry.smallest_feasible, entry.proven) for entry in found.infeasible] == [(n, True) for n in least]
