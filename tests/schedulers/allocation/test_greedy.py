"""The baselines: what they choose on a named problem, and that they never beat the optimum or break a rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from instar.schedulers.allocation import AllocationProblem, greedy_promote, greedy_ratio, solve, uniform

from .instances import assignments, fits, layer, problems, small, totals

BASELINES = [greedy_ratio, greedy_promote, uniform]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_baselines_are_valid_and_not_better(problem: AllocationProblem):
    best = solve(problem).objective
    for baseline in BASELINES:
        chosen = baseline(problem)
        if chosen is None:
            continue
        loss, costs = totals(problem, chosen)
        assert chosen in list(assignments(problem))
        assert fits(problem, costs)
        assert best is not None
        assert loss >= best


def test_choices_on_a_named_problem():
    problem = small(8)
    assert greedy_ratio(problem) == {"a": "int8", "b": "int4"}
    assert greedy_promote(problem) == {"a": "int4", "b": "int4"}
    assert uniform(problem) == {"a": "int4", "b": "int4"}
    assert greedy_promote(small(10)) == {"a": "int4", "b": "int8"}
    assert uniform(small(12)) == {"a": "int8", "b": "int8"}


def test_greedy_by_ratio_can_be_far_from_optimal():
    """The small layer has the better ratio and takes the room that the large one needs."""
    tiny = layer("tiny", ("low", 0.2, (0,)), ("high", 0.0, (1,)))
    large = layer("large", ("low", 1.0, (0,)), ("high", 0.0, (10,)))
    problem = replace(small(10), layers=(tiny, large))
    assert greedy_ratio(problem) == {"tiny": "high", "large": "low"}
    assert solve(problem).objective == pytest.approx(0.2)


@pytest.mark.parametrize("baseline", BASELINES)
def test_nothing_fits(baseline: object):
    assert callable(baseline)
    assert baseline(small(5)) is None


@pytest.mark.parametrize("baseline", BASELINES)
def test_no_layers(baseline: object):
    assert callable(baseline)
    assert baseline(AllocationProblem(())) == {}
