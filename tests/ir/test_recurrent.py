"""Recurrent networks: any number of steps, torch's own numbers and gradients, and one operator a layer in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from onnx_case import compiled_and_compared
from torch import Tensor, nn
from torch.export import Dim

from instar.ir.capture import capture
from instar.ir.dialect import recurrent
from instar.ir.evaluate import call
from instar.ir.verify import verify

X, LONGER = torch.randn(2, 5, 6), torch.randn(3, 9, 6)
STEPS = ({0: Dim("batch", max=64), 1: Dim("time", max=512)},)


class Tagger(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 4, batch_first=True, **options)
        self.head = nn.Linear(4 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        output, last = self.rnn(x)
        return self.head(output), last


KINDS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"num_layers": 2}),
    (nn.GRU, {"bidirectional": True, "bias": False}),
    (nn.RNN, {"num_layers": 2, "bidirectional": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_number_of_steps_stays_dynamic(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Tagger(kind, **options).eval()
    graph = capture(model, (X,), dynamic_shapes=STEPS)
    verify(graph)
    assert list(graph.dims) == ["batch", "time"]
    assert graph.ops()["instar.recurrent"] == 1
    for x in (X, LONGER):
        output, last = call(graph, (x,))
        torch.testing.assert_close(output, model(x)[0])
        torch.testing.assert_close(last, model(x)[1])


@pytest.mark.parametrize(("kind", "options"), [KINDS[1], KINDS[3], KINDS[4]])
def test_onnx_runs_one_operator_a_layer_at_any_length(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Tagger(kind, **options)
    artifact = compiled_and_compared(model, (X,), dynamic_shapes=STEPS, others=[(LONGER,)])
    names = [node.op_type for node in artifact.lowered.proto().graph.node]
    assert names.count(kind.__name__) == options.get("num_layers", 1)


def test_gradients_are_those_of_torch() -> None:
    layer = nn.LSTM(3, 2, num_layers=2, dtype=torch.float64).eval()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = [w.detach().requires_grad_(True) for w in layer.parameters()]
    leaves = [x, *states, *weights]
    output, last = recurrent(x, states, weights, "lstm", True, 2, False, False)
    found = torch.autograd.grad(output.sin().sum() + last.cos().sum(), leaves)
    expected_output, *expected_last = torch.ops.aten.lstm.input(x, states, weights, True, 2, 0.0, False, False, False)
    expected = torch.autograd.grad(expected_output.sin().sum() + torch.stack(expected_last).cos().sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_projected_lstm_is_left_to_torch() -> None:
    model = Tagger(nn.LSTM).eval()
    model.rnn = nn.LSTM(6, 8, batch_first=True, proj_size=4).eval()
    graph = capture(model, (X,))
    assert "instar.recurrent" not in graph.ops()
    torch.testing.assert_close(call(graph, (X,))[0], model(X)[0])


class Projected(nn.Module):
    """Cells whose outputs are projected: no runtime has an operator for them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.cells = nn.LSTM(16, 24, proj_size=8, **settings)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (hidden, cell) = self.cells(x)
        return output, hidden, cell


@pytest.mark.parametrize("settings", [{}, {"bidirectional": True, "num_layers": 2, "bias": False, "batch_first": True}])
def test_projected_outputs_are_computed_step_by_step(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Projected(**settings).eval(), torch.randn(3, 4, 16)
    graph = capture(model, (x,), dynamic_shapes=({0 if settings else 1: torch.export.Dim("batch")},))
    longer = torch.randn(*((5, 4) if settings else (3, 5)), 16)
    for given in (x, longer):
        for found, expected in zip(call(graph, (given,)), model(given), strict=True):
            torch.testing.assert_close(found, expected)
