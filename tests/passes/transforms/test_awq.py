"""AWQ against its equations: the exponent 0 is in the grid, nothing gets worse, and outliers in inputs are helped."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.channels import KEPT, channel_statistics
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.constants import ConstantHandle
from instar.ir.errors import PassError
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph
from instar.ir.layers import Layer, find_layers
from instar.ir.options import Option
from instar.ir.statistics import WeightStatistics
from instar.passes.canonicalize import Canonicalize
from instar.passes.encoders import encoder as parse_encoder
from instar.passes.formats import format as parse_format
from instar.passes.objective import Problem
from instar.passes.rewrite import substitute
from instar.passes.transforms import AWQ, Evidence, Found, Rewriting
from instar.passes.transforms.awq import awq_scale
from instar.passes.transforms.evidence import Subject

from ..rewrite_case import assert_same_numbers, module_graph
from .networks import Grouped, ids, seeded


class Normed(nn.Module):
    """A norm in front of two layers; some channels of the norm are large."""

    def __init__(self, outlier: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.a, self.b = nn.Linear(64, 48), nn.Linear(64, 48)
        seeded(self, 3)
        with torch.no_grad():
            self.norm.weight.fill_(1.0)
            self.norm.bias.fill_(0.0)
            self.norm.weight[5] *= outlier

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return torch.cat([self.a(y), self.b(y)], -1)


def rows(count: int = 64) -> Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(2))


def known(graph: Graph, layers: Sequence[Layer], data: Sequence[Sequence[Tensor]], option: Option) -> Evidence:
    calibrator = Calibrator(graph, layers, CalibrationSettings(gradients=False, shrink=False))
    for inputs in data:
        calibrator.add(inputs)
    found = calibrator.statistics()
    weights = {name: entry.weight for name, entry in found.layers.items()}
    return Evidence(weights, channel_statistics(graph, layers, data), {layer.name: [option] for layer in layers})


def fitted(model: nn.Module, option: Option, awq: AWQ | None = None) -> tuple[Graph, Graph, dict[str, Found]]:
    graph = Canonicalize()(module_graph(model, (rows(),))).graph
    layers = find_layers(graph)[0]
    data = [[rows().double()]]
    found = dict((awq or AWQ()).fit(graph, layers, known(graph, layers, data, option)))
    tensors = {name: entry.tensor for name, entry in found.items()}
    return graph, Rewriting(awq or AWQ(), tensors)(graph).graph, found


def test_the_scale_is_the_published_one() -> None:
    magnitude = torch.tensor([4.0, 1.0, 0.0, 0.25], dtype=torch.float64)
    scale = awq_scale(magnitude, torch.ones(4, dtype=torch.bool), 0.5)
    assert torch.allclose(scale, torch.tensor([2.0, 1.0, 1e-4, 0.5]) / (2.0 * 1e-4) ** 0.5)
    assert torch.equal(awq_scale(magnitude, torch.ones(4, dtype=torch.bool), 0.0), torch.ones(4))
    part = awq_scale(magnitude, torch.tensor([True, True, False, True]), 0.5)
    assert torch.allclose(part, torch.tensor([2.0, 1.0, 1.0, 0.5]))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["int4:g32", "int3:g16", "int2:channel", "nf4:g64"]))
@settings(max_examples=15, deadline=None)
def test_the_exponent_zero_is_round_to_nearest(seed: int, text: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(12, 32, generator=generator), torch.randn(40, 32, generator=generator)
    subject = Subject(weight, WeightStatistics(40, x.T @ x / 40, torch.ones(12)), Option(text, "rtn"))
    stored = parse_format(text)
    output = x @ (weight - stored.decode(stored.encode(weight))).T
    expected = float(output.double().square().sum()) / 40
    assert subject.rounding_error(torch.ones(32)) == pytest.approx(expected, rel=1e-4)
    assert subject.encoding_error(torch.ones(32)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["mse", "gptq"])
def test_encoders_behind_a_scale_see_the_divided_inputs(name: str) -> None:
    """The clip search that follows is of ``W diag(s)`` on ``x / s``: the error is that of ``x`` behind it."""
    generator = torch.Generator().manual_seed(5)
    weight, x = torch.randn(12, 64, generator=generator), torch.randn(200, 64, generator=generator)
    x[:, 3] *= 20.0
    scale = torch.rand(64, generator=generator) * 3 + 0.2
    seen = Problem(weight * scale, WeightStatistics(200, (x / scale).T @ (x / scale) / 200, torch.ones(12)))
    chosen = parse_format("int3:g32")
    decoded = chosen.decode(parse_encoder(name).encode(chosen, seen)) / scale
    expected = float((x @ (weight - decoded).T).double().square().sum()) / 200
    subject = Subject(weight, WeightStatistics(200, x.T @ x / 200, torch.ones(12)), Option("int3:g32", name))
    assert subject.encoding_error(scale) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("encoder", ["rtn", "mse", "gptq"])
def test_what_is_found_lowers_the_loss_and_keeps_the_function(encoder: str) -> None:
    graph, after, found = fitted(Normed(30.0), Option("int3:g32", encoder))
    assert list(found) == ["a"]
    facts = found["a"].facts
    assert 0.0 < facts["alpha"] < 1.0
    assert facts["after"] < 0.99 * facts["before"]
    assert_same_numbers(graph, after, [rows().double()])


def output_error(graph: Graph, text: str) -> float:
    """Mean squared error of the outputs with all weights rounded to nearest."""
    stored, layers = parse_format(text), find_layers(graph)[0]
    weights = {x.weight: x.matrix() for x in layers}

    def rounded(weight: Tensor) -> Tensor:
        return stored.decode(stored.encode(weight)).double()

    replaced = {
        node: graph.context.constant_of(ConstantHandle.of(node.handle.name, rounded(weight)))
        for node, weight in weights.items()
    }
    (expected,), (found,) = (evaluate(g, [rows().double()]) for g in (graph, substitute(graph, replaced)))
    return float((found - expected).square().mean())


def test_a_channel_with_large_inputs_halves_the_error_at_three_bits() -> None:
    before, after, _ = fitted(Normed(30.0), Option("int3:g32", "rtn"))
    assert output_error(after, "int3:g32") < 0.6 * output_error(before, "int3:g32")


def test_where_nothing_helps_nothing_is_found() -> None:
    assert fitted(Normed(), Option("int8:channel", "rtn"), AWQ(steps=1))[2] == {}


def test_readers_of_shared_heads_are_fitted_with_their_means() -> None:
    graph = Canonicalize()(module_graph(seeded(Grouped()), (ids(),))).graph
    layers = find_layers(graph, 1)[0]
    evidence = known(graph, layers, [[ids()]], Option("int2:g16", "rtn"))
    found = AWQ().fit(graph, layers, evidence)
    after = Rewriting(AWQ(), {name: entry.tensor for name, entry in found.items()})(graph)
    assert found
    assert_same_numbers(graph, after.graph, [ids()])


def test_layers_without_codes_are_left_alone() -> None:
    assert fitted(Normed(30.0), Option("fp32"))[2] == {}


def test_options_out_of_range_are_errors() -> None:
    with pytest.raises(PassError, match="awq: expected steps of 1 or more, found 0"):
        AWQ(steps=0)


def test_channel_statistics_are_those_of_the_inputs() -> None:
    graph = Canonicalize()(module_graph(Normed(4.0), (rows(),))).graph
    layers = find_layers(graph)[0]
    data = [[rows().double() * (number + 1.0)] for number in range(20)]
    found = channel_statistics(graph, layers, data)
    assert found["a"] is found["b"]
    norm = Normed(4.0).double().norm
    seen = torch.cat([norm(inputs[0]) for inputs in data]).detach()
    assert torch.allclose(found["a"].mean_magnitude.double(), seen.abs().mean(0), rtol=1e-5)
    assert torch.allclose(found["a"].peak.double(), seen.abs().amax(0), rtol=1e-5)
    assert found["a"].sample.shape[0] <= KEPT
    assert bool((torch.cdist(found["a"].sample.double(), seen).amin(1) < 1e-4).all())


def test_convolutions_see_unfolded_inputs() -> None:
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    graph = module_graph(nn.Conv2d(3, 16, 3, padding=1), (image,))
    found = channel_statistics(graph, find_layers(graph, 1)[0], [[image]])
    columns = nn.functional.unfold(image, 3, padding=1).transpose(1, 2).reshape(-1, 27)
    ((_, seen),) = found.items()
    assert torch.allclose(seen.mean_magnitude.double(), columns.abs().mean(0), rtol=1e-5)


def test_weights_that_operators_take_whole_have_no_channels() -> None:
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 2, 2))
    graph = module_graph(network, (image,))
    layers = find_layers(graph, 1)[0]
    assert [layer.only_stored for layer in layers] == [False, True]
    assert list(channel_statistics(graph, layers, [[image]])) == [layers[0].name]
