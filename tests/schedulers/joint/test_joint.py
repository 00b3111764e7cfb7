"""Widths and residency together: brute force, a network where one after the other is worse, bounds, refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.schedulers.joint.problem import Choice, JointAnswer, JointProblem, Value, check_answer, joint_problem
from instar.schedulers.joint.solver import solve_alternately, solve_joint, solve_sequential
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor


def moved(problem: JointProblem, picks: tuple[int, ...], kept: frozenset[tuple[int, int]]) -> int | None:
    """Bytes by the checker, ``None`` if a limit is broken."""
    try:
        check_answer(problem, JointAnswer("feasible", picks, kept, -1))
    except ScheduleError as error:
        text = str(error)
        return int(text.rsplit(" ", 1)[1]) if text.startswith("joint answer: expected -1 bytes") else None
    raise AssertionError


def brute_force(problem: JointProblem) -> int | None:
    gaps = [(place, use) for place, value in enumerate(problem.values) for use in range(len(value.uses) - 1)]
    found = [
        total
        for picks in itertools.product(*(range(len(value.choices)) for value in problem.values))
        for flags in itertools.product((False, True), repeat=len(gaps))
        if (total := moved(problem, picks, frozenset(itertools.compress(gaps, flags)))) is not None
    ]
    return min(found, default=None)


@st.composite
def joint_problems(draw: st.DrawFn) -> JointProblem:
    steps = draw(st.integers(1, 5))
    values: list[Value] = []
    for place in range(draw(st.integers(1, 4))):
        uses = tuple(sorted(draw(st.sets(st.integers(0, steps - 1), min_size=1, max_size=3))))
        wide = draw(st.integers(1, 12))
        choices = (Choice(wide, 0.0), Choice((wide + 1) // 2, draw(st.integers(1, 5)) / 7))
        values.append(Value(f"v{place}", uses, draw(st.booleans()), draw(st.booleans()), choices))
    return JointProblem(tuple(values), steps, draw(st.integers(4, 30)), draw(st.integers(0, 6)) / 7 + 1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(joint_problems())
def test_joint_equals_brute_force_and_the_others_lie_above(problem: JointProblem) -> None:
    together, least = solve_joint(problem), brute_force(problem)
    if least is None:
        assert together.status == "infeasible"
        return
    assert together.status == "optimal"
    assert together.traffic_bytes == together.bound_bytes == least
    sequential, alternating = solve_sequential(problem), solve_alternately(problem)
    for answer in (sequential, solve_sequential(problem, proxy="uses"), alternating):
        if answer.picks:
            assert answer.bound_bytes <= least <= answer.traffic_bytes
    if sequential.picks:
        assert alternating.traffic_bytes <= sequential.traffic_bytes


def skip_network() -> Problem:
    """z -> b -> a -> d -> c -> y = a + c: while d becomes c, a waits, and b is long gone."""
    names = ("z", "b", "a", "d", "c", "y")
    tensors = tuple(
        Tensor(name, 8, (1, 8), "input" if name == "z" else "output" if name == "y" else "activation") for name in names
    )
    pairs = (((0,), 1), ((1,), 2), ((2,), 3), ((3,), 4), ((2, 4), 5))
    operators = tuple(Operator(f"op{i}", "add", inputs, out) for i, (inputs, out) in enumerate(pairs))
    return Problem("skip", tensors, operators)


def skip_problem(budget_bytes: int = 20) -> JointProblem:
    """One tensor may be halved: ``b`` of 14 bytes, or ``a`` of 8."""
    choices = [[Choice(size, 0.0)] for size in (4, 14, 8, 10, 6, 4)]
    choices[1].append(Choice(7, 1.0))
    choices[2].append(Choice(4, 1.0))
    return joint_problem(skip_network(), choices, [[]] * 5, budget_bytes, 1.0)


def test_together_is_three_times_better_than_one_after_the_other() -> None:
    """Without a look at the memory ``b`` is halved, which saves more bytes; but only a halved ``a`` can wait."""
    problem = skip_problem()
    together = solve_joint(problem)
    assert together.picks[1:3] == (0, 1)
    assert together.traffic_bytes == brute_force(problem) == 4 + 4
    for proxy in ("bytes", "uses"):
        sequential = solve_sequential(problem, proxy=proxy)
        assert sequential.picks[1:3] == (1, 0)
        assert sequential.traffic_bytes == 4 + 4 + 2 * 8
        assert sequential.bound_bytes == 4 + 4


def test_where_nothing_fits_all_say_so() -> None:
    problem = skip_problem(13)
    assert brute_force(problem) is None
    for answer in (solve_joint(problem), solve_sequential(problem), solve_alternately(problem)):
        assert (answer.status, answer.picks) == ("infeasible", ())


def test_weights_are_values_too() -> None:
    choices = [[Choice(4, 0.0)] for _ in range(6)]
    weights = [[Choice(8, 0.0), Choice(4, 0.5)], [], [], [], []]
    problem = joint_problem(skip_network(), choices, weights, 100, 0.5)
    assert [value.name for value in problem.values][-1] == "op0 weights"
    assert solve_joint(problem).traffic_bytes == 4 + 4 + 4
    assert solve_joint(replace(problem, loss_limit=0.0)).traffic_bytes == 4 + 4 + 8


def test_a_hint_does_not_change_the_answer() -> None:
    problem = skip_problem()
    assert solve_joint(problem, hint=solve_sequential(problem)).traffic_bytes == solve_joint(problem).traffic_bytes


def test_the_checker_and_the_values_refuse() -> None:
    problem = skip_problem()
    found = solve_joint(problem)
    with pytest.raises(ScheduleError, match="joint answer: expected 1 bytes to move, found 8"):
        check_answer(problem, replace(found, traffic_bytes=1))
    with pytest.raises(ScheduleError, match="joint answer: step 0: expected 3 bytes, found"):
        check_answer(replace(problem, budget_bytes=3), found)
    with pytest.raises(ScheduleError, match=r"joint answer: expected a loss of at most 0.5, found 1.0"):
        check_answer(replace(problem, loss_limit=0.5), found)
    with pytest.raises(ScheduleError, match="value 'v': expected choices with bytes and losses of at least 0"):
        Value("v", (0,), False, False, ())
    with pytest.raises(ScheduleError, match=r"value 'v': expected ascending uses, found \(1, 0\)"):
        Value("v", (1, 0), False, False, (Choice(1, 0.0),))
