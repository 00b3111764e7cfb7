"""What entering and leaving runs of integer layers costs: as a sum, as pairs, in the allocation, and as emitted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import instar
from instar.compilation.allocation_stage import with_costs
from instar.ir.layers import CONV, find_layers
from instar.ir.options import KEPT, STATIC_INT8, Arithmetic, Option
from instar.schedulers.allocation import AllocationBudget, AllocationProblem, Choice, LayerChoices, solve
from instar.targets.base import LayerLatency
from instar.targets.integer_runs import NO_RUNS, Crossing, IntegerRuns
from instar.targets.onnx.border_cases import border_cases, with_runs
from instar.targets.onnx.cases import case_models
from instar.targets.onnx.latency import measure
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import kernel_runs

RUNS = IntegerRuns(
    (Crossing("a", "b", 0.25, 0.5), Crossing("b", "c", 1.0, 2.0), Crossing("a", "c", 4.0, 8.0)),
    {name: frozenset({"int8", "int7"}) for name in "abc"},
)
STATIC = Option("int8:channel", "rtn", STATIC_INT8, "int8_conv", Arithmetic.CODES)


def test_only_layers_that_differ_cost_something() -> None:
    assert RUNS.milliseconds({"a": "int8", "b": "int7", "c": "int8"}) == 0.0
    assert RUNS.milliseconds({}) == 0.0
    assert RUNS.milliseconds({"a": "int8", "b": "fp32"}) == 0.5 + 8.0
    assert RUNS.milliseconds({"c": "int8"}) == 1.0 + 4.0


def test_pairs_add_up_to_the_sum_of_every_assignment() -> None:
    options = {name: ["fp32", "int8", "int7", "fp16"] for name in "abc"}
    pairs = list(RUNS.pairs(options))
    assert len({frozenset((first, second)) for first, second, _ in pairs}) == len(pairs)
    for picked in itertools.product(*options.values()):
        chosen = dict(zip(options, picked, strict=True))
        together = sum(
            cost for first, second, cost in pairs if chosen[first[0]] == first[1] if chosen[second[0]] == second[1]
        )
        assert together == RUNS.milliseconds(chosen)


def test_costs_of_several_shapes_are_added_up() -> None:
    both = RUNS.times(0.25).plus(RUNS.times(0.75))
    assert both == RUNS
    assert NO_RUNS.plus(RUNS) == RUNS


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval()


def test_layers_pay_what_no_other_layer_shares() -> None:
    graph = instar.capture(net(), (torch.randn(1, 8, 10, 10),))
    layers = find_layers(graph, 0)[0]
    options = {layer.name: (KEPT, STATIC) for layer in layers}
    found = border_cases(graph, layers, options, {}, OnnxOptions())
    assert [(one.border.source, one.border.readers) for one in found] == [("", ("0",)), ("0", ("2",)), ("2", ())]
    times = {one.enter.key: 0.25 for one in found} | {one.leave.key: 0.5 for one in found}
    alone = {layer.name: LayerLatency(2.0, {KEPT.name: 2.0, STATIC.name: 1.0}) for layer in layers}
    known, runs = with_runs(alone, options, found, times)
    assert known["0"].options_ms == {KEPT.name: 2.0, STATIC.name: 1.25}  # it enters the run
    assert known["2"].options_ms == {KEPT.name: 2.0, STATIC.name: 1.5}  # it leaves it
    assert runs.crossings == (Crossing("0", "2", 0.25, 0.5),)
    assert with_runs(alone, options, (), {}) == (alone, NO_RUNS)


def test_a_chain_of_three_shows_both_conversions() -> None:
    graph = instar.capture(net(), (torch.randn(1, 8, 10, 10),))
    layers = [layer for layer in find_layers(graph, 0)[0] if layer.kinds == {CONV}]
    found = border_cases(graph, layers, {layer.name: (STATIC,) for layer in layers}, {}, OnnxOptions())[1]
    (model,) = {id(m): m for _, m in case_models([found.enter])}.values()
    ran = [run.op for run in kernel_runs(model.model, model.feeds)]
    whole, integers = [i for i, op in enumerate(ran) if op == "Conv"], ran.index("QLinearConv")
    assert len(whole) == 2
    assert whole[0] < integers < whole[1]
    assert "QuantizeLinear" in ran[whole[0] : integers]
    assert "DequantizeLinear" in ran[integers : whole[1]]
    times = measure([found.enter, found.leave])
    assert all(0.0 < time < 100.0 for time in times.values())
    assert times.keys() == {"entering a run of integer convolutions at 1x16x10x10",
                            "leaving a run of integer convolutions at 1x16x10x10"}  # fmt: skip


@pytest.mark.parametrize("wide", [0.0, 0.4])
def test_the_allocation_counts_crossings(wide: float) -> None:
    """Two layers that save 0.3 ms each; apart from each other the second one's neighbours cost more than it saves."""
    runs = IntegerRuns((Crossing("a", "b", wide, wide), Crossing("b", "c", wide, wide)), RUNS.static)
    losses = {"a": 1.0, "b": 0.5, "c": 1.0}
    layers = tuple(
        LayerChoices(n, (Choice("fp32", 0.0, (1000,)), Choice("int8", x, (700,)))) for n, x in losses.items()
    )
    options = {name: ["fp32", "int8"] for name in losses}
    costs = {frozenset((first, second)): round(1000 * ms) for first, second, ms in runs.pairs(options)}
    problem = AllocationProblem(layers, (AllocationBudget("latency", 2700),), pairs=with_costs((), [costs]))
    chosen = solve(problem, 10.0).assignment
    expected = {"a": "fp32", "b": "int8", "c": "fp32"} if not wide else {"a": "int8", "b": "int8", "c": "int8"}
    assert chosen == expected
