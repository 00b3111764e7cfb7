"""What a plan says about its proof: one loss, a bound that is one, and times only where they belong."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.compilation import pareto_curve
from instar.ir.errors import InfeasibleError
from instar.ir.files import atomic_write_json
from instar.ir.plan import Plan

from .models import mlp, mlp_data, relative

DATA = mlp_data()

ASKED: dict[str, dict[str, Any]] = {
    "size": {"budget": {"size": "30%"}},
    "size and ops": {"budget": {"size": "40%", "ops": "50%"}},
    "latency": {"budget": {"latency": "1000ms"}},
    "several": {"budget": {"size": "40%", "ops": "50%", "latency": "1000ms"}},
    "refined": {"budget": {"size": "18%"}, "search": {"refine": 2}},
    "without": {},
}
"""Kind of plan -> what is asked for."""


def compiled(**settings: Any) -> instar.Compiled:
    return instar.compile(mlp(), DATA[0], target="torch", calibration=DATA, **settings)


@cache
def of_kind(kind: str) -> instar.Compiled:
    return compiled(**ASKED[kind])


def smallest() -> instar.Compiled:
    quality = lambda model: -relative(model(*DATA[2]), mlp()(*DATA[2]))  # noqa: E731
    return compiled(budget="smallest", quality=quality, max_drop=0.2)


def hold(plan: Plan) -> None:
    outcome = plan.solver
    assert outcome is not None
    assert outcome.status == "optimal"
    assert 0 <= outcome.bound <= outcome.objective
    assert outcome.gap == pytest.approx((outcome.objective - outcome.bound) / (outcome.objective or 1.0), abs=1e-12)
    if plan.refinement is None:
        assert outcome.objective == plan.predicted_loss


@pytest.mark.parametrize("kind", ASKED)
def test_a_bound_is_never_above_the_objective(kind: str) -> None:
    hold(of_kind(kind).plan)


def test_the_smallest_model_has_the_same_proof() -> None:
    hold(smallest().plan)


@pytest.mark.parametrize("resource", ["size", "ops"])
def test_the_smallest_feasible_budget_has_the_same_proof(resource: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        compiled(budget={resource: "1%"})
    least = caught.value.smallest[resource]
    unit = {"size": "B", "ops": "BOPS"}[resource]
    hold(compiled(budget={resource: f"{least:.0f}{unit}"}).plan)


def test_times_are_in_the_report_and_not_in_the_plan(tmp_path: Path) -> None:
    result = of_kind("size")
    assert result.plan.solver is not None
    assert result.plan.solver.wall_s > 0
    assert "wall_s" not in result.plan.to_json()["solver"]
    assert result.report.to_json()["solver"]["wall_s"] == result.plan.solver.wall_s
    result.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == result.plan


def test_plans_of_two_runs_are_the_same_bytes(tmp_path: Path) -> None:
    for name, plan in (("a.json", of_kind("size and ops").plan), ("b.json", compiled(**ASKED["size and ops"]).plan)):
        replace(plan, encodings={}).save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_plan_with_the_seconds_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    plan = replace(of_kind("size").plan, encodings={}, biases={}, corrections={})
    data = plan.to_json()
    atomic_write_json(tmp_path / "plan.json", {**data, "solver": {**data["solver"], "wall_s": 0.0}})
    assert '"wall_s"' in (tmp_path / "plan.json").read_text()
    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_report_searches_nothing_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a search for a report that nobody asked a budget for")

    monkeypatch.setattr(pareto_curve, "_best", refuse)
    assert compiled().report.data.pareto == ()


def test_a_report_on_a_budget_has_its_curve() -> None:
    points = of_kind("size").report.data.pareto
    assert sum(point.chosen for point in points) == 1
    losses = [point.predicted_loss for point in points if not point.chosen]
    assert len(losses) > 3
    assert losses == sorted(losses, reverse=True)
