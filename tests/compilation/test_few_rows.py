"""Few calibration rows: what is measured was held out, what is too little is said, and no data is never better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import instar


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def compiled(model: nn.Module, data: list[Tensor] | None) -> instar.Compiled:
    return instar.compile(
        model, (torch.randn(4, 96),), target="torch", calibration=data, formats=["int4:g32"],
        dynamic_shapes=({0: torch.export.Dim("batch", max=4096)},),
    )  # fmt: skip


def error(result: instar.Compiled, model: nn.Module, x: Tensor) -> float:
    want = model(x).detach()
    return float((result(x) - want).norm() / want.norm())


@pytest.mark.parametrize("rows", [1, 4, 24, 96, 1024])
def test_new_data_is_never_worse_than_without(rows: int) -> None:
    torch.manual_seed(rows)
    model, x, new = Mlp().eval(), torch.randn(rows, 96), torch.randn(1024, 96)
    plain, one, many = (error(compiled(model, d), model, new) for d in (None, [x], list(x.split(max(1, rows // 16)))))
    assert one < 1.02 * plain
    assert many < 1.02 * plain
    assert one == pytest.approx(many, rel=0.06)


def test_what_the_report_measures_was_held_out() -> None:
    torch.manual_seed(0)
    model, x, new = Mlp().eval(), torch.randn(256, 96), torch.randn(1024, 96)
    result = compiled(model, [x])
    data = result.report.data
    assert data.held_out
    assert data.chosen_loss is not None
    assert data.chosen_loss.measured**0.5 == pytest.approx(error(result, model, x[-32:]), rel=1e-3)
    assert data.chosen_loss.measured**0.5 == pytest.approx(error(result, model, new), rel=0.15)
    assert not [note for note in data.notes if "too few" in note]


def test_too_few_rows_are_said_to_be() -> None:
    torch.manual_seed(0)
    model, x = Mlp().eval(), torch.randn(3, 96)
    data = compiled(model, [x]).report.data
    assert not data.held_out
    (note,) = (note for note in data.notes if "too few" in note)
    assert note == (
        "calibration: 3 inputs are too few for layers.0, layers.2, layers.4, whose codes are chosen nearly as without "
        "data; give 96 or more, one for each column of the widest"
    )
