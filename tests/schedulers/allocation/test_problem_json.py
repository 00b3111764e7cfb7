"""JSON round trips, and strict reading."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from instar.ir.errors import ScheduleError
from instar.schedulers.allocation import (
    AllocationProblem,
    dump_problem,
    dump_solution,
    load_problem,
    load_solution,
    solve,
)

from .instances import conflict, problems, small


@settings(max_examples=50, deadline=None, derandomize=True)
@given(problems())
def test_problem_round_trip(problem: AllocationProblem):
    assert load_problem(dump_problem(problem)) == problem


@pytest.mark.parametrize("problem", [small(), small(5), conflict(), AllocationProblem(())])
def test_solution_round_trip(problem: AllocationProblem):
    solution = solve(problem)
    again = load_solution(dump_solution(solution))
    assert again == solution
    assert again.wall_s == solution.wall_s


def test_only_layers_are_needed():
    text = '{"layers": [{"name": "a", "choices": [{"name": "x", "loss": 1}]}]}'
    assert load_problem(text).layers[0].choices[0].loss == 1.0


def changed(document: str, path: str, value: object) -> str:
    """The document with one value replaced, or added; ``path`` like ``layers.0.name``."""
    root: Any = json.loads(document)
    *parents, last = path.split(".")
    target = root
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    target[int(last) if last.isdigit() else last] = value
    return json.dumps(root)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("budget", [], "problem: expected known keys, found 'budget'; did you mean 'budgets'"),
        ("layers", {}, r"problem.layers: expected a list, found \{\}"),
        ("layers.0", 7, r"problem.layers\[0\]: expected an object, found 7"),
        ("layers.0.name", 7, r"problem.layers\[0\].name: expected a string, found 7"),
        ("layers.0.nam", 7, r"problem.layers\[0\]: expected known keys, found 'nam'; did you mean 'name'"),
        ("layers.0.choices.1.loss", "1", r"problem.layers\[0\].choices\[1\].loss: expected a number, found \"1\""),
        ("layers.0.choices.1.loss", True, r"loss: expected a number, found true"),
        ("layers.0.choices.1.loss", -1, "expected a finite loss that is not negative, found -1.0"),
        ("layers.0.choices.1.cost", [], "expected known keys, found 'cost'; did you mean 'costs'"),
        ("layers.0.choices.1.costs", [1.0], r"costs\[0\]: expected an integer, found 1.0"),
        ("budgets.0.limit", "x" * 80, r"problem.budgets\[0\].limit: expected an integer, found \"x{56}\.\.\."),
        ("budgets.0", {"name": "size"}, r"problem.budgets\[0\]: expected the key 'limit', found name; add it"),
        ("budgets.0", {}, r"problem.budgets\[0\]: expected the key 'name', found none; add it"),
        ("forced", [["a"]], r"problem.forced\[0\]: expected 2 items, found \[\"a\"\]"),
        ("ties", [["a", "c"]], "ties: expected the name of a layer, found 'c'"),
    ],
)
def test_malformed_problems(path: str, value: object, message: str):
    with pytest.raises(ScheduleError, match=message):
        load_problem(changed(dump_problem(small()), path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "problem: expected JSON, found Expecting property name"),
        ("[]", r"problem: expected an object, found \[\]"),
        ("{}", "problem: expected the key 'layers', found none"),
        ('{"layers": NaN}', "problem: expected JSON, found the constant NaN"),
    ],
)
def test_text_that_is_no_problem(text: str, message: str):
    with pytest.raises(ScheduleError, match=message):
        load_problem(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("status", "solved", 'solution.status: expected one of optimal, feasible, infeasible, timeout, found "solved"'),
        ("asignment", {}, "solution: expected known keys, found 'asignment'; did you mean 'assignment'"),
        ("objective", "1", "solution.objective: expected a number"),
        ("assignment", {"a": 1}, "solution.assignment.a: expected a string, found 1"),
        ("binding", [{}], r"solution.binding\[0\]: expected the key 'name'"),
        ("infeasible.0.proven", 1, r"solution.infeasible\[0\].proven: expected true or false, found 1"),
    ],
)
def test_malformed_solutions(path: str, value: object, message: str):
    with pytest.raises(ScheduleError, match=message):
        load_solution(changed(dump_solution(solve(small(5))), path, value))


def test_sides_survive():
    problem = replace(small(), ties=(("a", "b"),), forced=(("a", "int4"),), forbidden=(("b", "int8"),))
    assert load_problem(dump_problem(problem)) == problem
