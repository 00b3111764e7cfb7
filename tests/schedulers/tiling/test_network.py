"""Tiles and residency of a network together: brute force, the checker, operators as loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor, Window
from instar.schedulers.tiling.bounds import compulsory_bytes
from instar.schedulers.tiling.nests import nest
from instar.schedulers.tiling.network import NetworkTiling, Offer, check_network, offer, solve_network
from instar.schedulers.tiling.problem import Limits


def layer(name: str, inputs: tuple[int, ...], output: int, weight_bytes: int = 0) -> Operator:
    kind = "fully_connected" if weight_bytes else "add"
    return Operator(name, kind, inputs, output, weight_bytes=weight_bytes)


def residual(rows: int, channels: int, wide: int) -> Problem:
    """x -> a -> b, y = x + b."""
    tensors = (
        Tensor("x", rows * channels, (1, rows, channels), "input"),
        Tensor("a", rows * wide, (1, rows, wide)),
        Tensor("b", rows * channels, (1, rows, channels)),
        Tensor("y", rows * channels, (1, rows, channels), "output"),
    )
    operators = (
        layer("up", (0,), 1, channels * wide),
        layer("down", (1,), 2, channels * wide),
        layer("add", (0, 2), 3),
    )
    return Problem("residual", tensors, operators)


def brute_force(offered: Offer) -> int | None:
    """The least traffic over all options and all that may be kept; the checker is the judge."""
    least: int | None = None
    gaps = list(offered.gaps)
    for options in itertools.product(*offered.options):
        for flags in itertools.product((False, True), repeat=len(gaps)):
            kept = frozenset(gap for gap, flag in zip(gaps, flags, strict=True) if flag)
            if any(tensor not in options[start].resident for tensor, start in kept):
                continue
            if any(tensor not in options[offered.gaps[tensor, start]].resident for tensor, start in kept):
                continue
            there = {(tensor, offered.gaps[tensor, start]) for tensor, start in kept}
            fetched = frozenset(
                (tensor, place)
                for place, option in enumerate(options)
                for tensor in set(offered.problem.operators[place].inputs) & option.resident
                if (tensor, place) not in there
            )
            found = NetworkTiling("feasible", options, kept, fetched, traffic_bytes=-1)
            try:
                check_network(offered, found)
            except ScheduleError as problem:
                if "found" in str(problem) and str(problem).startswith("network: expected -1 bytes"):
                    moved = int(str(problem).split("found ")[1].split(",")[0])
                    least = moved if least is None else min(least, moved)
    return least


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(6, 60))
def test_solver_equals_brute_force(rows: int, channels: int, wide: int, budget: int) -> None:
    offered = offer(residual(rows, channels, wide), Limits(budget))
    found = solve_network(offered)
    if found.status == "infeasible":
        assert brute_force(offered) is None if not found.infeasible else True
        return
    assert found.status == "optimal"
    assert found.traffic_bytes == found.bound_bytes == brute_force(offered)


def test_everything_stays_where_there_is_room_and_nothing_where_there_is_none() -> None:
    problem = residual(8, 8, 16)
    least = 64 + 64 + 2 * 128
    assert solve_network(offer(problem, Limits(4096))).traffic_bytes == least
    streamed = solve_network(offer(problem, Limits(4096), resident=False))
    assert streamed.traffic_bytes == least + 2 * 128 + 2 * 64 + 64
    found = [solve_network(offer(problem, Limits(budget))).traffic_bytes for budget in (48, 96, 192, 384, 768)]
    assert found == sorted(found, reverse=True)


def test_deciding_together_is_better_than_tiles_first() -> None:
    """At the budget that every operator's own best tiles fill, nothing can stay; smaller tiles leave room."""
    problem = residual(16, 16, 32)
    together = solve_network(offer(problem, Limits(768)))
    alone = solve_network(offer(problem, Limits(768), resident=False))
    assert together.traffic_bytes < alone.traffic_bytes


def test_operators_that_do_not_fit_are_named() -> None:
    found = solve_network(offer(residual(8, 8, 16), Limits(2)))
    assert (found.status, found.infeasible) == ("infeasible", ("up", "down", "add"))


CONV = Operator("c", "conv_2d", (0,), 1, 9 * 2 * 4 + 16, window=Window((3, 3), (2, 2), pad="same"))


@pytest.mark.parametrize(
    ("shapes", "operator", "least"),
    [
        (((1, 8, 8, 2), (1, 4, 4, 4)), CONV, 128 + 64 + 88),
        (((1, 8, 8, 2), (1, 4, 4, 4)), replace(CONV, window=Window((3, 3), (2, 2), pad=(0, 1, 0, 1))), 128 + 64 + 88),
        (
            ((1, 8, 8, 4), (1, 6, 6, 4)),
            Operator("d", "depthwise_conv_2d", (0,), 1, 36, window=Window((3, 3)), groups=4),
            256 + 144 + 36,
        ),
        (((1, 8, 8, 4), (1, 4, 4, 4)), Operator("p", "max_pool_2d", (0,), 1, window=Window((2, 2), (2, 2))), 256 + 64),
        (((2, 4, 3), (2, 3, 5), (2, 4, 5)), Operator("m", "batch_matmul", (0, 1), 2), 24 + 30 + 40),
        (((1, 5, 2, 3), (5, 4)), Operator("f", "fully_connected", (0,), 1, 24), 30 + 20 + 24),
        (((1, 7, 7, 8), (1, 8)), Operator("mean", "mean", (0,), 1), 392 + 8),
        (((1, 6, 4), (1, 2, 6, 2)), Operator("t", "transpose", (0,), 1), 24 + 24),
        (((1, 6, 4), (1, 6, 1)), Operator("mean", "mean", (0,), 1), 24 + 6),
        (((4,), (6, 4), (6, 4)), Operator("a", "add", (0, 1), 2), 4 + 24 + 24),
    ],
)
def test_operators_as_loops_move_every_byte_once_at_least(
    shapes: tuple[tuple[int, ...], ...], operator: Operator, least: int
) -> None:
    sizes = [1] * len(shapes)
    for place, shape in enumerate(shapes):
        for extent in shape:
            sizes[place] *= extent
    tensors = [Tensor(f"t{place}", sizes[place], shape, "input") for place, shape in enumerate(shapes)]
    tensors[-1] = replace(tensors[-1], role="output")
    problem = Problem("one", tuple(tensors), (operator,))
    loops, positions = nest(problem, operator)
    assert positions == (*operator.inputs, operator.output)
    assert compulsory_bytes(loops) <= least
    assert solve_network(offer(problem, Limits(10**5))).traffic_bytes <= least
    if operator.window is None:
        assert compulsory_bytes(loops) == least


def test_the_checker_finds_wrong_answers() -> None:
    offered = offer(residual(8, 8, 16), Limits(768))
    found = solve_network(offered)
    with pytest.raises(ScheduleError, match="network: expected 1 bytes and all results, found"):
        check_network(offered, replace(found, traffic_bytes=1))
    with pytest.raises(ScheduleError, match="expected tensor 0 in fast memory, found it not there"):
        check_network(offered, replace(found, kept=frozenset(), fetched=frozenset()))
    tight = Offer(offered.problem, Limits(10), offered.options, offered.gaps)
    with pytest.raises(ScheduleError, match="expected at most 10 bytes of fast memory, found"):
        check_network(tight, found)
    resident = next(option for option in offered.options[0] if option.resident == frozenset({1}))
    streaming = next(option for option in offered.options[1] if not option.resident)
    wrong = replace(found, options=(resident, streaming, *found.options[2:]), kept=frozenset(), fetched=frozenset())
    lost = replace(wrong, fetched=frozenset({(2, 1)}))
    with pytest.raises(ScheduleError, match="expected tensor 2 in slow memory, found it nowhere"):
        check_network(offered, lost)
