"""Recurrent networks: any number of steps, torch's own numbers and gradients, and one operator a layer in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from onnx_case import artifact_of, compiled_and_compared
from torch import Tensor, nn
from torch.export import Dim

from instar.ir.capture import capture
from instar.ir.context import Context
from instar.ir.dialect import fake_quantize_dynamic, lstm_int8, recurrent
from instar.ir.errors import FormatError, LoweringError
from instar.ir.evaluate import call
from instar.ir.types import TensorType
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
    assert graph.ops()["instar.recurrent"] == options.get("num_layers", 1)
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
    layer = nn.LSTM(3, 2, dtype=torch.float64).eval()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = [w.detach().requires_grad_(True) for w in layer.parameters()]
    leaves = [x, *states, *weights]
    output, last = recurrent(x, states, weights, "lstm", True, False, False)
    found = torch.autograd.grad(output.sin().sum() + last.cos().sum(), leaves)
    expected_output, *expected_last = torch.ops.aten.lstm.input(x, states, weights, True, 1, 0.0, False, False, False)
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


# ------------------------------------------------------------------------------------------------ rounded states
def test_rounded_states_are_those_of_a_loop_by_hand() -> None:
    """Gates and states step by step, in float64; input and states are rounded as a whole."""
    torch.manual_seed(0)
    x, features, hidden = torch.randn(5, 3, 7, dtype=torch.float64), 7, 4
    states = [torch.randn(2, 3, hidden, dtype=torch.float64) for _ in range(2)]
    shapes = ((4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)) * 2
    weights = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    output, last = recurrent(x, states, weights, "lstm", True, True, True)
    source = fake_quantize_dynamic(x, 8, "tensor", False)
    for side, order in enumerate((range(5), range(4, -1, -1))):
        w, r, b, c = weights[4 * side : 4 * side + 4]
        h, cell = states[0][side], states[1][side]
        for step in order:
            gates = source[step] @ w.T + fake_quantize_dynamic(h, 8, "tensor", False) @ r.T + b + c
            i, f, g, o = gates.split(hidden, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(cell)
            torch.testing.assert_close(output[step, :, side * hidden : (side + 1) * hidden], h, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(last[:, side], torch.stack([h, cell]), rtol=1e-9, atol=1e-12)


def test_integer_products_are_those_of_rounded_values() -> None:
    torch.manual_seed(0)
    x, states = torch.randn(6, 2, 5), [torch.randn(1, 2, 3) for _ in range(2)]
    integers = [torch.randint(-127, 128, shape, dtype=torch.int8) for shape in ((5, 12), (3, 12))]
    scales, biases = [torch.rand(12) * 0.01 for _ in range(2)], [torch.randn(12) for _ in range(2)]
    weights = [(m.float() * s).T.contiguous() for m, s in zip(integers, scales, strict=True)]
    for own in (biases, []):
        found = lstm_int8(x, states, integers, scales, own, False)
        expected = recurrent(x, states, [*weights, *own], "lstm", bool(own), False, True)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.library.opcheck(lstm_int8, (x, states, integers, scales, biases, True))


def test_only_an_lstm_has_states_that_are_rounded() -> None:
    x, weights = torch.randn(2, 1, 3), [torch.randn(12, 3), torch.randn(12, 4)]
    with pytest.raises(FormatError, match="expected an lstm where states are rounded, found gru; leave it in float"):
        recurrent(x, [torch.zeros(1, 1, 4)], weights, "gru", False, False, True)


def test_a_rounded_layer_that_no_kernel_takes_over_is_not_written() -> None:
    context = Context()
    x, state = (context.input(n, TensorType(torch.float32, shape)) for n, shape in (("x", (2, 1, 3)), ("s", (1, 1, 4))))
    weights = [context.constant(f"w{k}", torch.randn(16, width)) for k, width in enumerate((3, 4))]
    node = context.node("instar.recurrent", x, [state, state], weights, "lstm", False, False, True)
    graph = context.graph([x, state], [context.item(node, 0)])
    with pytest.raises(LoweringError, match="plan all matrices of the layer for it, or none"):
        artifact_of(graph, [torch.randn(2, 1, 3), torch.zeros(1, 1, 4)])
