"""What entering and leaving runs of integer layers costs: as a sum, as pairs, in the allocation, and as emitted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation.allocation_stage import states_between, with_costs
from instar.ir.layers import find_layers
from instar.ir.options import KEPT, STATIC_INT8, Arithmetic, Option
from instar.schedulers.allocation import AllocationBudget, AllocationProblem, Choice, LayerChoices, solve
from instar.targets.integer_runs import NO_RUNS, IntegerRuns, Sum, Value
from instar.targets.onnx.border_cases import border_cases, runs_of
from instar.targets.onnx.cases import case_models
from instar.targets.onnx.latency import measure
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import kernel_runs

STATICS = {name: frozenset({"int8", "int7"}) for name in "abc"}
BLOCK = IntegerRuns(
    (
        Value("<0>", "", ("a", "<sum>"), False, 0.25, 0.5),
        Value("<1>", "a", ("b",), False, 1.0, 2.0),
        Value("<2>", "b", ("<sum>",), False, 0.125, 0.375),
        Value("<3>", "<sum>", ("c",), True, 4.0, 8.0),
        Value("<4>", "c", (), True, 16.0, 32.0),
    ),
    (Sum("<sum>", ("<0>", "<2>"), True, 0.0625, 6.0),),
    STATICS,
)
"""A block of two layers around which its input is added, and a layer behind it."""
STATIC = Option("int8:channel", "rtn", STATIC_INT8, "int8_conv", Arithmetic.CODES)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("", 0.0),
        ("a", 0.25 + 0.5 + 6.0 + 2.0),  # the input is rounded for it, and added in float
        ("b", 1.0 + 2.0 - 2.0 + 0.375 + 6.0),
        ("ab", 0.25 + 0.0625 + 8.0),  # a sum of codes, which something reads in float
        ("abc", 0.25 + 0.0625 + 8.0 + 32.0),
        ("c", 4.0 + 8.0 + 32.0),
        ("bc", 1.0 + 0.375 + 6.0 + 4.0 + 8.0 + 32.0),
    ],
)
def test_what_runs_cost(chosen: str, expected: float) -> None:
    assert BLOCK.milliseconds(dict.fromkeys(chosen, "int7") | {"z": "int8"}) == expected


def test_the_cheapest_states_are_those_that_follow() -> None:
    """Every choice of layers, every combination of states: what cannot be is told, the least is what runs cost."""
    options = {name: ["fp32", "int8"] for name in "abc"}
    pairs = {frozenset((one, two)): cost for one, two, cost in BLOCK.pairs(options)}
    assert len(pairs) == len(list(BLOCK.pairs(options)))
    states = BLOCK.states()
    for picked in itertools.product(*options.values()):
        chosen = dict(zip(options, picked, strict=True))
        found = min(
            cost
            for own in itertools.product(*states.values())
            if (cost := _cost({**chosen, **dict(zip(states, own, strict=True))}, states, pairs)) is not None
        )
        assert found == BLOCK.milliseconds(chosen)


def _cost(
    taken: dict[str, str], states: dict[str, dict[str, float]], pairs: dict[frozenset[tuple[str, str]], float | None]
) -> float | None:
    both = [
        pairs[key] for one, two in itertools.combinations(taken.items(), 2) if (key := frozenset((one, two))) in pairs
    ]
    if None in both:
        return None
    return sum(states[name][taken[name]] for name in states) + sum(cost or 0.0 for cost in both)


def test_costs_of_several_shapes_are_added_up() -> None:
    both = BLOCK.times(0.25).plus(BLOCK.times(0.75))
    assert both == BLOCK
    assert NO_RUNS.plus(BLOCK) == BLOCK


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval()


def test_values_of_a_network_get_the_times_of_their_cases() -> None:
    graph = instar.capture(net(), (torch.randn(1, 8, 10, 10),))
    layers = find_layers(graph, 0)[0]
    options = {layer.name: (KEPT, STATIC) for layer in layers}
    found = border_cases(graph, layers, options, {}, OnnxOptions())
    times = {case.key: float(place) for place, case in enumerate(dict.fromkeys(found.cases))}
    runs = runs_of(found, options, times)
    assert [(v.source, v.readers, v.floats) for v in runs.values] == [
        ("", ("0",), False), ("0", ("2",), False), ("2", (), True),
    ]  # fmt: skip
    assert runs.static == {"0": frozenset({STATIC.name}), "2": frozenset({STATIC.name})}
    both = {"0": STATIC.name, "2": STATIC.name}
    assert runs.milliseconds(both) == runs.values[0].enter_ms + runs.values[2].leave_ms
    assert (
        runs_of(border_cases(graph, layers, dict.fromkeys(options, (KEPT,)), {}, OnnxOptions()), options, {}) == NO_RUNS
    )


def test_chains_show_conversions_and_sums() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.second(torch.relu(self.first(x))) + x)

    graph = instar.capture(Block().eval(), (torch.randn(1, 16, 10, 10),))
    layers = find_layers(graph, 0)[0]
    found = border_cases(graph, layers, {layer.name: (STATIC,) for layer in layers}, {}, OnnxOptions())
    ((_, of),) = found.sums
    ran = {case.key: [run.op for run in kernel_runs(model.model, model.feeds)]
           for case, model in case_models([of.enter, of.ends, of.beside, of.codes])}  # fmt: skip
    chain = ran[of.enter.key]
    whole, integers = [i for i, op in enumerate(chain) if op == "Conv"], chain.index("QLinearConv")
    assert len(whole) == 2
    assert whole[0] < integers < whole[1]
    assert "QuantizeLinear" in chain[whole[0] : integers]
    assert "DequantizeLinear" in chain[integers : whole[1]]
    assert {"Add", "Relu"}.isdisjoint(ran[of.ends.key])
    beside = ran[of.beside.key]
    assert (beside.count("Add"), beside.count("QuantizeLinear"), beside.count("DequantizeLinear")) == (1, 1, 1)
    assert (ran[of.codes.key].count("QLinearAdd"), ran[of.codes.key].count("Add")) == (1, 0)
    times = measure(found.cases)
    assert times.keys() == {case.key for case in found.cases}
    (total,) = runs_of(found, {layer.name: (STATIC,) for layer in layers}, times).sums
    assert 0.0 <= total.codes_ms < 100.0
    assert 0.0 <= total.beside_ms < 100.0


@pytest.mark.parametrize("wide", [0.0, 0.4])
def test_the_allocation_counts_crossings(wide: float) -> None:
    """Two layers that save 0.3 ms each; apart from each other the second one's neighbours cost more than it saves."""
    runs = IntegerRuns(
        tuple(
            Value(f"<{source or 'in'}>", source, (reader,) if reader else (), not reader, wide, wide)
            for source, reader in (("a", "b"), ("b", "c"))
        ),
        static=STATICS,
    )
    losses = {"a": 1.0, "b": 0.5, "c": 1.0}
    layers = tuple(
        LayerChoices(n, (Choice("fp32", 0.0, (1000,)), Choice("int8", x, (700,)))) for n, x in losses.items()
    )
    options = {name: ["fp32", "int8"] for name in losses}
    states = {name: {s: round(1000 * ms) for s, ms in own.items()} for name, own in runs.states().items()}
    costs = {frozenset((one, two)): None if ms is None else round(1000 * ms) for one, two, ms in runs.pairs(options)}
    layers = (*layers, *states_between([states]))
    problem = AllocationProblem(layers, (AllocationBudget("latency", 2700),), pairs=with_costs((), [costs], layers))
    solution = solve(problem, 10.0)
    chosen = {name: solution.assignment[name] for name in losses}
    expected = {"a": "fp32", "b": "int8", "c": "fp32"} if not wide else {"a": "int8", "b": "int8", "c": "int8"}
    assert chosen == expected
    assert solution.used["latency"] == 1000 * runs.milliseconds(chosen) + sum(
        layer.choice(chosen[layer.name]).costs[0] for layer in layers[:3]
    )
