"""``solve`` against brute force, its four outcomes, and repeatability."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.schedulers.allocation import (
    AllocationBudget,
    AllocationProblem,
    Choice,
    LayerChoices,
    Trait,
    check,
    core,
    effort,
    greedy_ratio,
    minimise,
    solve,
    sweep,
)
from instar.schedulers.allocation import solver as module
from instar.schedulers.allocation.dominance import reduce_problem

from .instances import brute_force, conflict, layer, preferred, preferring, problems, small, smallest


def random_problem(layers: int, choices: int, seed: int, tight: float = 0.3) -> AllocationProblem:
    """Two budgets; the limits are a fraction of the way from the least to the largest sum of costs."""
    rng = random.Random(seed)
    rows = tuple(
        LayerChoices(
            f"l{i}",
            tuple(Choice(f"c{j}", rng.random(), (rng.randint(1, 999), rng.randint(1, 999))) for j in range(choices)),
        )
        for i in range(layers)
    )
    limits: list[int] = []
    for position in range(2):
        costs = [[choice.costs[position] for choice in row.choices] for row in rows]
        low, high = sum(map(min, costs)), sum(map(max, costs))
        limits.append(int(low + tight * (high - low)))
    return AllocationProblem(rows, (AllocationBudget("size", limits[0]), AllocationBudget("time", limits[1])))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems())
def test_agrees_with_brute_force(problem: AllocationProblem):
    best, solution = brute_force(problem), solve(problem)
    assert check(problem, solution) == []
    if best is None:
        assert solution.status == "infeasible"
        for entry in solution.infeasible:
            assert entry.proven
            assert entry.smallest_feasible == smallest(problem, entry.budget, entry.given)
    else:
        assert (solution.status, solution.objective, solution.bound, solution.gap) == ("optimal", best, best, 0.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([0.01, 0.2]), st.integers(0, 3))
def test_a_gap_is_respected(problem: AllocationProblem, gap: float, seed: int):
    best, solution = brute_force(problem), solve(problem, relative_gap=gap, seed=seed)
    assert (solution.objective is None) == (best is None)
    if best is not None and solution.objective is not None and solution.bound is not None:
        assert solution.bound <= best <= solution.objective <= best / (1 - gap) * (1 + 1e-12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems())
def test_two_workers_find_the_same_loss(problem: AllocationProblem):
    assert solve(problem, workers=2).objective == solve(problem).objective


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_growing_cores_and_coarse_objectives_stay_valid(problem: AllocationProblem):
    """With a first core of nothing and six bits for the objective, the bound must still be one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minimise, "FIRST_CORE", 0)
        patch.setattr(core, "OBJECTIVE_BITS", 6)
        best, solution = brute_force(problem), solve(problem)
    assert (solution.objective is None) == (best is None)
    if best is not None and solution.objective is not None and solution.bound is not None:
        assert solution.bound <= best <= solution.objective
        assert solution.status == "feasible" or solution.objective <= best * (1 + 1e-12)


def test_larger_instance_is_proven_and_repeatable():
    problem = random_problem(60, 12, seed=1)
    first, second = solve(problem, seed=3), solve(problem, seed=3)
    assert (first.status, first.gap, first.bound) == ("optimal", 0.0, first.objective)
    assert first == second
    assert dict(first.assignment) == dict(second.assignment)
    assert solve(problem, seed=4).objective == first.objective
    assert first.pruned > 0


def test_losses_far_below_float_resolution_of_the_sum_still_decide():
    """1e6 + 1e-12 is 1e6 in floats; the choice between 1e-12 and 2e-12 is made exactly all the same."""
    big = layer("big", ("keep", 1e6, (1,)), ("drop", 3e6, (0,)))
    tiny = layer("tiny", ("worse", 2e-12, (0,)), ("better", 1e-12, (1,)))
    solution = solve(AllocationProblem((big, tiny), (AllocationBudget("size", 2),)))
    assert solution.assignment["tiny"] == "better"
    assert solution.gap == 0.0


def test_shadow_price_is_the_slope_of_the_relaxation():
    """From 6 to 12 bytes: b saves 2.5 for 4 bytes (0.625), then a saves 0.75 for 2 (0.375)."""
    prices = {limit: [entry.shadow_price for entry in solve(small(limit)).binding] for limit in (8, 11, 12)}
    assert prices[8] == [pytest.approx(0.625)]
    assert prices[11] == [pytest.approx(0.375)]
    assert prices[12] == []


def test_slack_of_a_binding_budget():
    solution = solve(small(11))
    assert dict(solution.assignment) == {"a": "int4", "b": "int8"}
    assert [(entry.name, entry.slack) for entry in solution.binding] == [("size", 1)]
    assert solution.used == {"size": 10}


def test_the_whole_range_of_floats():
    a = layer("a", ("x", 5e-324, (1,)), ("y", 1e-323, (0,)))
    b = layer("b", ("x", 1e300, (1,)), ("y", 1.5e300, (0,)), ("z", 0.0, (9,)))
    problem = AllocationProblem((a, b), (AllocationBudget("size", 2),))
    assert dict(solve(problem).assignment) == {"a": "x", "b": "x"}
    assert greedy_ratio(problem) == {"a": "x", "b": "x"}


def test_nothing_to_decide():
    empty = solve(AllocationProblem(()))
    assert (empty.status, empty.objective, empty.bound, empty.gap) == ("optimal", 0.0, 0.0, 0.0)
    assert solve(AllocationProblem((), (AllocationBudget("size", 0),))).used == {"size": 0}
    assert solve(AllocationProblem((), (AllocationBudget("size", -1),))).status == "infeasible"
    free = solve(replace(small(), budgets=(), layers=(layer("a", ("x", 2.0, ()), ("y", 1.0, ())),)))
    assert dict(free.assignment) == {"a": "y"}


def test_sides_change_the_optimum():
    problem = small(10)
    assert dict(solve(problem).assignment) == {"a": "int4", "b": "int8"}
    assert dict(solve(replace(problem, ties=(("a", "b"),))).assignment) == {"a": "int4", "b": "int4"}
    assert dict(solve(replace(problem, forced=(("a", "int8"),))).assignment) == {"a": "int8", "b": "int4"}
    assert dict(solve(replace(problem, forbidden=(("b", "int8"),))).assignment) == {"a": "int8", "b": "int4"}


def test_overlapping_ties_are_one_group():
    layers = tuple(layer(name, ("x", 1.0, (1,)), ("y", 0.0, (2,))) for name in "abc")
    tied = AllocationProblem(layers, (AllocationBudget("size", 5),), ties=(("a", "b"), ("b", "c")))
    assert set(solve(tied).assignment.values()) == {"x"}


def test_a_trait_leaves_what_is_not_shared_free():
    """Both must quantize their input or not, and choose their bits alone."""
    classes = {"a": ("float", "int8", "int8"), "b": ("float", "int8", "int8")}
    a = layer("a", ("fp32", 0.0, (8,)), ("int8", 0.1, (4,)), ("int4", 0.15, (2,)))
    b = layer("b", ("fp32", 0.0, (8,)), ("int8", 0.1, (4,)), ("int4", 9.0, (2,)))
    problem = AllocationProblem((a, b), (AllocationBudget("size", 10),), traits=(Trait("input", classes),))
    assert dict(solve(replace(problem, traits=())).assignment) == {"a": "int4", "b": "fp32"}
    assert dict(solve(problem).assignment) == {"a": "int8", "b": "int8"}
    tight = replace(problem, budgets=(AllocationBudget("size", 6),))
    assert dict(solve(tight).assignment) == {"a": "int4", "b": "int8"}


def test_many_layers_of_one_trait():
    """Twelve layers with eight choices in two classes: the combinations are a front, not a product."""
    rng = random.Random(3)
    rows = tuple(
        layer(f"l{i}", *((f"c{j}", 2.0**-j * rng.random(), (j + rng.randint(0, 3),)) for j in range(8)))
        for i in range(12)
    )
    trait = Trait("input", {row.name: tuple("ab"[j % 2] for j in range(8)) for row in rows})
    problem = AllocationProblem(rows, (AllocationBudget("size", 40),), traits=(trait,))
    losses: list[float] = []
    for kept in "ab":
        banned = [(r.name, c.name) for r in rows for j, c in enumerate(r.choices) if "ab"[j % 2] != kept]
        losses.append(solve(replace(problem, traits=(), forbidden=tuple(banned))).objective or 0.0)
    assert solve(problem).objective == min(losses)


def test_infeasible_names_the_budget_and_the_smallest_value():
    solution = solve(small(5))
    assert (solution.status, solution.objective, solution.bound, solution.gap) == ("infeasible", None, None, None)
    (entry,) = solution.infeasible
    assert entry.message("bytes") == (
        "budget 'size': limit 5 bytes cannot be met; the smallest feasible value is 6 bytes"
    )


def test_budgets_that_can_be_met_only_alone():
    solution = solve(conflict())
    assert [(e.budget, e.smallest_feasible, e.given) for e in solution.infeasible] == [
        ("size", 9, ("time",)),
        ("time", 9, ("size",)),
    ]
    assert solution.infeasible[0].message() == (
        "budget 'size': limit 5 cannot be met while time is met; the smallest feasible value is 9"
    )
    assert solve(conflict(9, 5)).status == "optimal"


def test_a_hopeless_budget_is_minimised_while_the_others_are_held():
    solution = solve(conflict(first=0, second=5))
    assert [(e.budget, e.smallest_feasible, e.given) for e in solution.infeasible] == [("size", 9, ("time",))]


def test_two_hopeless_budgets_are_both_named():
    solution = solve(conflict(first=0, second=0))
    assert [(e.budget, e.smallest_feasible, e.given) for e in solution.infeasible] == [("size", 1, ()), ("time", 1, ())]


def test_two_separate_conflicts_name_the_first():
    """Budgets 0 and 1 conflict in one layer, 2 and 3 in another: raising one alone does not help."""
    a = layer("a", ("x", 1.0, (1, 9, 0, 0)), ("y", 1.0, (9, 1, 0, 0)))
    b = layer("b", ("x", 1.0, (0, 0, 1, 9)), ("y", 1.0, (0, 0, 9, 1)))
    problem = AllocationProblem((a, b), tuple(AllocationBudget(f"b{i}", 5) for i in range(4)))
    assert [(e.budget, e.smallest_feasible, e.given) for e in solve(problem).infeasible] == [("b1", 9, ("b0",))]


def test_a_hopeless_budget_beside_conflicting_ones_is_reported_alone():
    a = layer("a", ("x", 1.0, (1, 9, 3)), ("y", 1.0, (9, 1, 3)))
    problem = AllocationProblem((a,), tuple(AllocationBudget(f"b{i}", limit) for i, limit in enumerate((5, 5, 2))))
    assert [(e.budget, e.smallest_feasible, e.given) for e in solve(problem).infeasible] == [("b2", 3, ())]


def test_time_is_respected_and_the_gap_is_honest():
    """Loss falls exactly as cost rises, so that only a perfect fill is optimal: hard for every solver."""
    rng = random.Random(0)
    costs = [[(rng.randint(1, 10**7), rng.randint(1, 10**7)) for _ in range(24)] for _ in range(100)]
    layers = tuple(
        LayerChoices(f"l{i}", tuple(Choice(f"c{j}", (3e7 - sum(c)) / 1e7, c) for j, c in enumerate(row)))
        for i, row in enumerate(costs)
    )
    half = sum(sum(c[0] for c in row) // 24 for row in costs)
    problem = AllocationProblem(layers, (AllocationBudget("size", half), AllocationBudget("time", half)))
    solution = solve(problem, time_limit_s=1.5)
    assert solution.wall_s < 15  # far above the limit, far below what a proof would take; CI machines are shared
    assert solution.status in ("feasible", "optimal", "timeout")
    assert solution.bound is not None
    assert solution.objective is None or solution.bound <= solution.objective
    assert solve(problem, relative_gap=0.05).status == "optimal"


def test_a_search_without_time_claims_nothing():
    """CP-SAT reports the bound 0 when it had no time for one; against a bad reference that would be a false proof."""
    options = [list(row.options) for row in reduce_problem(random_problem(200, 24, seed=5)).layers]
    reference = [max(option.loss for option in row) for row in options]
    limits = [max(sum(option.costs[b] for option in row) for row in options) * 200 for b in range(2)]
    result = core.solve_core(options, limits, reference, -(10**90), effort.Effort(0.0, float("inf"), 0, 1))
    best = sum(min(option.loss for option in row) for row in options)
    assert result.above <= best - sum(reference)


def test_no_time_leaves_the_rounded_relaxation_with_its_gap():
    problem = random_problem(30, 8, seed=2)
    solution, best = solve(problem, time_limit_s=1e-6), solve(problem).objective
    assert solution.status == "feasible"
    assert solution.bound is not None
    assert solution.objective is not None
    assert best is not None
    assert solution.bound <= best <= solution.objective


def test_no_time_and_nothing_found_is_a_timeout_with_a_bound():
    """Whatever the prices, all layers choose the same, which never fits."""
    layers = tuple(layer(f"l{i}", ("small", 1.0, (1, 9)), ("fast", 1.0, (9, 1))) for i in range(10))
    problem = AllocationProblem(layers, (AllocationBudget("size", 50), AllocationBudget("time", 50)))
    solution = solve(problem, time_limit_s=1e-6)
    assert (solution.status, solution.objective, dict(solution.assignment)) == ("timeout", None, {})
    assert solution.bound is not None
    assert 0 <= solution.bound <= 10
    assert solve(problem).status == "optimal"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(preferring())
def test_preferences_decide_between_equal_losses(problem: AllocationProblem):
    best, solution = preferred(problem), solve(problem)
    if best is not None:
        chosen = [each.choice(solution.assignment[each.name]) for each in problem.layers]
        assert (solution.objective, sum(choice.preference for choice in chosen)) == best
        assert (solution.status, solution.bound, solution.gap) == ("optimal", best[0], 0.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([(1,), (1, 3), (2, 100)]))
def test_a_narrow_search_is_finished_by_cp_sat(problem: AllocationProblem, widths: tuple[int, ...]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minimise, "WIDTHS", widths)
        best, solution = brute_force(problem), solve(problem)
    assert solution.objective == best
    if best is not None:
        assert (solution.status, solution.bound) == ("optimal", best)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([(1,), (2,), (1, 2)]))
def test_a_narrow_search_alone_is_honest(problem: AllocationProblem, widths: tuple[int, ...]):
    """What was cut off bounds: without CP-SAT the gap is stated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minimise, "WIDTHS", widths)
        patch.setattr(core, "solve_core", lambda *_: effort.CoreResult("unknown", (), -(10**400)))
        patch.setattr(minimise.Limits, "remaining_s", _few_looks())
        best, solution = brute_force(problem), solve(problem, time_limit_s=1.0)
    if solution.objective is not None and solution.bound is not None:
        assert best is not None
        assert solution.bound <= best <= solution.objective
    if solution.status == "infeasible":
        assert best is None


def _few_looks() -> Callable[[minimise.Limits], float]:
    """Time that is up after the clock was looked at a hundred times."""
    looks = iter(range(100, -1, -1))
    return lambda _: float(next(looks, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit_s": 0}, "time_limit_s: expected more than 0 seconds, found 0"),
        ({"relative_gap": 1.0}, "relative_gap: expected a fraction from 0 to below 1, found 1.0"),
        ({"relative_gap": -0.1}, "relative_gap: expected a fraction from 0 to below 1, found -0.1"),
        ({"workers": 0}, "workers: expected at least 1, found 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, int], message: str):
    with pytest.raises(ScheduleError, match=message):
        solve(small(), **arguments)


def test_a_wrong_solution_is_never_returned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "check", lambda problem, solution: ["budget 'size' is exceeded"])
    with pytest.raises(ScheduleError, match="expected a valid solution, found: budget 'size' is exceeded; report this"):
        solve(small())


def test_sweep_refuses_unknown_budgets():
    with pytest.raises(ScheduleError, match="expected the name of a budget, found 'sise'; did you mean 'size'"):
        sweep(small(), "sise", [6])


def test_sweep_keeps_the_order_and_reports_infeasible_limits():
    solutions = sweep(small(), "size", [12, 5, 8])
    assert [solution.status for solution in solutions] == ["optimal", "infeasible", "optimal"]
    assert [solution.objective for solution in solutions] == [0.75, None, 3.25]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([1e-6, 1e-4, 0.01, 0.3, 0.99]))
def test_a_gap_that_the_bounded_search_proves_is_not_asked_for_again(problem: AllocationProblem, gap: float):
    """What it leaves open is within the gap, rounding included: CP-SAT is neither asked nor loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "solve_core", lambda *_: pytest.fail("asked although nothing is open"))
        best, solution = brute_force(problem), solve(problem, relative_gap=gap)
    if best is not None:
        assert solution.status == "optimal"
        assert solution.objective is not None
        assert solution.objective * (1 - gap) <= best <= solution.objective


def test_a_small_problem_loads_no_solver():
    code = (
        "import sys; from instar.schedulers.allocation import *; "
        "layers = tuple(LayerChoices(f'l{i}', (Choice('a', 1.0, (4,)), Choice('b', i + 2.0, (1,)))) for i in range(9)"
        "); "
        "found = solve(AllocationProblem(layers, (AllocationBudget('size', 20),)), relative_gap=1e-4); "
        "assert found.status == 'optimal', found; "
        "print([name for name in sys.modules if name.startswith('ortools.') and 'python' in name])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
