"""Kernel int8_lstm: LSTM layers as DynamicQuantizeLSTM, what it refuses, and exact files on every processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import instar
from instar.compilation.measured_loss import squared_error
from instar.ir.errors import ConfigError, PassError
from instar.ir.layers import find_layers
from instar.ir.options import KEPT, Activation, Arithmetic, Option
from instar.targets.onnx import session
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.cases import LayerCases, case_models
from instar.targets.onnx.latency import layer_latencies
from instar.targets.onnx.options import OnnxOptions

X, LONGER = torch.randn(3, 5, 36), torch.randn(2, 9, 36)
DIMS = ({0: torch.export.Dim("first", max=64), 1: torch.export.Dim("second", max=64)},)
INTEGERS: dict[str, Any] = {"formats": ["int8:channel"], "activations": ["dynamic_int8"]}
BOUND = 1e-3
"""Of what a code that lands on the other side of a rounding boundary does to these small networks."""


class Tagger(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(36, 32, **options)
        self.head = nn.Linear(32 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        output, last = self.rnn(x)
        return self.head(output), last


class Continued(nn.Module):
    """States are given."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(36, 32, num_layers=2)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (hidden, cell) = self.rnn(x, (hidden, cell))
        return output, hidden, cell


def compiled(model: nn.Module, args: tuple[Tensor, ...] = (X,), **settings: Any) -> instar.Compiled:
    return instar.compile(model.eval(), args, **INTEGERS | settings)


def artifact_of(found: instar.Compiled) -> OnnxArtifact:
    assert isinstance(found.artifact, OnnxArtifact)
    return found.artifact


def content(found: instar.Compiled) -> bytes:
    return artifact_of(found).lowered.proto().SerializeToString(deterministic=True)


def operators(found: instar.Compiled) -> Counter[str]:
    return Counter(node.op_type for node in artifact_of(found).lowered.proto().graph.node)


def kernels(found: instar.Compiled) -> dict[str, str]:
    return {d.layer: d.chosen.option.kernel for d in found.plan.decisions}


def far(found: instar.Compiled, model: nn.Module, *args: Tensor) -> float:
    """Relative error against the model."""
    with torch.no_grad():
        expected = pytree.tree_leaves(model(*args))
    return squared_error(pytree.tree_leaves(found(*args)), expected) ** 0.5


# ------------------------------------------------------------------------------------------------ what is written
@pytest.mark.parametrize(
    ("spelling", "options", "error"),
    [
        ("int8:channel", {}, 0.012),
        ("int7:channel", {"num_layers": 2, "bidirectional": True, "batch_first": True}, 0.02),
        ("int8:channel", {"bidirectional": True, "bias": False}, 0.012),
        ("int4:g16:asym", {"num_layers": 2, "batch_first": True}, 0.1),
    ],
)
def test_layers_run_on_integers_at_any_length(spelling: str, options: dict[str, Any], error: float) -> None:
    torch.manual_seed(0)
    model = Tagger(**options)
    found = compiled(model, formats=[spelling], dynamic_shapes=DIMS)
    assert set(kernels(found).values()) == {"int8_lstm"}
    assert operators(found)["DynamicQuantizeLSTM"] == options.get("num_layers", 1)
    assert operators(found)["LSTM"] == 0
    assert max(check.error for check in artifact_of(found).checks) < BOUND
    for x in (X, LONGER):
        assert 1e-4 < far(found, model, x) < error
    again = instar.compile(model, (X,), plan=found.plan, dynamic_shapes=DIMS)
    assert content(again) == content(found)


def test_states_that_are_given() -> None:
    torch.manual_seed(0)
    model, states = Continued(), [torch.randn(2, 5, 32) for _ in range(2)]
    found = compiled(model, (X, *states))
    assert operators(found)["DynamicQuantizeLSTM"] == 2
    assert 1e-4 < far(found, model, X, *states) < 0.012
    assert max(check.error for check in artifact_of(found).checks) < BOUND


@pytest.mark.parametrize("spelling", ["int8:channel", "int8:g32", "int7:channel"])
def test_files_are_exact_whatever_the_processor(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where products saturate, weights of 8 bits are unsigned; narrower ones fit."""
    monkeypatch.delitem(session.CONFIG, session.EXACT_PRODUCTS[0])
    monkeypatch.setattr("instar.targets.onnx.kernels.offers.products_saturate", lambda: True)
    torch.manual_seed(0)
    model = Tagger()
    for weight in model.rnn.parameters():
        weight.data.sign_().mul_(0.1)  # the largest codes everywhere, of the same sign as one half of the values
    found = compiled(model, (X.abs(),), formats=[spelling])
    assert set(kernels(found).values()) == {"int8_lstm" if spelling == "int7:channel" else "int8_lstm_u8"}
    unsigned = {n.argument("unsigned") for n in artifact_of(found).lowered.graph.nodes() if "lstm_int8" in n.op.name}
    assert unsigned == {spelling != "int7:channel"}
    assert max(check.error for check in artifact_of(found).checks) < BOUND


class Again(nn.Module):
    """One layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.rnn(self.rnn(x)[0])[0])[0]


def test_a_layer_that_is_called_again_loads_with_exact_products() -> None:
    """Sessions that are asked for them convert weights, and their zero points, once for every operator."""
    torch.manual_seed(0)
    model, x = Again(), torch.randn(4, 3, 32)
    found = compiled(model, (x,))
    assert session.EXACT_PRODUCTS in session.CONFIG.items()
    assert operators(found)["DynamicQuantizeLSTM"] == 3
    assert far(found, model, x) < 0.012


# ------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("model", "settings", "layer", "reason"),
    [
        (Tagger(nn.GRU), {}, "rnn.weight_hh_l0", "no integer kernel for gru, only for whole layers of LSTM"),
        (Tagger(nn.RNN), {}, "rnn.weight_ih_l0", "no integer kernel for rnn_tanh"),
        (Tagger(), {"formats": ["int8:channel:asym"]}, "rnn.weight_hh_l0", "knows no zero points of weights"),
        (Tagger(), {"leave_alone": ["rnn.weight_ih_l0"]}, "rnn.weight_hh_l0", "rnn.weight_ih_l0, which the same"),
    ],
)
def test_what_stays_in_float_says_why(model: nn.Module, settings: dict[str, Any], layer: str, reason: str) -> None:
    found = compiled(model, **settings)
    assert set(kernels(found).values()) == {"float"}
    (decision,) = (d for d in found.plan.decisions if d.layer == layer)
    assert any(reason in refused for refused in decision.refused), decision.refused
    assert not decision.chosen.option.keeps_weight
    assert operators(found)["DynamicQuantizeLSTM"] == 0


def test_a_small_matrix_keeps_its_layer_in_float() -> None:
    model = nn.LSTM(4, 32).eval()
    found = compiled(model, (torch.randn(3, 2, 4),))
    (decision,) = found.plan.decisions
    assert "weight_ih_l0 of fewer than 1024 weights stays in float" in decision.refused[0]


def test_a_rule_that_asks_for_the_impossible_is_an_error() -> None:
    rule = {"pattern": "rnn.weight_hh_l0", "formats": ["int8:channel"], "activations": ["dynamic_int8:tensor"]}
    with pytest.raises(ConfigError) as raised:
        compiled(Tagger(), pipeline={"layers": [rule], "leave_alone": ["rnn.weight_ih_l0"]})
    assert "layer rnn.weight_hh_l0: expected at least one format that target onnx can run" in str(raised.value)
    assert "rnn.weight_ih_l0, which the same operator multiplies" in str(raised.value)


def test_a_plan_that_rounds_only_one_matrix_of_a_layer_is_refused() -> None:
    model = Tagger().eval()
    plan = compiled(model).plan
    first = plan.decisions[0]
    option = replace(first.chosen.option, activation=Activation(), kernel="float", arithmetic=Arithmetic.FLOAT)
    mixed = replace(plan, decisions=(replace(first, chosen=replace(first.chosen, option=option)), *plan.decisions[1:]))
    with pytest.raises(PassError, match=r"one kernel for all matrices of .*; found rnn\.weight_ih_l0 planned"):
        instar.compile(model, (X,), plan=mixed)


# ------------------------------------------------------------------------------------------------ what it costs
def test_matrices_share_the_time_of_their_operator() -> None:
    graph = instar.capture(Tagger(bidirectional=True).eval(), (X,))
    layers = [layer for layer in find_layers(graph)[0] if layer.kind == "recurrent"]
    named = (("int7:channel", "int8_lstm"), ("int8:channel", "int8_lstm_u8"), ("int4:g32", "int8_lstm_u8"))
    options = [Option(t, "rtn", Activation.dynamic("tensor"), name, Arithmetic.INT8_ROWS) for t, name in named]
    cases = LayerCases({}, OnnxOptions())
    found = {
        x.name: {o: [cases.case(x, x.uses[0], o)] for o in (KEPT, Option("int8:channel"), *options)} for x in layers
    }
    keys = [[case.key for (case,) in named.values()] for named in found.values()]
    assert all(own == keys[0] for own in keys)
    kept, stored, narrow, wide, groups = keys[0]
    assert (kept, wide) == (stored, groups)
    assert len({kept, narrow, wide}) == 3
    times = {kept: 8.0, narrow: 2.0, wide: 4.0}
    table = layer_latencies(found, times)
    for option, time in ((KEPT, 8.0), (options[0], 2.0), (options[2], 4.0)):
        assert sum(known.options_ms[option.name] for known in table.values()) == pytest.approx(time, rel=1e-12)
    assert table["rnn.weight_ih_l0"].original_ms == pytest.approx(8.0 * 36 / (2 * (36 + 32)))
    models = dict(case_models([case for (case,) in next(iter(found.values())).values()]))
    runs = [Counter(n.op_type for n in models[case].model.graph.node) for (case,) in found["rnn.weight_ih_l0"].values()]
    assert [count["DynamicQuantizeLSTM"] for count in runs] == [0, 0, 1, 1, 1]


def test_a_bound_on_operations_takes_it() -> None:
    found = compiled(Tagger(num_layers=2), formats=["fp32", "int8:channel"], activations=["none", "dynamic_int8"],
                     budget={"ops": "12%"})  # fmt: skip
    by_layer = [{kernels(found)[f"rnn.weight_{kind}_l{number}"] for kind in ("ih", "hh")} for number in range(2)]
    assert by_layer == [{"int8_lstm"}, {"int8_lstm"}]
