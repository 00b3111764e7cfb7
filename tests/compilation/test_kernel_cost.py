"""What a restriction to some kernels costs, against two compilations: one with the restriction and one without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import instar
from instar.compilation.ladder import Ladder
from instar.ir.plan_findings import KernelCost
from instar.report.summary import kernel_cost as words

from ..report.rendering import terminal


def batches() -> list[tuple[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    scale = torch.logspace(-1, 1, 8).reshape(8, 1)  # rows of one batch differ: a scale for each loses less
    return [(torch.randn(8, 64, generator=generator) * scale,) for _ in range(3)]


DATA = batches()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def compiled(**settings: Any) -> instar.Compiled:
    plain: dict[str, Any] = {"formats": ["fp32", "int7:channel"], "budget": {"ops": "10%"}, "calibration": DATA}
    return instar.compile(net(), DATA[0], **plain | settings)


def asked(kernels: list[str], **settings: Any) -> instar.Compiled:
    return compiled(kernels=kernels, search={"kernel_cost": True}, **settings)


def cost(result: instar.Compiled) -> KernelCost:
    found = result.plan.kernel_cost
    assert found is not None
    return found


def test_the_cost_is_the_difference_of_two_optima_and_stays_in_the_plan(tmp_path: Path) -> None:
    free, plain, result = compiled(), compiled(kernels=["int8"]), asked(["int8"])
    found = cost(result)
    assert found.loss == pytest.approx(plain.plan.predicted_loss, rel=1e-9)
    assert found.free_loss == pytest.approx(free.plan.predicted_loss, rel=1e-9)
    assert found.free_loss < found.loss
    assert (found.kernels, found.layers, found.proven, found.resource) == (("int8",), 2, True, "")
    assert plain.plan.kernel_cost is None
    assert replace(result.plan, kernel_cost=None).decisions == plain.plan.decisions
    said = words(found)
    assert said.startswith("kernels = int8 costs ")
    assert said.endswith("with all kernels of the target, where 2 layers would take one that was left out.")
    assert said in result.report.to_json()["summary"]
    result.plan.save(tmp_path / "plan.json")
    again = instar.compile(net(), DATA[0], plan=tmp_path / "plan.json")
    assert again.plan.kernel_cost == found
    assert said in again.report.to_json()["summary"]
    assert torch.equal(again(*DATA[0]), result(*DATA[0]))
    assert "kernels = int8 costs" in terminal(instar.explain(tmp_path / "plan.json"))


def test_a_restriction_that_leaves_out_nothing_better_costs_nothing() -> None:
    found = cost(asked(["int8_token"]))
    assert (found.loss, found.layers) == (found.free_loss, 0)
    assert words(found) == "kernels = int8_token costs no predicted loss: all kernels of the target allow no less."


def test_the_least_value_of_what_is_made_small() -> None:
    budget = {"minimise": "ops"}
    free, found = compiled(budget=budget), cost(asked(["float"], budget=budget))
    assert found.resource == "ops"
    assert found.free_least == pytest.approx(free.plan.budgets[0].limit, rel=1e-9)
    assert found.free_least < found.least
    assert "; the least ops is predicted as " in words(found)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({}, "kernels is not given"), ({"kernels": ["int8"], "budget": None, "report": {"random_plans": 2}}, "no budget")],
)
def test_without_a_restriction_or_a_budget_it_has_no_effect(settings: dict[str, Any], why: str) -> None:
    result = compiled(search={"kernel_cost": True}, **settings)
    assert result.plan.kernel_cost is None
    assert any("search.kernel_cost has no effect" in note and why in note for note in result.report.data.notes)


def test_words_say_what_is_not_proven() -> None:
    found = KernelCost(("int8",), 3.0, 2.0, 1, proven=False)
    assert words(found).startswith("kernels = int8 costs 50.0 % more predicted loss: 3.00 instead of 2.00")
    assert words(found).endswith(
        "where 1 layer would take one that was left out (not proven: a solver stopped before)."
    )
    assert words(replace(found, free_loss=0.0)).startswith("kernels = int8 costs 3.00 instead of 0")
    assert words(None) == ""


def test_complete_prices_take_no_more_options() -> None:
    with pytest.raises(ValueError, match="complete prices"):
        Ladder.of([]).beside([])
