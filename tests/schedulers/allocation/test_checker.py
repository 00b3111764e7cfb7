"""The checker accepts what ``solve`` returns and finds every kind of tampering."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from instar.schedulers.allocation import (
    AllocationProblem,
    AllocationSolution,
    BindingBudget,
    Infeasibility,
    Trait,
    check,
    solve,
)
from instar.schedulers.allocation import checker as module

from .instances import small

Tamper = Callable[[AllocationSolution], AllocationSolution]


def constrained() -> AllocationProblem:
    return replace(small(10), forced=(("b", "int8"),), forbidden=(("a", "int8"),))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda s: replace(s, assignment={"a": "int4"}), "layer 'b' has no choice"),
        (lambda s: replace(s, assignment={"a": "int4", "b": "int3"}), "layer 'b' has no choice named 'int3'"),
        (lambda s: replace(s, assignment={**s.assignment, "c": "int4"}), "layer 'c' is not in the problem"),
        (lambda s: replace(s, assignment={"a": "int8", "b": "int8"}), "budget 'size' is exceeded: 12 of 10"),
        (lambda s: replace(s, assignment={"a": "int4", "b": "int4"}), "layer 'b' must be 'int8', is 'int4'"),
        (lambda s: replace(s, assignment={"a": "int8", "b": "int4"}), "layer 'a' must not be 'int8'"),
        (lambda s: replace(s, used={"size": 9}), "budget 'size': 9 reported as used, 10 found"),
        (lambda s: replace(s, used={"time": 9}), "used names ['time'], the budgets are ['size']"),
        (lambda s: replace(s, objective=1.4), "objective 1.4 reported, 1.5 found"),
        (lambda s: replace(s, bound=1.6), "bound 1.6 is not between zero and the objective 1.5"),
        (lambda s: replace(s, bound=-1.0), "bound -1.0 is not between zero and the objective 1.5"),
        (lambda s: replace(s, bound=None), "status 'optimal' needs an objective, a bound and a gap"),
        (lambda s: replace(s, bound=0.75), "gap 0.0 reported, 0.5 found"),
        (lambda s: replace(s, bound=0.75, gap=0.5), "called optimal with a gap of 0.5, asked for 0.0"),
        (lambda s: replace(s, binding=(BindingBudget("size", 1, 0.5),)), "slack 1 reported, 0 found"),
        (lambda s: replace(s, binding=(BindingBudget("time", 0, 0.5),)), "slack 0 reported, None found"),
        (lambda s: replace(s, binding=(BindingBudget("size", 0, -0.5),)), "shadow price -0.5 is not a positive number"),
        (lambda s: replace(s, status="solved"), "status 'solved' is not one of"),
        (lambda s: replace(s, status="infeasible"), "status 'infeasible' comes with an assignment"),
        (lambda s: replace(s, status="timeout", assignment={}), "status 'timeout' comes with an objective"),
        (lambda s: replace(s, infeasible=(Infeasibility("size", 10, 11),)), "but budgets are named as infeasible"),
    ],
)
def test_tampering_is_found(tamper: Tamper, message: str):
    problem = constrained()
    solution = solve(problem)
    assert check(problem, solution) == []
    assert any(message in violation for violation in check(problem, tamper(solution)))


def test_differing_ties_are_found():
    problem = replace(small(12), ties=(("a", "b"),))
    tampered = replace(solve(problem), assignment={"a": "int4", "b": "int8"})
    assert "tied layers a, b differ: int4, int8" in check(problem, tampered)


def test_traits_are_checked():
    trait = Trait("their input", {"a": ("float", "int"), "b": ("float", "int")})
    problem = replace(small(12), traits=(trait,))
    solution = solve(problem)
    assert check(problem, solution) == []
    tampered = replace(solution, assignment={"a": "int4", "b": "int8"})
    assert "layers a, b differ in their input: float, int" in check(problem, tampered)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((), "infeasible, but no budget is named"),
        ((Infeasibility("size", 5, 5),), "infeasible budget 'size': smallest feasible 5 is within the limit"),
        ((Infeasibility("size", 4, 6),), "infeasible budget 'size': limit 4 reported, 5 found"),
        ((Infeasibility("time", 4, 6),), "infeasible budget 'time': limit 4 reported, None found"),
    ],
)
def test_claims_of_infeasibility_are_compared_with_the_problem(entries: tuple[Infeasibility, ...], message: str):
    problem = small(5)
    solution = solve(problem)
    assert check(problem, solution) == []
    assert check(problem, replace(solution, infeasible=entries)) == [message]


def test_the_checker_imports_no_solver():
    imports: set[str] = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            imports.add(node.module or "")
        elif isinstance(node, ast.Import):
            imports.update(name.name for name in node.names)
    assert imports == {"__future__", "math", "collections.abc", "problem"}
