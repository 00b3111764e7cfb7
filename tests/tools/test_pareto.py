"""Sweeping a budget: the points, the other budgets, and the errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import instar
from instar.ir.errors import ConfigError, InfeasibleError
from instar.report import Curve


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()


X = torch.linspace(-1, 1, 8 * 64).reshape(8, 64)


def swept(model: nn.Module, **options: Any) -> Curve:
    return instar.pareto(model, (X,), target="torch", calibration=[X], **options)


def test_more_bytes_are_never_worse(model: nn.Module) -> None:
    points = swept(model, points=6).points
    losses = [p.predicted_loss for p in points]
    assert 3 <= len(points) <= 6
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0.0, "the last point is the model as it is"
    assert points[0].nbytes < 0.2 * points[-1].nbytes


def test_a_point_is_what_compile_chooses(model: nn.Module) -> None:
    middle = swept(model, points=4).points[1]
    compiled = instar.compile(model, (X,), target="torch", calibration=[X], budget={"size": middle.nbytes})
    assert compiled.plan.predicted_loss == pytest.approx(middle.predicted_loss, rel=1e-3)


def test_other_budgets_hold_at_every_point(model: nn.Module) -> None:
    curve = swept(model, points=4, resource="ops", budget={"size": "30%", "ops": "50%"})
    limit = 0.3 * sum(4 * p.numel() for p in model.parameters())
    assert all(point.nbytes <= limit for point in curve.points)
    assert curve.notes[-1] == "every plan meets size=30%"


def test_latency_is_measured_when_it_is_swept(model: nn.Module) -> None:
    curve = swept(model, points=2, resource="latency", formats=["fp32", "int8:channel"])
    assert all(point.latency_ms is not None for point in curve.points)


def test_errors(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="expected resource size, latency, ops; found 'sise'; did you mean 'size'"):
        swept(model, resource="sise")
    with pytest.raises(ConfigError, match="expected at least 2 points; found 1"):
        swept(model, points=1)
    with pytest.raises(InfeasibleError, match="budget size=1%: cannot be met"):
        swept(model, resource="ops", budget={"size": "1%"})
