"""Prices of factors: what they leave out is the same in all rows, which a run shows and independent rows do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instar.compilation.entry import start
from instar.compilation.measured_loss import MeasuredLoss
from instar.compilation.options_in_reach import matrix_of
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.passes.objective import weighted_error

RANK = "lowrank:r8"


class Attentive(nn.Module):
    """A layer whose strongest directions nothing reads: what a low rank leaves out is all that counts."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        left = torch.linalg.qr(torch.randn(256, 48, generator=generator)).Q
        right = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q
        strength = torch.where(torch.arange(48) < 8, 3.0, 1.0)
        self.hidden, self.out = nn.Linear(48, 256), nn.Linear(256, 8)
        with torch.no_grad():
            self.hidden.weight.copy_(left * strength @ right.T)
            self.out.weight.copy_(left[:, 8:16].T)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


def data(seed: int) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(64, 48, generator=generator),) for _ in range(16)]


def ready(text: str) -> Prepared:
    """With the format stored and priced, whether or not a decision would ask for it."""
    settings = {"target": "torch", "formats": ("fp32", text), "activations": ("none",)}
    request = start(Attentive().eval(), data(1)[0], None, None, None, settings, calibration=data(1))
    prepared = prepare(request, calibration=data(1))
    named = {
        p.layer.name: [o.option.name for o in p.options if o.option.format == text] for p in prepared.ladder.hopeful
    }
    prepared.ladder.climb({layer: names[0] if names else "" for layer, names in named.items()})
    return prepared


def prices_of(text: str) -> tuple[float, float, float]:
    """Of the hidden layer: the price, what independent rows predict, and what new data shows."""
    prepared = ready(text)
    (prices,) = (p for p in prepared.prices if p.layer.name == "hidden")
    option = next(o for o in prices.options if o.option.format == text)
    matrix = matrix_of(prepared, prices.layer, option)
    assert prepared.statistics is not None
    alone = weighted_error(prices.layer.matrix(), matrix, prepared.statistics.layers["hidden"].weight)
    new = [list(batch) for batch in data(2)]
    return option.loss, alone, MeasuredLoss(prepared.graph, new).of_weight(prices.layer, matrix)


def test_what_all_rows_leave_out_is_in_the_price() -> None:
    price, alone, seen = prices_of(RANK)
    assert seen > 3.0 * alone
    assert 0.8 * seen < price < 1.25 * seen


def test_integers_are_priced_by_prediction() -> None:
    price, alone, seen = prices_of("int4:g16")
    assert price == pytest.approx(alone, rel=0.25)
    assert price == pytest.approx(seen, rel=0.4)
