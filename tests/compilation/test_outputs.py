"""Results are shown in one line, and several outputs are one mean in what is predicted and what is measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation.measured_loss import squared_error
from instar.ir.calibration.projection import random_projection
from instar.ir.errors import InfeasibleError


class Several(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.outputs = nn.Linear(32, 64), nn.Linear(64, 32), outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.b(self.a(x).relu())
        return tuple(y * (i + 1) for i in range(self.outputs))


def test_the_loss_of_several_outputs_is_their_mean() -> None:
    one, two = torch.ones(4), torch.full((4,), 2.0)
    error = squared_error([one * 1.5, two * 1.5, torch.arange(3)], [one, two, torch.arange(3)])
    assert error == pytest.approx(0.25, abs=1e-12)
    given = [one.clone().requires_grad_(True), two, torch.arange(3)]
    assert random_projection(given, 0)[1] == 2.0


@pytest.mark.parametrize("outputs", [1, 6])
def test_what_is_predicted_is_what_is_measured_for_any_number_of_outputs(outputs: int) -> None:
    torch.manual_seed(0)
    model, data = Several(outputs).eval(), [torch.randn(64, 32) for _ in range(16)]
    budget = instar.Budget(size="20%")
    compiled = instar.compile(model, (data[0],), target="torch", budget=budget, calibration=data)
    loss = compiled.report.data.chosen_loss
    assert loss is not None
    assert 0.5 < loss.measured / loss.predicted < 2.0
    for value in (compiled, compiled.report):
        assert "Several for torch: " in repr(value)
        assert len(repr(value)) < 120
        assert "\n" not in repr(value)
        assert "output error, measured" in value._repr_html_()  # pyright: ignore[reportPrivateUsage]  # notebooks call it


def test_a_budget_without_layers_to_make_smaller_says_so_and_leaving_it_out_works() -> None:
    model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 5)).eval()
    x = torch.randn(2, 16)
    with pytest.raises(InfeasibleError, match=r"no weight of this model is a layer.*leave the budget out"):
        instar.compile(model, (x,), target="torch", budget=instar.Budget(size="60%"), calibration=[(x,)])
    compiled = instar.compile(model, (x,), target="torch", calibration=[(x,)])
    torch.testing.assert_close(compiled(x), model(x))
