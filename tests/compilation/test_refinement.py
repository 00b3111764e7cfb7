"""Refinement: whole plans are measured; what is taken loses less on the same bytes, and the proof stays what it was."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
import torch

import instar
from instar.compilation import budgets, refinement
from instar.compilation.allocation_stage import Allocation, decide, predicted
from instar.compilation.costs import Totals
from instar.compilation.entry import start
from instar.compilation.measured_loss import MeasuredLoss, squared_error
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.compilation.pricing_stage import LayerPrices
from instar.ir.budget import Budget
from instar.ir.errors import ConfigError
from instar.ir.evaluate import run
from instar.ir.plan import Plan
from instar.ir.plan_findings import Refinement, SolverOutcome
from instar.passes.transforms.bias_correction import bias_of
from instar.report.summary import refinement as words

from .models import conv_data, conv_net, mlp, mlp_data

DATA = mlp_data(8, 64)
"""Many more samples than a layer has inputs: few are trusted little."""
FORMATS = ("int2:g32", "int3:g32", "int5:g32")


@functools.cache
def compiled(refine: int, target: str = "torch", *, conv: bool = False) -> instar.Compiled:
    model, data = (conv_net(), conv_data()) if conv else (mlp(), DATA)
    return instar.compile(
        model, data[0], target=target, budget={"size": "18%"}, formats=FORMATS, activations=("none",),
        calibration=data, search={"refine": refine},
    )  # fmt: skip


@functools.cache
def prepared(correct: str = "auto") -> Prepared:
    given = {
        "target": "torch", "budget": {"size": "18%"}, "formats": FORMATS, "activations": ("none",),
        "calibration": {"bias_correction": correct}, "search": {"refine": 4},
    }  # fmt: skip
    request = start(mlp(), DATA[0], None, None, None, given, calibration=DATA)
    return prepare(request, calibration=DATA, budget=request.budget)


def plan_of(names: dict[str, str], correct: str = "auto") -> Plan:
    decisions = tuple(decide(p, names[p.layer.name]) for p in prepared(correct).prices)
    return prepared(correct).plan(Allocation(decisions, SolverOutcome("given", 0.0, 0.0, 0.0, "none", 0), ()))


def measured(plan: Plan) -> float:
    measure = MeasuredLoss(prepared().graph, prepared().samples[1:])
    return measure.of_graph(prepared().unchecked(plan))


@pytest.mark.parametrize("conv", [False, True])
def test_a_refined_plan_loses_less_on_no_more_bytes(conv: bool) -> None:
    plain, refined = compiled(0, conv=conv), compiled(3, conv=conv)
    found = refined.plan.refinement
    assert plain.plan.refinement is None
    assert found is not None
    assert found.after <= found.before
    assert refined.nbytes <= plain.nbytes * 1.01
    assert sum(d.chosen.nbytes for d in refined.plan.decisions) <= sum(d.chosen.nbytes for d in plain.plan.decisions)
    changed = [a.chosen != b.chosen for a, b in zip(plain.plan.decisions, refined.plan.decisions, strict=True)]
    assert sum(changed) == found.changed
    assert found.changed == 0 or found.after < found.before
    assert refined.plan.predicted_loss >= plain.plan.predicted_loss * (1 - 1e-9)


def test_the_proof_is_that_of_the_predicted_losses() -> None:
    plain, refined = compiled(0).plan.solver, compiled(3).plan.solver
    assert plain is not None
    assert refined is not None
    assert (refined.status, refined.objective, refined.bound) == ("optimal", plain.objective, plain.bound)


def test_refinement_finds_what_measuring_every_plan_near_the_optimum_finds() -> None:
    """Three layers, each with its option of the optimum and those next to it: all plans of them are measured."""
    work = prepared()
    budget = Budget(size="18%")
    optimum = work.plan(work.allocate(budget))
    limit = sum(d.chosen.nbytes for d in optimum.decisions)
    near = [
        [o.option.name for o in refinement.near_options(p, d)]
        for p, d in zip(work.prices, optimum.decisions, strict=True)
    ]
    plans = [plan_of(dict(zip((p.layer.name for p in work.prices), c, strict=True))) for c in itertools.product(*near)]
    losses = {measured(p) for p in plans if sum(d.chosen.nbytes for d in p.decisions) <= limit}
    refined = refinement.refine(work, budget, optimum, 8)
    assert refined.refinement is not None
    assert refined.refinement.after == pytest.approx(measured(refined), rel=1e-6)
    assert refined.refinement.after <= measured(optimum)
    assert refined.refinement.after <= min(losses) * 1.1


def test_room_that_the_budget_leaves_is_used() -> None:
    work = prepared()
    budget = Budget(size="16%")
    plan = work.plan(work.allocate(budget))
    used = predicted(plan.decisions, work.totals)["size"]
    refined = [refinement.refine(work, budget, plan, 4, limits) for limits in (None, {"size": 1.2 * used})]
    sizes = [predicted(r.decisions, work.totals)["size"] for r in refined]
    assert sizes[0] <= used < sizes[1] <= 1.2 * used
    assert refined[0].refinement is not None
    assert refined[1].refinement is not None
    assert refined[1].refinement.after < refined[0].refinement.after


@pytest.mark.parametrize("correct", ["never", "always"])
def test_gradients_are_those_of_the_measured_loss_with_the_plan_in_place(correct: str) -> None:
    work = prepared(correct)
    plan = work.plan(work.allocate(Budget(size="18%")))
    assert len(plan.biases) == (3 if correct == "always" else 0)
    measure = MeasuredLoss(work.graph, work.samples[1:])
    gradients = refinement.gradients_of(work, plan, measure)
    graph = work.unchecked(plan)
    for prices, decision in zip(work.prices, plan.decisions, strict=True):
        for option in decision.alternatives[:2]:
            names = {d.layer: (option if d is decision else d.chosen).option.name for d in plan.decisions}
            one, two = (refinement.matrix_of(work, prices.layer, o) for o in (decision.chosen, option))
            step = two - one
            slope = float((gradients[prices.layer.name] * step).sum())
            other = plan_of(names, correct)
            values = [_between(work, measure, plan, other, prices.layer.name, t) for t in (-1e-3, 1e-3)]
            assert slope == pytest.approx((values[1] - values[0]) / 2e-3, rel=2e-2, abs=1e-5)
    assert graph.ops()["instar.dequantize"] == 3


def _between(work: Prepared, measure: MeasuredLoss, plan: Plan, other: Plan, layer: str, share: float) -> float:
    """The loss with one layer's weight moved a little from a plan's towards another's, and its bias along with it."""
    assert work.statistics is not None
    moved: dict[object, torch.Tensor] = {}
    for prices in work.prices:
        name = prices.layer.name
        one, two = (refinement.matrix_of(work, prices.layer, p.decision(name).chosen) for p in (plan, other))
        step = share * (two - one) if name == layer else torch.zeros_like(one)
        moved[prices.layer.weight] = (one + step).reshape(prices.layer.shape)
        mean = work.statistics.layers[name].mean_input
        if mean is not None:
            moved[bias_of(prices.layer, work.graph)] = plan.biases[name] - (step * mean).sum(1)
    total = 0.0
    with torch.no_grad():
        for inputs, reference in zip(measure.samples, measure.references, strict=True):
            outputs = run(work.graph, inputs, lambda node, value, _: moved.get(node, value))
            total += squared_error(outputs, reference)
    return total / len(measure.samples)


@pytest.mark.parametrize(("target", "suffix"), [("torch", "safetensors"), ("onnx", "onnx")])
def test_a_refined_plan_replays_to_the_same_bytes(target: str, suffix: str, tmp_path: Path) -> None:
    first = compiled(3, target)
    first.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").refinement == first.plan.refinement
    again = instar.compile(mlp(), DATA[0], target=target, plan=tmp_path / "plan.json")
    paths = [Path(c.save(tmp_path / f"{n}.{suffix}")[0]) for n, c in (("first", first), ("again", again))]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_refined_plan_that_misses_a_budget_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [d.chosen.option.name for d in compiled(0).plan.decisions]
    original = budgets.missed_budgets
    calls: list[int] = []

    def missed(found: dict[str, float], asked: dict[str, float], totals: Totals) -> dict[str, float]:
        calls.append(1)
        return {"size": 1e9} if refining else original(found, asked, totals)

    refining = False

    def refine(work: Prepared, budget: Budget, plan: Plan, steps: int, limits: dict[str, float]) -> Plan:
        nonlocal refining
        refining = True
        return original_refine(work, budget, plan, steps, limits)

    original_refine = budgets.refine
    monkeypatch.setattr(budgets, "missed_budgets", missed)
    monkeypatch.setattr(budgets, "refine", refine)
    result = instar.compile(
        mlp(), DATA[0], target="torch", budget={"size": "18%"}, formats=FORMATS, activations=("none",),
        calibration=DATA, search={"refine": 3},
    )  # fmt: skip
    assert [d.chosen.option.name for d in result.plan.decisions] == names


def test_a_plan_with_a_latency_budget_is_refined_within_both(tmp_path: Path) -> None:
    result = instar.compile(
        mlp(), DATA[0], target="onnx", budget={"size": "40%", "latency": "1000%"}, calibration=DATA,
        search={"refine": 3}, target_options={"cache": str(tmp_path)},
    )  # fmt: skip
    found = result.plan.refinement
    assert found is not None
    assert found.after <= found.before
    assert (found.changed > 0) == (found.after < found.before)
    for use in result.plan.budgets:
        assert use.measured is not None
        assert use.measured <= 1.03 * use.limit
        assert use.used <= use.limit


def test_the_report_says_what_measuring_changed() -> None:
    text = compiled(3).report.to_json()["summary"]
    found = compiled(3).plan.refinement
    assert found is not None
    expected = (
        "whole plans were measured: on calibration data the loss fell from "
        if found.changed
        else "Measuring whole plans found none better"
    )
    assert expected in text
    assert words(None) == ""
    assert words(Refinement(0, 1.0, 1.0)).startswith("Measuring whole plans found none better")
    assert "2 layers were changed" in words(Refinement(2, 0.5, 0.25))


@pytest.mark.parametrize(
    ("search", "calibration", "message"),
    [
        ({"refine": 2}, {}, "search.refine: 2 needs calibration data, found none; pass calibration= or use 0"),
        ({"refine": -1}, {}, "search.refine: expected a number of at least 0, found -1"),
        ({"refine": 65}, {}, "search.refine: expected a number of at most 64, found 65"),
        (
            {"refine": 1},
            {"sensitivity": "output_error"},
            "search.refine: expected calibration.sensitivity 'auto' or 'fisher', whose losses are those of the whole "
            "network; found 'output_error'; change one of them",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(search: dict[str, int], calibration: dict[str, str], message: str) -> None:
    pipeline = {"search": search, **({"calibration": calibration} if calibration else {})}
    with pytest.raises(ConfigError, match=message):
        instar.compile(mlp(), DATA[0], budget={"size": "30%"}, pipeline=pipeline)


def test_the_smallest_model_is_found_by_the_users_metric_alone() -> None:
    with pytest.raises(ConfigError, match=r"search.refine: expected 0 where size is minimised; found 2; compile"):
        instar.compile(
            mlp(), DATA[0], budget="smallest", quality=lambda _: 1.0, max_drop=0.1, calibration=DATA,
            pipeline={"search": {"refine": 2}},
        )  # fmt: skip


def test_the_greedy_plan_is_measured_too_and_taken_where_it_loses_less() -> None:
    ready, budget = prepared(), Budget(size="18%")
    worst = plan_of({p.layer.name: by_format(p, "int2:g32") for p in ready.prices})
    greedy = ready.greedy(budget)
    assert greedy is not None
    other = ready.plan(greedy)
    assert measured(other) < measured(worst)
    found = refinement.refine(ready, budget, worst, 0, {"size": 0.18 * ready.totals.original_nbytes})
    assert [d.chosen for d in found.decisions] == [d.chosen for d in other.decisions]
    assert found.refinement is not None
    assert found.refinement.after == pytest.approx(measured(other))
    best = refinement.refine(ready, budget, other, 0, {"size": 0.18 * ready.totals.original_nbytes})
    assert [d.chosen for d in best.decisions] == [d.chosen for d in other.decisions]


def by_format(prices: LayerPrices, text: str) -> str:
    return next(o.option.name for o in prices.options if o.option.format == text)
