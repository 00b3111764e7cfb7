"""``budget="smallest"``: the smallest model within the caller's own metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import instar
from instar.compilation.quality import Quality
from instar.ir.errors import ConfigError, InfeasibleError

from .models import mlp, mlp_data, relative

DATA = mlp_data()
HELD_OUT = mlp_data(5)[-1][0]
EXPECTED = mlp()(HELD_OUT).detach()


def fidelity(model: Callable[..., Any]) -> float:
    with torch.no_grad():
        return 100.0 * (1.0 - relative(model(HELD_OUT), EXPECTED))


@pytest.mark.parametrize(("target", "max_drop"), [("torch", 2.0), ("torch", 20.0), ("onnx", 10.0)])
def test_the_smallest_model_within_a_drop(target: str, max_drop: float) -> None:
    result = instar.compile(
        mlp(), DATA[0], target=target, budget="smallest", calibration=DATA, quality=fidelity, max_drop=max_drop,
        formats=["fp32", "int8:channel", "int4:g32", "int2:g32"], activations=["none"],
    )  # fmt: skip
    data = result.report.data
    assert data.quality_original == pytest.approx(100.0)
    assert fidelity(result) == data.quality_final
    assert data.quality_final is not None
    assert data.quality_final >= 100.0 - max_drop
    refused = [p for p in data.quality_search if not p.accepted]
    smallest = min(p.nbytes for p in data.quality_search if p.accepted)
    assert all(p.nbytes < smallest for p in refused)
    assert len(data.quality_search) == 8


def test_a_drop_that_nothing_keeps_is_infeasible() -> None:
    with pytest.raises(
        InfeasibleError, match=r"expected a model within max_drop=0.001 of 100; the best that was tried has"
    ):
        instar.compile(
            mlp(), DATA[0], target="torch", budget="smallest", calibration=DATA, quality=fidelity, max_drop=0.001,
            formats=["int4:g32", "int2:g32"], activations=["none"],
        )  # fmt: skip


def test_values_that_are_numbers_in_disguise_are_taken() -> None:
    for value in (1, 1.0, torch.tensor(1.0), torch.ones(1).double().numpy()[0]):
        found = Quality(lambda _, value=value: value)(mlp())
        assert (type(found), found) == (float, 1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "quality: expected one number, higher is better; found NoneType None"),
        (torch.zeros(3), r"quality: expected one number, higher is better; found Tensor tensor\(\[0., 0., 0.\]\)"),
        (float("nan"), "quality: expected a finite number; found nan; look at what the metric computes"),
        (torch.tensor(float("-inf")), "quality: expected a finite number; found -inf"),
    ],
)
def test_a_metric_that_returns_no_number_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instar.compile(
            mlp(), DATA[0], target="torch", budget="smallest", quality=lambda _: value, max_drop=1.0,
        )  # fmt: skip


def test_a_metric_that_raises_is_named() -> None:
    def broken(_: Callable[..., Any]) -> float:
        raise KeyError("labels")

    with pytest.raises(ConfigError, match="quality: the metric raised KeyError: 'labels'") as error:
        instar.compile(mlp(), DATA[0], target="torch", budget="smallest", quality=broken, max_drop=1.0)
    assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(InfeasibleError, match="own"):
        Quality(lambda _: (_ for _ in ()).throw(InfeasibleError("own")))(mlp())


def searched(checkpoint: Path, quality: Callable[..., Any]) -> Any:
    return instar.compile(
        mlp(), DATA[0], target="torch", budget="smallest", calibration=DATA, quality=quality, max_drop=5.0,
        formats=["fp32", "int8:channel", "int4:g32", "int2:g32"], activations=["none"], checkpoint=checkpoint,
    )  # fmt: skip


class Stopping:
    """The metric, counted; it is interrupted at one of its calls."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.calls = at, 0

    def __call__(self, model: Callable[..., Any]) -> float:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return fidelity(model)


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """Four calls: the original and three plans, which are not judged again."""
    whole, first, second = Stopping(), Stopping(at=5), Stopping()
    expected = searched(tmp_path / "whole.safetensors", whole)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "c.safetensors", first)
    found = searched(tmp_path / "c.safetensors", second)
    assert second.calls == whole.calls - 3
    assert found.plan.digest() == expected.plan.digest()
    assert found.report.data.quality_search == expected.report.data.quality_search


def test_judged_plans_of_another_metric_are_refused(tmp_path: Path) -> None:
    searched(tmp_path / "c.safetensors", fidelity)
    with pytest.raises(ConfigError, match=r"expected values of this model and metric .*; move the file away"):
        searched(tmp_path / "c.safetensors", lambda model: 2.0 * fidelity(model))
    (tmp_path / "c.safetensors.quality.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"c\.safetensors\.quality\.json"):
        searched(tmp_path / "c.safetensors", fidelity)
