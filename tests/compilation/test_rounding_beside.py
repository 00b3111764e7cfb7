"""Rounding of values that other readers than layers have too: predictions on linear networks are what happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from instar.compilation.rounding_beside import rounding_beside
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.calibration.state import restore_state, save_state
from instar.ir.capture import capture
from instar.ir.evaluate import evaluate, run
from instar.ir.graph import Node
from instar.ir.layers import find_layers
from instar.ir.plan import StaticQuantization
from instar.passes.static_values import static_values


class Block(nn.Module):
    """A layer, a residual block whose input the sum reads too, and a sum that no layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h) + h


def calibrator_of() -> tuple[Calibrator, tuple[Node, ...], list[Tensor]]:
    torch.manual_seed(0)
    batches = [torch.randn(16, 32) for _ in range(40)]
    graph = capture(Block().eval(), (batches[0],))
    layers = find_layers(graph, min_elements=0)[0]
    values = static_values(graph, layers)
    return Calibrator(graph, layers, CalibrationSettings(sensitivity_of_inputs=True), values), values, batches


def test_what_rounding_loses_is_counted_over_all_readers_and_once() -> None:
    calibrator, values, batches = calibrator_of()
    for batch in batches:
        calibrator.add([batch])
    graph, statistics = calibrator.graph, calibrator.statistics()
    static = {value: StaticQuantization(0.05, 128) for value in values}
    beside = rounding_beside(calibrator.layers, static, statistics)
    layers = statistics.layers
    predicted = sum(beside.values()) + sum(layers[name].input_gradient * 0.05**2 / 12 for name in layers)

    def noisy(node: Node, value: Tensor, _: object) -> Tensor:
        return value + 0.05 / 12**0.5 * torch.randn(value.shape) if node in static else value

    error = energy = 0.0
    with torch.no_grad():
        for x in batches:
            exact = evaluate(graph, [x])[0]
            entering = x + 0.05 / 12**0.5 * torch.randn(x.shape)
            error += float((run(graph, [entering], noisy)[0] - exact).square().sum())
            energy += float(exact.square().sum())
    assert predicted == pytest.approx(error / energy, rel=0.1)
    assert len(values) == 4  # the input, what a makes, what b makes, the sum
    assert beside.keys() == {"a", "b"}
    assert sum(layers[name].input_gradient for name in layers) * 0.05**2 / 12 < 0.6 * error / energy


def test_without_gradients_nothing_is_added() -> None:
    calibrator, values, batches = calibrator_of()
    plain = Calibrator(calibrator.graph, calibrator.layers, CalibrationSettings(gradients=False), values)
    plain.add([batches[0]])
    static = {value: StaticQuantization(0.05, 128) for value in values}
    assert rounding_beside(plain.layers, static, plain.statistics()) == {}
    assert rounding_beside(plain.layers, static, None) == {}


def test_an_interrupted_calibration_knows_them_too(tmp_path: Path) -> None:
    whole, _, batches = calibrator_of()
    first, again = calibrator_of()[0], calibrator_of()[0]
    for batch in batches[:2]:
        whole.add([batch])
    first.add([batches[0]])
    save_state(first, tmp_path / "state")
    restore_state(again, tmp_path / "state")
    again.add([batches[1]])

    def reactions(calibrator: Calibrator) -> list[float]:
        found = calibrator.statistics().reactions
        return [found[node] for node in calibrator.observers if node in found]

    assert reactions(again) == pytest.approx(reactions(whole), rel=1e-6)
