"""Weights that operators take whole, such as those of recurrent cells: stored small on both targets, and priced."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation.measured_loss import squared_error
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.capture import capture
from instar.ir.errors import InfeasibleError
from instar.ir.layers import find_layers

FORMATS = ["fp32", "int8:channel", "int4:g32"]


class Everything(nn.Module):
    """``[batch, 6, 32]`` -> ``[batch, 48]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.gru = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.heads = nn.Parameter(torch.randn(64, 4, 8) * 0.1)
        self.experts = nn.Parameter(torch.randn(4, 32, 32) * 0.2)
        self.up = nn.ConvTranspose1d(32, 16, 4, stride=2)
        self.pair = nn.Bilinear(16, 16, 48)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(self.lstm(x)[0])[0]
        x = torch.einsum("btd,dhe->bthe", x, self.heads).flatten(2)
        x = (x[:, None] @ self.experts).sum(1)
        x = self.up(x.transpose(1, 2)).mean(2)
        return self.pair(x, x)


WEIGHTS = {
    "lstm.weight_ih_l0", "lstm.weight_hh_l0", "gru.weight_ih_l0", "gru.weight_hh_l0", "gru.weight_ih_l0_reverse",
    "gru.weight_hh_l0_reverse", "heads", "experts", "up", "pair",
}  # fmt: skip


def model() -> Everything:
    torch.manual_seed(0)
    return Everything().eval()


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_every_kind_is_stored_small(target: str) -> None:
    network, x = model(), torch.randn(2, 6, 32)
    compiled = instar.compile(network, (x,), target=target, formats=["int8:channel"])
    assert {d.layer for d in compiled.plan.decisions} == WEIGHTS
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {"int8:channel"}
    weights = sum(p.nbytes for p in network.parameters())
    assert compiled.nbytes < (0.29 if target == "torch" else 0.36) * weights
    assert squared_error([compiled(x)], [network(x).detach()]) ** 0.5 < 0.02
    again = instar.compile(network, (x,), target=target, plan=compiled.plan)
    assert torch.equal(again(x), compiled(x))


def test_a_plan_is_priced_by_what_an_error_does_to_the_outputs() -> None:
    network, data = model(), [torch.randn(32, 6, 32) for _ in range(4)]
    compiled = instar.compile(
        network, (data[0],), target="torch", calibration=data, budget={"size": "20%"}, formats=FORMATS,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    pair = compiled.report.data.chosen_loss
    assert pair is not None
    assert 0.5 < pair.measured / pair.predicted < 2.0
    assert not any("weights themselves" in note for note in compiled.report.data.notes)
    encoders = {d.chosen.option.encoder for d in compiled.plan.decisions if not d.chosen.option.keeps_weight}
    assert encoders == {"gptq"}
    assert set(compiled.report.data.layer_sqnr_db) >= {"pair", "up", "experts", "heads"}


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(64, 64))
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x + self.positions)))


def test_a_refused_size_names_what_holds_the_bytes_and_why() -> None:
    x = torch.randn(2, 64, 64)
    settings: dict[str, Any] = {"target": "torch", "formats": ["fp32", "int4:g32"], "leave_alone": ["second"]}
    with pytest.raises(InfeasibleError) as raised:
        instar.compile(Positions().eval(), (x,), budget={"size": "20%"}, **settings)
    message = str(raised.value)
    assert message.splitlines()[1:] == [
        "  positions holds 16.38 kB: aten.add.Tensor reads it, which layers are not made of",
        "  second holds 16.38 kB: kept by 'second'",
        "  first holds 2.304 kB: int4:g32 is the smallest that it may become",
    ]
    smallest = re.search(r"the smallest feasible value is ([\d.]+kB)", message)
    assert smallest is not None
    compiled = instar.compile(Positions().eval(), (x,), budget={"size": smallest[1]}, **settings)
    assert compiled.nbytes <= float(smallest[1].removesuffix("kB")) * 1000


class Both(nn.Module):
    """The same matrix, as an operator takes it whole and as a layer."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.w = nn.Parameter(torch.randn(32, 40))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bti,oi->bto", x, self.w) if self.whole else nn.functional.linear(x, self.w)


def test_statistics_agree_with_those_of_a_layer_that_multiplies() -> None:
    """Of single samples, whose gradients both ways take whole; projections differ, and average out."""
    torch.manual_seed(0)
    data = [torch.randn(1, 5, 40) * torch.linspace(0.2, 2.0, 40) for _ in range(400)]
    found: list[Tensor] = []
    for whole in (False, True):
        torch.manual_seed(1)
        graph = capture(Both(whole).eval(), (data[0],))
        layers = find_layers(graph)[0]
        assert layers[0].only_stored is whole
        calibrator = Calibrator(graph, layers, CalibrationSettings(shrink=False))
        for x in data:
            calibrator.add([x])
        known = calibrator.statistics().layers["w"].weight
        assert known.second_moment is not None
        found.append(known.second_moment)
    assert float(found[1].trace()) == pytest.approx(float(found[0].trace()), rel=0.03)
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.1


def test_without_gradients_the_error_of_the_weight_itself_counts() -> None:
    network, x = model(), torch.randn(8, 6, 32)
    compiled = instar.compile(
        network, (x,), target="torch", calibration=[x], budget={"size": "20%"}, formats=FORMATS,
        pipeline={"calibration": {"sensitivity": "output_error"}},
    )  # fmt: skip
    (note,) = (note for note in compiled.report.data.notes if "weights themselves" in note)
    assert note.startswith(
        "losses of experts, gru.weight_hh_l0, gru.weight_hh_l0_reverse and 7 more are relative errors"
    )
