"""TFLM's plan: bytes as documented, what comes back, and what is refused."""

from __future__ import annotations

import struct

import pytest

from instar.ir.errors import ScheduleError
from instar.schedulers.placement import offline_plan, read_offline_plan
from instar.schedulers.scratchpad.arena import arena_buffers, smallest_arena
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor


def network() -> Problem:
    """x -> a -> b -> y, and a is read again by the last operator."""
    tensors = (Tensor("x", 40, role="input"), Tensor("a", 30), Tensor("b", 100), Tensor("y", 5, role="output"))
    operators = (Operator("f", "op", (0,), 1), Operator("g", "op", (1,), 2), Operator("h", "op", (1, 2), 3))
    return Problem("net", tensors, operators)


def test_arena_is_as_small_as_its_bound_and_becomes_a_plan():
    assert [(b.name, b.lower, b.upper, b.size_bytes) for b in arena_buffers(network())] == [
        ("x", 0, 1, 48),
        ("a", 0, 3, 32),
        ("b", 1, 3, 112),
        ("y", 2, 3, 16),
    ]
    solution = smallest_arena(network(), workers=1)
    assert (solution.status, solution.height_bytes) == ("optimal", 160)
    plan = offline_plan(solution.offsets, ["x", None, "a", "b", "y"])
    assert struct.unpack("<8i", plan)[:3] == (1, 1, 5)
    assert read_offline_plan(plan) == tuple(
        None if name is None else solution.offsets[name] for name in ("x", None, "a", "b", "y")
    )


def test_outputs_stay_to_the_end_and_unread_inputs_take_nothing():
    tensors = (Tensor("x", 1, role="input"), Tensor("y", 1, role="output"), Tensor("z", 1, role="output"))
    problem = Problem("net", tensors, (Operator("f", "op", (), 1), Operator("g", "op", (1,), 2)))
    assert [(b.name, b.lower, b.upper) for b in arena_buffers(problem)] == [("y", 0, 2), ("z", 1, 2)]


@pytest.mark.parametrize(
    ("offsets", "tensors", "message"),
    [
        ({"a": 0}, ["a", "b"], "expected tensors of the placement, found 'b'"),
        ({"a": 0, "b": 16}, ["a"], "expected a tensor for every buffer, found none for 'b'"),
        ({"a": 8}, ["a"], "that are multiples of 16, found 8 for 'a'"),
        ({"a": 2**31}, ["a"], "expected offsets of at most 2147483647"),
    ],
)
def test_plans_that_the_runtime_would_not_follow(offsets: dict[str, int], tensors: list[str], message: str):
    with pytest.raises(ScheduleError, match=message):
        offline_plan(offsets, tensors)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected three or more 32-bit integers, found 0 bytes"),
        (struct.pack("<3i", 2, 1, 0), "expected version 1 of 1 subgraph, found 2 of 1"),
        (struct.pack("<4i", 1, 1, 2, 0), "expected 2 offsets of at least -1"),
        (struct.pack("<4i", 1, 1, 1, -2), r"expected 1 offsets of at least -1, found \[-2\]"),
    ],
)
def test_data_that_is_no_plan(data: bytes, message: str):
    with pytest.raises(ScheduleError, match=message):
        read_offline_plan(data)
