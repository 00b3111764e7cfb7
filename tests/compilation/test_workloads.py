"""Latency at several shapes: the weighted sum is budgeted, each is measured by itself and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import ConfigError, InfeasibleError
from instar.ir.graph import Graph
from instar.ir.layers import Layer
from instar.ir.options import Option
from instar.ir.plan import Plan
from instar.targets.base import Latencies, LayerLatency
from instar.targets.torch.target import TorchTarget

from ..report.rendering import terminal

ROWS = (2, 8)
"""Few rows, where four bits are made to be fast, and many, where eight are."""


def speed(text: str, rows: int) -> float:
    return {"fp32": 1.0, "int8:channel": 0.5, "int4:g32": 0.25 if rows == ROWS[0] else 0.875}[text] * rows


@pytest.fixture(autouse=True)
def made_up_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target remembers the rows that it measured last; an artifact is timed on no others."""

    def latencies(
        self: Any, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], inputs: Any
    ) -> Latencies:
        self.rows = int(inputs[0].shape[0])
        table = {
            layer.name: LayerLatency(
                speed("fp32", self.rows), {o.name: speed(o.format, self.rows) for o in options[layer.name]}
            )
            for layer in layers
        }
        return Latencies(2.0 * self.rows, 2.0 * self.rows, table, "made up")

    def latency_ms(self: Any, artifact: Any, inputs: Sequence[Tensor]) -> float:
        assert inputs[0].shape[0] == self.rows
        return 1.0 * self.rows

    monkeypatch.setattr(TorchTarget, "latencies", latencies)
    monkeypatch.setattr(TorchTarget, "latency_ms", latency_ms)


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers take together what they take alone, so that predictions are known."""
    monkeypatch.setattr("instar.compilation.preparation.fit_to_network", lambda *given: given[4])


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)).eval()


CALLS = [(torch.zeros(rows, 32),) for rows in ROWS]


def compiled(budget: Any = None, **settings: Any) -> instar.Compiled:
    settings = {"latency_inputs": CALLS, "formats": ["fp32", "int8:channel", "int4:g32"], **settings}
    return instar.compile(
        net(), (torch.zeros(4, 32),), target="torch", budget=budget or {"minimise": "latency"}, activations=["none"],
        dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=64)},), **settings,
    )  # fmt: skip


def formats(result: instar.Compiled) -> set[str]:
    return {d.chosen.option.format for d in result.plan.decisions}


def test_the_fastest_over_all_shapes_depends_on_their_weights() -> None:
    assert formats(compiled()) == {"int8:channel"}
    assert formats(compiled(latency_weights=[100, 1])) == {"int4:g32"}
    assert formats(compiled(latency_inputs=CALLS[:1])) == {"int4:g32"}


@pytest.mark.usefixtures("unfitted")
def test_the_sum_is_budgeted_and_each_shape_is_reported() -> None:
    result = compiled({"latency": "60%"}, latency_weights=[3, 1])
    (use,) = result.plan.budgets
    assert use.original == pytest.approx(0.75 * 2 * ROWS[0] + 0.25 * 2 * ROWS[1])
    assert use.limit == pytest.approx(0.6 * use.original)
    assert use.measured == pytest.approx(0.75 * ROWS[0] + 0.25 * ROWS[1])
    data = result.report.data
    told = result.report.to_json()["shapes"]
    assert [tuple(row.values()) for row in told] == [
        ("2x32", 0.75, 4.0, pytest.approx(2.0), 2.0, 0.5, None, False),
        ("8x32", 0.25, 16.0, pytest.approx(8.0), 8.0, 0.5, None, False),
    ]
    assert "8x32 25.0 % 16.0 ms 8.00 ms 8.00 ms 50.0 %" in " ".join(terminal(result.report.table()).split())
    assert data.latency_source.endswith("weighted sum over 0.75 of 2x32; 0.25 of 8x32")


def test_predictions_are_the_weighted_sum() -> None:
    result = compiled({"latency": "60%"})
    for decision in result.plan.decisions:
        text = decision.chosen.option.format
        expected = sum(0.5 * speed(text, rows) for rows in ROWS)
        gain = sum(0.5 * speed("fp32", rows) for rows in ROWS) - expected
        assert decision.chosen.latency_ms is not None
        assert decision.original.latency_ms is not None
        assert 0.0 <= decision.original.latency_ms - decision.chosen.latency_ms <= gain + 1e-9
    with pytest.raises(InfeasibleError, match="latency=1%: cannot be met"):
        compiled({"latency": "1%"})


@pytest.mark.usefixtures("unfitted")
def test_a_bound_for_each_shape_refuses_what_only_the_sum_allows() -> None:
    """Four bits take a quarter of the time of few rows and seven eighths of many; eight bits take half of both."""
    weights = {"latency_weights": [100, 1], "formats": ["int8:channel", "int4:g32"]}
    both = {"size": "22%", "latency": "60%"}
    assert formats(compiled(both, **weights)) == {"int4:g32"}
    with pytest.raises(InfeasibleError, match=r"budget (size=22%|latency=60% at 8x32): cannot be met while") as raised:
        compiled({**both, "each_shape": True}, **weights)
    assert set(raised.value.smallest) <= {"size", "latency at 2x32", "latency at 8x32"}
    assert formats(compiled({"size": "40%", "latency": "60%", "each_shape": True}, **weights)) == {"int8:channel"}


@pytest.mark.usefixtures("unfitted")
def test_each_shape_is_held_against_its_own_original_and_reported(tmp_path: Path) -> None:
    result = compiled({"latency": "60%", "each_shape": True}, latency_weights=[3, 1])
    assert [u.key for u in result.plan.budgets] == ["latency at 2x32", "latency at 8x32"]
    for use, rows in zip(result.plan.budgets, ROWS, strict=True):
        assert (use.resource, use.asked, use.original, use.measured) == ("latency", "60%", 2.0 * rows, 1.0 * rows)
        assert use.limit == pytest.approx(0.6 * use.original)
        changes = [speed(d.chosen.option.format, rows) - speed("fp32", rows) for d in result.plan.decisions]
        assert use.used == pytest.approx(2.0 * rows + sum(changes))
        assert use.used <= use.limit
    found = result.report.data.shapes
    assert [(s.shape, s.weight, s.original_ms, s.artifact_ms) for s in found] == [
        ("2x32", 0.75, 4.0, 2.0),
        ("8x32", 0.25, 16.0, 8.0),
    ]
    assert [s.predicted_ms for s in found] == [pytest.approx(u.used) for u in result.plan.budgets]
    assert [s["limit_ms"] for s in result.report.to_json()["shapes"]] == [u.limit for u in result.plan.budgets]
    result.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").budgets == result.plan.budgets


@pytest.mark.usefixtures("unfitted")
def test_times_of_a_device_that_is_not_here_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    here = TorchTarget.latencies
    monkeypatch.setattr(TorchTarget, "latencies", lambda *given: replace(here(*given), networks=()))
    found = compiled({"latency": "60%"}).report.to_json()["shapes"]
    assert [(s["predicted_ms"], s["artifact_ms"], s["ratio"]) for s in found] == [
        (pytest.approx(2.0), None, pytest.approx(0.5)),
        (pytest.approx(8.0), None, pytest.approx(0.5)),
    ]


def test_shapes_of_the_same_sizes_are_told_apart() -> None:
    result = compiled({"latency": "60%", "each_shape": True}, latency_inputs=[CALLS[0], CALLS[0]])
    assert [u.key for u in result.plan.budgets] == ["latency at 2x32", "latency at 2x32 (2)"]


@pytest.mark.usefixtures("unfitted")
def test_a_missed_shape_is_tightened_until_the_artifact_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan takes twice as long as predicted at one shape alone; the next has to be faster there."""

    def slower_at_many(self: Any, artifact: Any, inputs: Sequence[Tensor]) -> float:
        tries.append(artifact.nbytes)
        return 1.0 if self.rows == ROWS[0] else (14.0 if len(tries) <= len(ROWS) else 8.0)

    tries: list[int] = []
    monkeypatch.setattr(TorchTarget, "latency_ms", slower_at_many)
    result = compiled({"latency": "80%", "each_shape": True})
    uses = {u.shape: u for u in result.plan.budgets}
    assert len(tries) == 2 * len(ROWS)
    assert uses["8x32"].measured == 8.0
    assert uses["8x32"].used < 0.8 * 16.0 * 12.8 / 14.0


def test_shapes_without_a_latency_have_no_effect() -> None:
    notes = compiled({"size": "40%"}).report.data.notes
    assert "latency_inputs= has no effect: no budget is about latency" in notes


def test_each_shape_of_one_is_said_to_have_no_effect() -> None:
    result = compiled({"latency": "60%", "each_shape": True}, latency_inputs=CALLS[:1])
    assert "budget.each_shape has no effect: there are not several latency_inputs=" in result.report.data.notes
    assert [u.key for u in result.plan.budgets] == ["latency"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency_inputs": None, "latency_weights": [1.0]}, "latency_weights: expected latency_inputs= beside it"),
        ({"latency_inputs": []}, "latency_inputs: expected a list with the inputs of one call each"),
        ({"latency_inputs": torch.zeros(2, 32)}, "latency_inputs: expected a list with the inputs of one call each"),
        ({"latency_inputs": [(torch.zeros(2, 31),)]}, r"latency_inputs\[0\]: expected inputs of the model; found: "),
        ({"latency_weights": [1.0]}, "latency_weights: expected 2 numbers, one for each input, found 1"),
        ({"latency_weights": [1.0, 0.0]}, r"latency_weights\[1\]: expected a number above 0, found 0.0"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled(**settings)
