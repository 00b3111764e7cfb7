"""Layers that no gradient reaches are measured by their own outputs, and a note says which and why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings, Statistics
from instar.ir.capture import capture
from instar.ir.layers import find_layers


@torch.library.custom_op("instar_tests::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """A copy for which nobody wrote a derivative."""
    return x * 2


@opaque.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Cut(nn.Module):
    """One layer before an operator without a derivative, one behind it, one beside it."""

    def __init__(self, *, beside: bool) -> None:
        super().__init__()
        self.before, self.behind, self.side = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        first = self.before(x)
        y = self.behind(torch.ops.instar_tests.opaque(first))
        return y + self.side(first) if self.beside else y + self.side(x)


class Labels(nn.Module):
    """Integers are all that it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).argmax(-1)


def statistics_of(model: nn.Module, *, gradients: bool = True) -> Statistics:
    torch.manual_seed(0)
    x = torch.randn(6, 32)
    graph = capture(model.eval(), (x,))
    calibrator = Calibrator(graph, find_layers(graph)[0], CalibrationSettings(gradients=gradients))
    calibrator.add([x])
    calibrator.add([x + 1])
    return calibrator.statistics()


def moment_of(statistics: Statistics, layer: str) -> Tensor:
    moment = statistics.layers[layer].weight.second_moment
    assert moment is not None
    return moment


def test_a_layer_before_an_operator_without_a_derivative_has_its_own_measure() -> None:
    torch.manual_seed(0)
    model = Cut(beside=False)
    found, alone = statistics_of(model), statistics_of(model, gradients=False)
    assert torch.equal(moment_of(found, "before"), moment_of(alone, "before"))
    assert float(moment_of(found, "before").trace()) > 0
    assert not torch.equal(found.layers["side"].weight.row_weight, alone.layers["side"].weight.row_weight)
    assert found.gradients
    (note,) = found.notes
    assert note.startswith("no gradient reaches before through instar_tests.opaque (test_beyond.py:")
    assert "relative errors of their own outputs" in note


def test_a_layer_with_another_way_to_an_output_keeps_its_gradient() -> None:
    torch.manual_seed(0)
    assert statistics_of(Cut(beside=True)).notes == ()


@pytest.mark.parametrize("gradients", [True, False])
def test_a_network_of_integer_outputs_is_calibrated(gradients: bool) -> None:
    torch.manual_seed(0)
    found = statistics_of(Labels(), gradients=gradients)
    assert not found.gradients
    assert bool(found.notes) == gradients
    assert float(moment_of(found, "head").trace()) > 0


def test_a_network_without_layers_is_calibrated() -> None:
    found = statistics_of(nn.Tanh())
    assert (found.layers, found.notes) == ({}, ())
