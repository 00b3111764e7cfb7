"""Bias correction against shifts computed by hand: means of corrected layers are those of the float network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import PassError
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph, Node
from instar.ir.layers import Layer, find_layers
from instar.ir.options import STATIC_INT8, Activation, Arithmetic, Option, PricedOption
from instar.ir.plan import Decision, StaticQuantization
from instar.ir.text import node_names
from instar.ir.verify import verify
from instar.passes.apply_plan import ApplyPlan
from instar.passes.base import PassResult
from instar.passes.pricing import LayerPricer
from instar.passes.static_values import static_values
from instar.passes.transforms import bias_correction
from instar.passes.transforms.bias_correction import CorrectedBias, bias_of, corrected_biases, float_outputs

COARSE = Option("int2:g32", "rtn")


def random_model(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights with a mean, so that coarse rounding shifts the means of outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + 0.07)
    return model.eval()


def linear_net() -> nn.Module:
    return random_model(nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 32)))


def conv_net() -> nn.Module:
    layers = (nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, groups=4), nn.ReLU6())
    return random_model(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 9, 32)))


def rows(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def captured(model: nn.Module, *inputs: Tensor, **options: Any) -> tuple[Graph, tuple[Layer, ...]]:
    graph = instar.capture(model, inputs, **options)
    return graph, find_layers(graph)[0]


def application(
    graph: Graph, layers: Sequence[Layer], options: Mapping[str, Option], biases: Mapping[str, Tensor] | None = None
) -> ApplyPlan:
    """A plan with some options, all other layers in float."""
    prices = {name: PricedOption(option, 0, None, 0, 0.0) for name, option in options.items()}
    kept = PricedOption(Option("fp32"), 0, None, 0, 0.0)
    decisions = [Decision(x.name, x.kind, x.shape, prices.get(x.name, kept), kept) for x in layers]
    stored = [x for x in layers if x.name in options and options[x.name].format != "fp32"]
    encodings = {x.name: LayerPricer(x, None).encode(options[x.name].format, "rtn").tensors for x in stored}
    static = [x for x in layers if x.name in options and options[x.name].activation.is_static]
    names = node_names(graph)
    values = {names[n]: StaticQuantization(0.05, 100) for n in static_values(graph, static)} if static else {}
    return ApplyPlan(tuple(decisions), encodings, values, biases or {})


def corrected(
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Option],
    samples: Sequence[Sequence[Tensor]],
    *,
    gradients: bool = True,
) -> tuple[PassResult, dict[str, CorrectedBias]]:
    """The graph with options and corrected biases, and the biases."""
    after = application(graph, layers, options)(graph).graph
    reference = float_outputs(graph, layers, samples, gradients=gradients)
    found = corrected_biases(graph, after, [x for x in layers if x.name in options], reference)
    biases = {name: entry.bias for name, entry in found.items()}
    result = application(graph, layers, options, biases)(graph)
    verify(result.graph)
    return result, found


def outputs_of(graph: Graph, ops: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Values of all nodes of an op in double precision, in order."""
    kept: list[Tensor] = []

    def observe(node: Node, value: Any) -> None:
        if node.op.name.startswith(ops):
            kept.append(value.double())

    with torch.no_grad():
        evaluate(graph, inputs, observe)
    return kept


# ------------------------------------------------------------------------------------------------ numbers
def test_two_linear_layers_by_hand() -> None:
    """First layer: ``b + (W - Q) E[x]``. The second sees the corrected first: ``b + E[W h] - E[Q h_q]``."""
    model, x = linear_net(), rows(64, 32)
    graph, layers = captured(model, x[:2], dynamic_shapes=({0: torch.export.Dim("batch")},))
    result, found = corrected(graph, layers, {"0": COARSE, "2": COARSE}, [[x[:40]], [x[40:]]])
    w1, b1, w2, b2 = (p.detach().double() for p in model.parameters())
    q1, q2 = (LayerPricer(layer, None).encode("int2:g32", "rtn") for layer in layers)
    q1, q2 = (instar.format("int2:g32").decode(q).double() for q in (q1, q2))
    new1 = b1 + (w1 - q1) @ x.double().mean(0)
    torch.testing.assert_close(found["0"].bias.double(), new1, rtol=1e-5, atol=1e-6)
    hidden, quantized = torch.tanh(x.double() @ w1.t() + b1), torch.tanh(x.double() @ q1.t() + new1)
    new2 = b2 + w2 @ hidden.mean(0) - q2 @ quantized.mean(0)
    torch.testing.assert_close(found["2"].bias.double(), new2, rtol=1e-5, atol=1e-6)
    first = hidden.atanh()
    assert found["0"].shift == pytest.approx(float((new1 - b1).norm() / first.square().mean(0).sum().sqrt()), rel=1e-4)
    assert result.fired["correct-bias"] == 2
    assert not result.refused


@pytest.mark.parametrize("gradients", [True, False])
def test_every_layers_mean_is_the_float_one(gradients: bool) -> None:
    """Behind a ReLU over the positions that it lets pass in float; without gradients over all positions."""
    x = rows(24, 4, 8, 8)
    graph, layers = captured(conv_net(), x)
    result, found = corrected(graph, layers, dict.fromkeys(("0", "2", "5"), COARSE), [[x]], gradients=gradients)
    assert set(found) == {"0", "2", "5"}
    float_values = [*outputs_of(graph, "aten.conv2d", [x]), *outputs_of(graph, "aten.linear", [x])]
    values = [*outputs_of(result.graph, "aten.conv2d", [x]), *outputs_of(result.graph, "aten.linear", [x])]
    plain = [*outputs_of(application(graph, layers, dict.fromkeys(found, COARSE))(graph).graph, "aten.conv2d", [x])]
    passes = [_reaches_output(graph, x, number) if gradients else torch.ones_like(v) for number, v in enumerate(values)]
    for number, (before, after, counted) in enumerate(zip(float_values, values, passes, strict=True)):
        axes = [axis for axis in range(before.dim()) if axis != 1]
        shift = ((after - before) * counted).sum(axes) / counted.sum(axes).clamp(min=1)
        size = float(before.square().mean().sqrt())
        assert float(shift.abs().max()) < 1e-5 * size
        if number < len(plain):
            uncorrected = ((plain[number] - before) * counted).sum(axes) / counted.sum(axes).clamp(min=1)
            assert float(uncorrected.abs().max()) > 1e-2 * size


def _reaches_output(graph: Graph, x: Tensor, number: int) -> Tensor:
    """Where a convolution's value passes its ReLU, and for the first one is seen by the strided second as well."""
    first, second = outputs_of(graph, "aten.conv2d", [x])
    if number == 2:
        return torch.ones(len(x), 32, dtype=torch.float64)
    inside = ((second > 0) & (second < 6)).double()
    if number == 1:
        return inside
    seen = nn.functional.conv_transpose2d(inside, torch.ones(32, 8, 3, 3).double(), stride=2, groups=4)
    seen = nn.functional.pad(seen, (0, first.shape[3] - seen.shape[3], 0, first.shape[2] - seen.shape[2]))
    return ((first > 0) & (seen > 0)).double()


def test_quantized_inputs_and_earlier_layers_are_taken_back_too() -> None:
    """A layer in float weights with quantized inputs is changed by the plan; a layer left alone is not corrected."""
    x = rows(32, 32)
    graph, layers = captured(linear_net(), x)
    dynamic = Option("fp32", "rtn", Activation.dynamic("tensor"))
    result, found = corrected(graph, layers, {"2": dynamic}, [[x]])
    assert set(found) == {"2"}
    error = outputs_of(result.graph, "aten.linear", [x])[1] - outputs_of(graph, "aten.linear", [x])[1]
    assert float(error.mean(0).abs().max()) < 1e-6
    assert float(error.abs().max()) > 1e-4


def test_static_quantization_is_taken_back() -> None:
    """Clipped ranges shift means."""
    x = rows(16, 4, 8, 8)
    graph, layers = captured(conv_net(), x)
    static = Option("int8:channel", "rtn", STATIC_INT8, "int8_conv", Arithmetic.CODES)
    result, _ = corrected(graph, layers, {"0": static, "2": static}, [[x]], gradients=False)
    assert result.fired["quantize-static"] > 0
    values = zip(outputs_of(graph, "aten.conv2d", [x]), outputs_of(result.graph, "aten.conv2d", [x]), strict=True)
    for before, after in values:
        assert float((after - before).mean((0, 2, 3)).abs().max()) < 1e-5 * float(before.abs().max())


def test_samples_may_differ_in_size() -> None:
    x = rows(20, 32)
    graph, layers = captured(linear_net(), x, dynamic_shapes=({0: torch.export.Dim("batch")},))
    options = {"0": COARSE, "2": COARSE}
    _, together = corrected(graph, layers, options, [[x]])
    _, apart = corrected(graph, layers, options, [[x[:3]], [x[3:]]])
    for name in options:
        torch.testing.assert_close(apart[name].bias, together[name].bias, rtol=1e-5, atol=1e-6)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32)
        self.outer = nn.Linear(32, 32)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.outer((torch.tanh(self.inner(x)) * mask[..., None]).sum(1))


def test_padding_does_not_count() -> None:
    """The mean is over tokens that reach the output; only one row of the mask is kept for all channels."""
    x, mask = rows(6, 10, 32), (rows(6, 10) > 0).float()
    graph, layers = captured(random_model(Masked()), x, mask)
    reference = float_outputs(graph, layers, [[x, mask]], gradients=True)
    (counted,) = reference.layers["inner"].counted
    assert counted is not None
    assert torch.equal(counted, mask.bool().reshape(1, -1))
    assert reference.layers["outer"].counted == (None,)
    inner = layers[0].matrix().double(), layers[0].uses[0].node.argument("bias").handle.tensor.double()
    expected = (x.double() @ inner[0].t() + inner[1])[mask.bool()].mean(0)
    torch.testing.assert_close(reference.layers["inner"].sums.mean, expected, rtol=1e-5, atol=1e-6)


def test_masks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(8, 4, 8, 8)
    graph, layers = captured(conv_net(), x)
    assert len(float_outputs(graph, layers, [[x]] * 3, gradients=True).samples) == 3
    one = float_outputs(graph, layers, [[x]], gradients=True)
    size = sum(m.nbytes for o in one.layers.values() for m in o.counted if m is not None)
    monkeypatch.setattr(bias_correction, "MASKS_NBYTES", 2 * size)
    assert len(float_outputs(graph, layers, [[x]] * 3, gradients=True).samples) == 2
    monkeypatch.setattr(bias_correction, "MASKS_NBYTES", 0)
    assert len(float_outputs(graph, layers, [[x]] * 3, gradients=True).samples) == 1
    assert len(float_outputs(graph, layers, [[x]] * 3, gradients=False).samples) == 3


def test_outputs_that_are_not_finite_are_left_alone() -> None:
    x = rows(4, 32)
    graph, layers = captured(linear_net(), x)
    reference = float_outputs(graph, layers, [[x]], gradients=True)
    after = application(graph, layers, {"0": COARSE, "2": COARSE})(graph).graph
    broken = type(reference)(([torch.full_like(x, torch.inf)],), reference.layers)
    assert corrected_biases(graph, after, layers, broken) == {}


# ------------------------------------------------------------------------------------------------ refusals
class Awkward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bare = nn.Linear(32, 32, bias=False)
        self.one = nn.Linear(32, 32)
        self.two = nn.Linear(32, 32)
        self.twice = nn.Linear(32, 32)
        self.plain = nn.Linear(32, 32)
        self.computed = nn.Linear(32, 32)
        self.table = nn.Embedding(64, 32)
        self.two.bias = self.one.bias

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bare(self.table(ids))
        x = self.two(torch.tanh(self.one(x)))
        x = self.twice(torch.tanh(self.twice(x)))
        x = nn.functional.linear(x, self.computed.weight, x[0, 0])
        return self.plain(x)


REASONS = {
    "table": "a layer of kind embedding has no bias",
    "bare": "it has no bias",
    "one": "another operation reads its bias too",
    "two": "another operation reads its bias too",
    "twice": "its weight has 2 uses, each with a mean of its own",
    "computed": "its bias is computed, not a constant",
}


def test_layers_that_cannot_be_corrected_are_refused_with_the_reason() -> None:
    ids = torch.arange(24).reshape(4, 6)
    graph, layers = captured(random_model(Awkward()), ids)
    found = {layer.name: bias_of(layer, graph) for layer in layers}
    assert {name: reason for name, reason in found.items() if isinstance(reason, str)} == REASONS
    options = dict.fromkeys((layer.name for layer in layers), COARSE)
    result, biases = corrected(graph, layers, options, [[ids]])
    assert set(biases) == {"plain"}
    assert {r.node: r.reason for r in result.refused} == REASONS
    assert {r.rule for r in result.refused} == {"correct-bias"}
    kept = {node.handle.name: node.handle.tensor for node in result.graph.constants() if "bias" in node.handle.name}
    before = {node.handle.name: node.handle.tensor for node in graph.constants() if "bias" in node.handle.name}
    assert set(kept) == set(before)
    assert {name for name in kept if not torch.equal(kept[name], before[name])} == {"plain.bias"}


def test_a_changed_layer_without_a_correction_is_named() -> None:
    x = rows(4, 32)
    graph, layers = captured(linear_net(), x)
    _, found = corrected(graph, layers, {"0": COARSE, "2": COARSE}, [[x]])
    result = application(graph, layers, {"0": COARSE, "2": COARSE}, {"0": found["0"].bias})(graph)
    assert [(r.node, r.reason) for r in result.refused] == [("2", "no correction was found for it")]
    assert not application(graph, layers, {"0": COARSE})(graph).refused


def test_biases_that_do_not_fit_are_errors() -> None:
    x = rows(4, 32)
    graph, layers = captured(linear_net(), x)
    with pytest.raises(PassError, match=r"apply-plan: expected corrected biases of layers that .*; found one of 2$"):
        application(graph, layers, {"0": COARSE}, {"2": torch.zeros(32)})(graph)
    with pytest.raises(
        PassError, match=r"expected a corrected bias of 0 of type f32\[48\]; found torch.float32 \[32\]"
    ):
        application(graph, layers, {"0": COARSE}, {"0": torch.zeros(32)})(graph)
    ids = torch.arange(24).reshape(4, 6)
    awkward, found = captured(random_model(Awkward()), ids)
    with pytest.raises(PassError, match=r"expected a bias of bare that can be corrected; found that it has no bias"):
        application(awkward, found, {"bare": COARSE}, {"bare": torch.zeros(32)})(awkward)


def test_what_no_floating_output_depends_on_does_not_count() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.scores(x).argmax(-1)

    x = rows(4, 32)
    graph, layers = captured(random_model(Picks()), x)
    _, found = corrected(graph, layers, {"scores": COARSE}, [[x]])
    assert not found
    _, found = corrected(graph, layers, {"scores": COARSE}, [[x]], gradients=False)
    assert set(found) == {"scores"}


def test_a_network_without_biases_is_not_run() -> None:
    x = rows(4, 32)
    graph, layers = captured(random_model(nn.Linear(32, 32, bias=False)), x)
    assert float_outputs(graph, layers, [[x]], gradients=True) == bias_correction.FloatOutputs((), {})
