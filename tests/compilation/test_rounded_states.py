"""What rounding the states of LSTM layers loses, and that all matrices of an operator are decided together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation.budgets import least_loss
from instar.compilation.measured_loss import MeasuredLoss, squared_error
from instar.compilation.pricing_stage import LayerPrices, only_together
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.evaluate import evaluate
from instar.ir.layers import as_rounded, find_layers, taken_together
from instar.ir.options import KEPT, Activation, Arithmetic, Option, PricedOption
from instar.passes.rewrite import substitute

TENSOR = Activation.dynamic("tensor")
ROUNDED = Option("int8:channel", "rtn", TENSOR, "int8_lstm", Arithmetic.INT8_ROWS)
DATA = [torch.randn(4, 6, 36, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(36, 32, num_layers=2)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def graph_of() -> Any:
    torch.manual_seed(0)
    return instar.capture(Tagger().eval(), (DATA[0],))


def test_the_loss_of_rounding_is_that_of_a_run_and_shared_by_numbers() -> None:
    graph = graph_of()
    layers = find_layers(graph)[0]
    calibrator = Calibrator(graph, layers, CalibrationSettings(activations=(TENSOR,)))
    for x in DATA:
        calibrator.add([x])
    found = {n: s.activation_loss[TENSOR.spelling] for n, s in calibrator.statistics().layers.items()}
    for node in (n for n in graph.nodes() if n.op.name == "instar.recurrent.default"):
        names = [x.name for x in layers if x.uses[0].node is node]
        rounded = substitute(graph, {node: as_rounded(node, graph.context)})
        losses = [squared_error(evaluate(rounded, [x]), evaluate(graph, [x])) for x in DATA]
        assert sum(found[name] for name in names) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["rnn.weight_ih_l0"] / found["rnn.weight_hh_l0"] == pytest.approx(36 / 32, rel=1e-6)
    assert all(loss > 0.0 for loss in found.values())


def test_a_measured_price_has_its_share_of_the_rounding() -> None:
    graph = graph_of()
    measure, layers = MeasuredLoss(graph, [[x] for x in DATA]), find_layers(graph)[0]
    stored = Option("int8:channel", "rtn")
    both = {layer.name: measure(layer, [stored, ROUNDED]) for layer in layers}
    own = [both[f"rnn.weight_{kind}_l1"] for kind in ("ih", "hh")]
    shares = [losses[ROUNDED.name] - losses[stored.name] for losses in own]
    node = next(x for x in layers if x.name == "rnn.weight_hh_l1").uses[0].node
    rounded = substitute(graph, {node: as_rounded(node, graph.context)})
    assert sum(shares) == pytest.approx(measure.of_graph(rounded), rel=1e-5)


def test_what_one_matrix_cannot_have_none_has() -> None:
    layers = find_layers(graph_of())[0]
    groups = taken_together(layers)
    assert groups == (("rnn.weight_ih_l0", "rnn.weight_hh_l0"), ("rnn.weight_ih_l1", "rnn.weight_hh_l1"))
    every = {x.name: ((KEPT, ROUNDED), (), "") for x in layers} | {"rnn.weight_hh_l1": ((KEPT,), (), "kept")}
    found = only_together(layers, every)
    assert [len(found[x.name][0]) for x in layers] == [2, 2, 1, 1]
    assert "rnn.weight_hh_l1, which the same operator multiplies" in found["rnn.weight_ih_l1"][1][0]


def test_random_plans_and_codes_in_order_take_matrices_together() -> None:
    torch.manual_seed(0)
    model = Tagger().eval()
    compiled = instar.compile(
        model, (DATA[0],), calibration=DATA, formats=["int8:channel", "int7:channel"],
        activations=["none", "dynamic_int8"], budget={"ops": "12%"},
        pipeline={"calibration": {"sequential": True}, "report": {"random_plans": 6}},
    )  # fmt: skip
    assert len(compiled.report.data.random_plans) == 6
    kernels = {d.layer: d.chosen.option.rounds_under for d in compiled.plan.decisions}
    assert all(kernels[a] == kernels[b] for a, b in taken_together(find_layers(graph_of())[0]))
    assert squared_error([compiled(DATA[1])], [model(DATA[1]).detach()]) ** 0.5 < 0.02


def test_without_a_budget_all_matrices_of_an_operator_take_the_kernel_that_loses_least_together() -> None:
    layers = find_layers(graph_of())[0]
    names = taken_together(layers)[0]
    layers = tuple(layer for layer in layers if layer.name in names)
    stored = Option("int8:channel", "rtn")
    losses = {names[0]: (0.1, 0.2), names[1]: (0.5, 0.1)}  # apart, one would round and the other would not
    prices = [
        LayerPrices(
            layer, priced(KEPT, 0.0), (priced(stored, losses[layer.name][0]), priced(ROUNDED, losses[layer.name][1]))
        )
        for layer in layers
    ]
    model: Any = SimpleNamespace(prices=prices, layers=layers, pipeline=SimpleNamespace(seed=0))
    found = least_loss(model)
    assert [d.chosen.option for d in found.decisions] == [ROUNDED, ROUNDED]
    assert found.outcome.objective == pytest.approx(0.3)


def priced(option: Option, loss: float) -> PricedOption:
    return PricedOption(option, 1, None, 0, loss)
