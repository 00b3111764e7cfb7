"""Programs on real numbers: the same bits as whole operators, the bytes that the schedule promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import Builder, forked, random_network, residual

from instar.ir.errors import ScheduleError
from instar.schedulers.scratchpad.bricks import in_bricks
from instar.schedulers.scratchpad.lowering import lower
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor, Window
from instar.schedulers.scratchpad.program import assemble
from instar.schedulers.scratchpad.simulator import evaluate, simulate
from instar.schedulers.scratchpad.solver import solve


def attention() -> Problem:
    """Two heads over six tokens, with a norm of mean, difference and root; heads are rows inside."""
    net = Builder(1, 6, 8)
    net.tensors[0] = Tensor("input", 48, (1, 6, 8), "input")
    query, key, value = (net.add("fully_connected", (0,), (1, 6, 8), weights=64) for _ in range(3))
    q, k, v = (net.add("transpose", (t,), (1, 2, 6, 4)) for t in (query, key, value))
    scores = net.add(
        "softmax",
        (net.add("mul", (net.add("batch_matmul", (q, k), (1, 2, 6, 6)),), (1, 2, 6, 6), weights=1),),
        (1, 2, 6, 6),
    )
    mixed = net.add("transpose", (net.add("batch_matmul", (scores, v), (1, 2, 6, 4)),), (1, 6, 2, 4))
    summed = net.add("add", (net.add("fully_connected", (mixed,), (6, 8), weights=64), 0), (1, 6, 8))
    centred = net.add("sub", (summed, net.add("mean", (summed,), (1, 6, 1))), (1, 6, 8))
    net.add("mul", (centred, net.add("rsqrt", (net.add("mean", (centred,), (1, 6, 1)),), (1, 6, 1))), (1, 6, 8))
    return net.problem("attention")


def moved() -> Problem:
    """Operators that only move elements, pooling with padding, a depthwise convolution."""
    net = Builder(7, 6, 4)
    wide = net.add("pad", (0,), (1, 9, 8, 4))
    pooled = net.add("average_pool_2d", (wide,), (1, 5, 4, 4), window=Window((3, 3), (2, 2), pad="same"))
    thin = net.add("strided_slice", (pooled,), (1, 5, 4, 4))
    deep = net.add("depthwise_conv_2d", (thin,), (1, 3, 2, 4), weights=40, window=Window((3, 3), pad=(0, 0, 0, 0)))
    large = net.add("max_pool_2d", (deep,), (1, 3, 2, 4), window=Window((3, 3), pad="same"))
    net.add("resize_nearest_neighbor", (large,), (1, 6, 4, 4))
    return net.problem("moved")


def agrees(network: Problem, options: Options) -> bool:
    """Whether the schedule runs and gives what it promised; ``False`` where there is none or no place for it."""
    schedule = solve(network, options)
    if schedule.status not in ("optimal", "feasible"):
        return False
    try:
        program = assemble(network, schedule)
    except ScheduleError as error:
        assert "expected addresses within" in str(error)  # noqa: PT017 - the cause is one of two that may happen
        return False
    run = simulate(program, seed=3)
    for tensor, values in evaluate(network, seed=3).items():
        np.testing.assert_array_equal(run.outputs[tensor], values)
    assert run.traffic == schedule.traffic
    assert program.height_bytes <= options.budget_bytes
    return True


@pytest.mark.parametrize("network", [residual(), forked(), attention(), moved()])
@pytest.mark.parametrize("share", [1.05, 1.5, 3.0])
@pytest.mark.parametrize("no_spill", [False, True])
def test_the_same_bits_and_the_promised_bytes(network: Problem, share: float, no_spill: bool) -> None:
    options = Options(1, stream_buffer_bytes=48, no_spill=no_spill)
    refused = solve(network, options).infeasible
    assert refused is not None
    assert agrees(network, replace(options, budget_bytes=int(refused.smallest_budget_bytes * share) + 32))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 10), st.sampled_from((300, 700, 1500, 4000)), st.booleans())
def test_random_networks(seed: int, operators: int, budget: int, no_spill: bool) -> None:
    agrees(random_network(seed, operators), Options(budget, stream_buffer_bytes=16, no_spill=no_spill))


def test_a_wrong_address_changes_the_result() -> None:
    network = residual()
    schedule = solve(network, Options(4000, stream_buffer_bytes=64))
    program = assemble(network, schedule)
    low = min(program.offsets.values())
    broken = replace(program, offsets=dict.fromkeys(program.offsets, low))
    wanted, found = evaluate(network), simulate(broken).outputs
    assert any((found[tensor] != values).any() for tensor, values in wanted.items())


def test_what_cannot_be_run_is_refused() -> None:
    padded = Problem(
        "padded",
        (Tensor("x", 7, (1, 2, 3), "input"), Tensor("y", 7, (1, 2, 3), "output")),
        (Operator("f", "relu", (0,), 1),),
    )
    schedule = solve(padded, Options(100))
    with pytest.raises(
        ScheduleError, match="expected a size of 6 elements, found 7 bytes; simulate the network without"
    ):
        assemble(padded, schedule)
    network = residual()
    good = solve(network, Options(20000))
    with pytest.raises(ScheduleError, match="program: expected a valid schedule, found: order"):
        assemble(network, replace(good, order=good.order[1:]))
    with pytest.raises(ScheduleError, match="expected addresses within 10 bytes, found infeasible"):
        assemble(network, replace(good, budget_bytes=10))
    odd = Problem("odd", padded.tensors[:0], ())
    assert simulate(assemble(odd, solve(odd, Options(0)))).outputs == {}
    strange = Problem(
        "strange",
        (Tensor("x", 6, (1, 2, 3), "input"), Tensor("y", 6, (1, 2, 3), "output")),
        (Operator("f", "warp", (0,), 1),),
    )
    with pytest.raises(ScheduleError, match="expected a kind with a reference kernel, found 'warp'"):
        evaluate(strange)


@pytest.mark.parametrize("budget", [1500, 2000, 3000])
def test_a_concatenation_whose_padded_parts_take_more_than_itself_moves_nothing_twice(budget: int) -> None:
    net = Builder(8, 8, 16)
    a, b = net.conv(0, 3), net.conv(0, 3)
    joined = net.join(a, b)
    wide = net.add("fully_connected", (0,), (1, 8, 8, 64))
    narrow = net.add("fully_connected", (wide,), (1, 8, 8, 16))
    net.join(*(net.conv(tensor, 4) for tensor in (narrow, a, b, joined)))
    network = in_bricks(net.problem("padded"), 16)
    program = assemble(network, solve(network, Options(budget, stream_buffer_bytes=64, fixed_order=True)))
    commands = lower(program).commands
    assert min(command.size_bytes for command in commands) >= 0
    written = sum(command.size_bytes for command in commands if command.purpose == "spill_write")
    assert written == program.schedule.traffic.spill_write_bytes > 0
    assert simulate(program, seed=3).traffic == program.schedule.traffic
