"""SmoothQuant against its equations, and on inputs with outliers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instar.ir.calibration.channels import channel_statistics
from instar.ir.errors import PassError
from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.ir.options import Activation, Option
from instar.passes.canonicalize import Canonicalize
from instar.passes.formats import format as parse_format
from instar.passes.transforms import Evidence, Found, Rewriting, SmoothQuant
from instar.passes.transforms.smooth_quant import Reader, smoothing

from ..rewrite_case import assert_same_numbers, module_graph
from .networks import seeded

TOKEN = Activation.dynamic("token")


class Outliers(nn.Module):
    """A norm whose channels 5 and 9 are large, in front of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.a, self.b = nn.Linear(64, 48), nn.Linear(64, 48)
        seeded(self, 3)
        with torch.no_grad():
            self.norm.weight.fill_(1.0)
            self.norm.weight[[5, 9]] = 60.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return torch.cat([self.a(y), self.b(y)], -1)


def rows() -> Tensor:
    return torch.randn(64, 64, generator=torch.Generator().manual_seed(2))


def fitted(option: Option, chosen: SmoothQuant) -> tuple[Graph, dict[str, Found]]:
    graph = Canonicalize()(module_graph(Outliers(), (rows(),))).graph
    layers = find_layers(graph)[0]
    seen = channel_statistics(graph, layers, [[rows().double()]])
    evidence = Evidence({}, seen, {layer.name: [option] for layer in layers})
    return graph, dict(chosen.fit(graph, layers, evidence))


def test_the_scale_is_the_published_one_over_all_readers() -> None:
    peak = torch.tensor([8.0, 2.0])
    first = Reader(torch.tensor([[1.0, -4.0]]), torch.zeros(1, 2), peak, torch.ones(1), TOKEN, torch.arange(2))
    second = Reader(torch.tensor([[-2.0, 1.0]]), torch.zeros(1, 2), peak, torch.ones(1), TOKEN, torch.arange(2))
    free = torch.ones(2, dtype=torch.bool)
    assert torch.allclose(smoothing([first, second], free, 0.5), torch.tensor([(8.0 / 2.0) ** 0.5, (2.0 / 4.0) ** 0.5]))
    assert torch.allclose(smoothing([first], free, 1.0), peak)
    assert torch.allclose(smoothing([first], torch.tensor([True, False]), 0.0), torch.tensor([1.0, 1.0]))


def test_a_channel_that_several_columns_are_has_their_maximum() -> None:
    weight, peak = torch.tensor([[1.0, 3.0]]), torch.tensor([4.0, 2.0])
    reader = Reader(weight, torch.zeros(1, 2), peak, torch.ones(1), TOKEN, torch.zeros(2).long())
    assert torch.allclose(smoothing([reader], torch.ones(1, dtype=torch.bool), 0.5), torch.tensor([(4.0 / 3.0) ** 0.5]))


def test_the_error_is_that_of_rounded_inputs_and_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(8, 32, generator=generator), torch.randn(20, 32, generator=generator)
    reader = Reader(weight, x, x.abs().amax(0), torch.ones(8), TOKEN, torch.arange(32))
    step = x.abs().amax(1, keepdim=True) / 127
    stored = parse_format("int8:channel")
    change = (x / step).round() * step @ stored.decode(stored.encode(weight)).T - x @ weight.T
    assert reader.error(torch.ones(32)) == pytest.approx(float(change.square().sum(1).mean()), rel=1e-4)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_outliers_are_smoothed_and_the_function_kept(alpha: float | None) -> None:
    chosen = SmoothQuant(alpha=alpha)
    graph, found = fitted(Option("int8:channel", "rtn", TOKEN), chosen)
    assert list(found) == ["a"]
    facts = found["a"].facts
    assert facts["after"] < 0.25 * facts["before"]
    after = Rewriting(chosen, {"a": found["a"].tensor})(graph).graph
    assert_same_numbers(graph, after, [rows().double()])


def test_the_search_is_never_worse_than_a_fixed_strength() -> None:
    option = Option("int8:channel", "rtn", TOKEN)
    searched = fitted(option, SmoothQuant())[1]["a"].facts["after"]
    for alpha in (0.25, 0.5, 0.75):
        assert searched <= fitted(option, SmoothQuant(alpha=alpha))[1]["a"].facts["after"] * (1 + 1e-6)


def test_layers_whose_inputs_stay_in_float_are_left_alone() -> None:
    assert fitted(Option("int8:channel", "rtn"), SmoothQuant())[1] == {}


def test_options_out_of_range_are_errors() -> None:
    with pytest.raises(PassError, match="smooth-quant: expected alpha between 0 and 1, found 2"):
        SmoothQuant(alpha=2.0)
    with pytest.raises(PassError, match="smooth-quant: expected steps of 1 or more, found 0"):
        SmoothQuant(steps=0)
