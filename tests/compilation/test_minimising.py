"""One resource as small as it gets: within bounds on others, or within the user's own metric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import instar
from instar.compilation.entry import start
from instar.compilation.minimising import Minimising
from instar.compilation.preparation import prepare
from instar.ir.budget import Budget
from instar.ir.errors import ConfigError, InfeasibleError
from instar.ir.graph import Graph
from instar.ir.layers import Layer
from instar.ir.options import Option
from instar.targets.base import Latencies, LayerLatency
from instar.targets.torch.target import TorchTarget

from .models import mlp, mlp_data, relative

DATA = mlp_data()
FORMATS = ("fp32", "int8:channel", "int4:g32", "int3:g32")
SPEED = {"fp32": 1.0, "int8:channel": 0.4, "int4:g32": 0.6, "int3:g32": 0.7}


@pytest.fixture(autouse=True)
def made_up_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Int8 is the fastest, three bits the smallest; nothing is measured."""

    def latencies(
        _: Any, graph: Graph, layers: Sequence[Layer], options: Mapping[str, Sequence[Option]], __: Any
    ) -> Latencies:
        table = {
            layer.name: LayerLatency(1.0, {o.name: SPEED[o.format] for o in options[layer.name]}) for layer in layers
        }
        return Latencies(3.0, 3.0, table, "made up")

    monkeypatch.setattr(TorchTarget, "latencies", latencies)
    monkeypatch.setattr(TorchTarget, "latency_ms", lambda *_: 1.0)


def compiled(budget: Any, **settings: Any) -> instar.Compiled:
    settings = {"formats": FORMATS, "activations": ("none",), "calibration": DATA, **settings}
    return instar.compile(mlp(), DATA[0], target="torch", budget=budget, **settings)


def formats(result: instar.Compiled) -> set[str]:
    return {d.chosen.option.format for d in result.plan.decisions}


def test_the_smallest_of_all(tmp_path: Path) -> None:
    result = compiled(Budget(minimise="size"))
    assert formats(result) == {"int3:g32"}
    (use,) = result.plan.budgets
    assert (use.resource, use.asked, use.measured) == ("size", "least", float(result.nbytes))
    result.plan.save(tmp_path / "plan.json")
    again = instar.compile(mlp(), DATA[0], target="torch", plan=tmp_path / "plan.json")
    assert torch.equal(again(*DATA[0]), result(*DATA[0]))


def test_the_fastest_of_all_is_not_the_smallest() -> None:
    assert formats(compiled({"minimise": "latency"})) == {"int8:channel"}


def test_the_least_latency_within_a_size_is_what_enumeration_finds() -> None:
    settings = {"target": "torch", "formats": FORMATS, "activations": ("none",)}
    request = start(mlp(), DATA[0], None, None, None, settings, calibration=DATA)
    prepared = prepare(request, calibration=DATA, latency=True)
    aim = Minimising(prepared, "latency", Budget(size="20%"))
    (limit,) = aim.asked.values()
    found = aim.best()
    fixed = prepared.totals.fixed_nbytes
    plans = [
        (sum(o.latency_ms or 0.0 for o in plan), sum(o.loss for o in plan))
        for plan in itertools.product(*(p.options for p in prepared.prices))
        if fixed + sum(o.nbytes for o in plan) <= limit
    ]
    least = min(latency for latency, _ in plans)
    chosen = (sum(d.chosen.latency_ms or 0.0 for d in found.decisions), sum(d.chosen.loss for d in found.decisions))
    assert chosen[0] <= least * 1.0021
    assert chosen[1] == pytest.approx(min(loss for latency, loss in plans if latency <= least * 1.002), rel=1e-6)


def test_a_bound_beside_it_is_met_by_the_artifact() -> None:
    result = compiled(Budget(size="20%", minimise="latency"))
    uses = {use.resource: use for use in result.plan.budgets}
    assert result.nbytes <= uses["size"].limit
    assert uses["latency"].asked == "least"
    assert "int8:channel" in formats(result)
    with pytest.raises(InfeasibleError, match="budget size=1%: cannot be met"):
        compiled(Budget(size="1%", minimise="latency"))


def fidelity(original: torch.Tensor) -> Callable[[Callable[..., Any]], float]:
    return lambda model: 100.0 * (1.0 - relative(model(*DATA[1]), original))


@pytest.mark.parametrize("budget", ["fastest", {"minimise": "latency", "size": "60%"}])
def test_the_fastest_that_is_good_enough(budget: Any) -> None:
    with torch.no_grad():
        metric = fidelity(mlp()(*DATA[1]))
    result = compiled(budget, quality=metric, max_drop=2.0)
    data = result.report.data
    assert data.quality_final is not None
    assert data.quality_final >= 98.0
    latencies = [point.latency_ms for point in data.quality_search if point.accepted]
    assert data.predicted_ms is not None
    assert data.predicted_ms == pytest.approx(min(value for value in latencies if value is not None))
    assert any(not point.accepted for point in data.quality_search) or formats(result) == {"int8:channel"}


@pytest.mark.parametrize(
    ("budget", "settings", "message"),
    [
        ({"minimise": "speed"}, {}, r"budget.minimise: expected size, latency, ops, found 'speed'"),
        ("fastest", {}, r"budget: 'fastest' needs quality= and max_drop=, found no max_drop"),
        ({"minimise": "latency"}, {"search": {"refine": 2}}, "search.refine: expected 0 where latency is minimised"),
        ({"size": "40%"}, {"quality": len, "max_drop": 1.0}, "max_drop: expected budget='smallest', 'fastest' or one"),
    ],
)
def test_what_is_refused(budget: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled(budget, **settings)


def test_a_budget_is_read_and_written(tmp_path: Path) -> None:
    budget = Budget.parse(["size=20%", "minimise=latency"])
    assert budget == Budget(size="20%", minimise="latency")
    assert Budget.from_mapping(budget.to_mapping()) == budget
    (tmp_path / "p.toml").write_text('[budget]\nsize = "20%"\nminimise = "latency"\n')
    assert instar.Pipeline.load(tmp_path / "p.toml").budget == budget
    (tmp_path / "p.toml").write_text('budget = "fastest"\n')
    pipeline = instar.Pipeline.load(tmp_path / "p.toml")
    assert (pipeline.minimise, instar.Pipeline.parse(pipeline.to_mapping()).budget) == ("latency", "fastest")
