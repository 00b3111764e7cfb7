"""The checker finds what is wrong, and nothing in what is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from instar.schedulers.placement import Buffer, PlacementProblem, PlacementSolution, check

PROBLEM = PlacementProblem((Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 4, 4), Buffer("c", 2, 4, 4, 1, 0)), 8)
RIGHT = PlacementSolution("optimal", {"a": 0, "b": 4, "c": 0}, 8, 8, 0.0)


def test_a_right_placement_passes():
    assert check(PROBLEM, RIGHT) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": {"a": 1, "b": 4, "c": 0}}, "buffers 'a' and 'b' overlap at time 1"),
        ({"offsets": {"a": 0, "b": 0, "c": 0}}, "buffers 'b' and 'c' overlap at time 2"),
        ({"offsets": {"a": 0, "b": 8, "c": 0}, "height_bytes": 12}, "'b' at 8 to 12 leaves the memory of 8 bytes"),
        ({"offsets": {"a": -1, "b": 4, "c": 0}}, "buffer 'a' at -1 to 3 leaves the memory of 8 bytes"),
        ({"offsets": {"a": 0, "b": 5, "c": 0}}, "buffer 'b' at 5 is not a multiple of 4"),
        ({"offsets": {"a": 0, "b": 4, "c": 8}}, "buffer 'c' at 8 must lie at 0"),
        ({"offsets": {"a": 0, "b": 4}}, "buffer 'c' has no offset"),
        ({"offsets": {"a": 0, "b": 4, "c": 0, "d": 0}}, "buffer 'd' is not in the problem"),
        ({"height_bytes": 7}, "height 7 reported, 8 found"),
        ({"bound_bytes": 9}, "bound 9 is above the height 8"),
        ({"bound_bytes": 7}, "called optimal with height 8 and bound 7"),
        ({"status": "solved"}, "status 'solved' is not one of optimal, feasible, infeasible, timeout"),
        ({"status": "timeout"}, "status 'timeout' comes with a placement"),
        (
            {"status": "infeasible", "offsets": {}, "height_bytes": None, "lowest_known_bytes": 8},
            "infeasible at capacity 8, but a placement of 8 bytes is known",
        ),
    ],
)
def test_mistakes_are_found(change: dict[str, Any], message: str):
    assert any(message in sentence for sentence in check(PROBLEM, replace(RIGHT, **change)))


def test_infeasible_needs_a_capacity():
    solution = PlacementSolution("infeasible", {}, None, 0, 0.0)
    assert check(PlacementProblem((Buffer("a", 0, 1, 1),)), solution) == [
        "infeasible without a capacity and without fixed offsets"
    ]


def test_buffers_without_bytes_touch_nobody():
    problem = PlacementProblem((Buffer("a", 0, 2, 4), Buffer("b", 0, 2, 0)), 4)
    assert check(problem, PlacementSolution("optimal", {"a": 0, "b": 2}, 4, 4, 0.0)) == []
