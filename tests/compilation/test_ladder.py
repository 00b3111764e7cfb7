"""The ladder of options: decisions are those of pricing everything, and most options are never stored."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import instar
from instar.compilation import prepared as stage
from instar.compilation.entry import start
from instar.compilation.finer_ranks import ROUNDS, refine_ladder
from instar.compilation.ladder import Rungs, first_rungs
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.compilation.pricing_stage import LayerPrices
from instar.ir.budget import Budget
from instar.ir.errors import ConfigError, FormatError
from instar.ir.options import NONE, Option, PricedOption
from instar.passes.formats.families import finer

from .models import mlp, mlp_data

STRUCTURE = ("fp32", "int4:g32", "lowrank", "monarch", "int8:channel @ lowrank")


def ready(formats: tuple[str, ...], *, calibrated: bool = True) -> Prepared:
    data = mlp_data(24) if calibrated else None
    settings = {"target": "torch", "formats": formats, "activations": ("none",)}
    request = start(mlp(), mlp_data(1)[0], None, None, None, settings, calibration=data)
    return prepare(request, calibration=data)


def everything(prepared: Prepared) -> Prepared:
    """The same with every option stored."""
    while prepared.ladder.waits:
        waiting = {r.layer.name: r.options[-1].option.name for r in prepared.ladder.hopeful}
        prepared.ladder.climb(waiting)
    return prepared


def test_the_plan_is_the_optimum_over_all_options_and_few_are_stored() -> None:
    lazy, full = ready(STRUCTURE, calibrated=False), everything(ready(STRUCTURE, calibrated=False))
    options = sum(len(p.options) for p in full.prices)
    assert sum(len(p.options) for p in lazy.prices) <= 0.05 * options
    for size in ("12%", "25%", "45%"):
        found, best = lazy.allocate(Budget(size=size)), full.allocate(Budget(size=size))
        assert found.outcome.objective == pytest.approx(best.outcome.objective, rel=1e-12)
        assert [d.chosen for d in found.decisions] == [d.chosen for d in best.decisions]
        assert found.outcome.status == "optimal"
    stored = sum(len(p.options) for p in lazy.prices)
    assert stored < 0.4 * options
    assert lazy.ladder.note() == (
        f"{options} options were considered, {stored} stored and priced; never stored: "
        f"{options - stored} by bounds from singular values"
    )
    assert full.ladder.note() == ""


def test_prices_that_are_run_lose_more_than_their_bounds_and_estimates_follow() -> None:
    lazy, full = ready(STRUCTURE), everything(ready(STRUCTURE))
    options = sum(len(p.options) for p in full.prices)
    assert sum(len(p.options) for p in lazy.prices) <= 0.15 * options  # one of each family beside the integers
    for size in ("12%", "25%", "45%"):
        found, best = lazy.allocate(Budget(size=size)), full.allocate(Budget(size=size))
        assert found.outcome.bound <= best.outcome.objective <= found.outcome.objective * (1 + 1e-12)
        assert found.outcome.objective < 1.2 * best.outcome.objective
    assert sum(len(p.options) for p in lazy.prices) < 0.4 * options
    assert "by estimates between stored ones" in lazy.ladder.note()


def test_what_is_decided_was_stored_and_alternatives_are_real_prices() -> None:
    lazy = ready((*STRUCTURE, "lowrank + int2:g32"))
    found = lazy.allocate(Budget(size="15%"))
    known = {p.layer.name: set(p.options) for p in lazy.prices}
    for decision in found.decisions:
        assert {decision.chosen, *decision.alternatives} <= known[decision.layer]
    assert "by estimates between stored ones" in lazy.ladder.note()
    assert math.fsum(d.chosen.loss for d in found.decisions) == pytest.approx(found.outcome.objective)


def test_what_rests_on_estimates_is_not_called_optimal() -> None:
    lazy = ready(("fp32", "int4:g32", "lowrank + int2:g32"))
    found = lazy.allocate(Budget(size="15%"))
    assert lazy.ladder.estimates > 0
    assert found.outcome.status == "feasible"
    assert found.outcome.bound < found.outcome.objective
    best = everything(lazy).allocate(Budget(size="15%"))
    assert best.outcome.status == "optimal"
    assert found.outcome.bound <= best.outcome.objective <= found.outcome.objective * (1 + 1e-12)


def test_a_search_that_is_cut_short_says_what_it_did_not_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CLIMBS", 0)
    found = ready(STRUCTURE).allocate(Budget(size="25%"))
    assert found.outcome.status == "feasible"
    assert found.outcome.bound < found.outcome.objective
    assert found.outcome.gap == pytest.approx(1 - found.outcome.bound / found.outcome.objective)


def test_estimates_lie_between_the_stored_members_of_a_family() -> None:
    def member(rank: int, loss: float) -> PricedOption:
        return PricedOption(Option(f"lowrank:r{rank} + int4:g32", "svd+rtn", NONE, "torch"), 100 * rank, None, 0, loss)

    layer = ready(("fp32",)).layers[0]
    members = [member(r, 0.0) for r in (1, 2, 3, 4, 5)]
    costed = LayerPrices(layer, members[0], tuple(members))
    first, later = first_rungs(costed, {})
    assert [o.nbytes for o in first] == [100, 300, 500]
    priced = replace(costed, options=(member(1, 0.16), member(3, 0.04), member(5, 0.01)))
    hopeful = Rungs(priced, dict.fromkeys(later)).hopeful()
    assert [o.loss for o in hopeful.options[3:]] == pytest.approx([0.08, 0.02])


def test_families_compile_and_an_unknown_one_is_refused_before_any_work() -> None:
    x = mlp_data(1)[0]
    compiled = instar.compile(mlp(), x, target="torch", budget={"size": "30%"}, formats=["fp32", "lowrank"])
    assert any("options were considered" in note for note in compiled.report.data.notes)
    assert all("lowrank:r" in d.chosen.option.format for d in compiled.plan.decisions[:2])
    with pytest.raises(ConfigError, match=r"formats\[0\].*did you mean 'lowrank'"):
        instar.compile(mlp(), x, target="torch", budget={"size": "30%"}, formats=["lowrnk"])


def test_around_the_optimum_ranks_are_tried_that_are_on_no_ladder() -> None:
    formats = ("fp32", "lowrank")
    coarse, prepared, budget = ready(formats), ready(formats), Budget(size="35%")
    limits = prepared.totals.limits(budget)
    before = coarse.allocate(budget, limits)
    refine_ladder(prepared, budget, limits)
    after = prepared.allocate(budget, limits)
    assert after.outcome.objective < before.outcome.objective
    assert after.outcome.bound <= after.outcome.objective
    ladders = {p.layer.name: {o.option.format for o in p.options} for p in coarse.ladder.hopeful}
    chosen = {d.layer: d.chosen.option.format for d in after.decisions}
    assert any(text not in ladders[name] for name, text in chosen.items())
    every = {p.layer.name: {o.option.format for o in p.options} for p in prepared.ladder.hopeful}
    assert all(len(every[name]) <= len(ladders[name]) + 2 * ROUNDS for name in every)
    assert ready(formats).plan(after).decisions == prepared.plan(after).decisions


def test_members_between_neighbours_have_one_other_option() -> None:
    known = ("lowrank:r8 + int4:g64", "lowrank:r10 + int4:g64", "lowrank:r9 + int8:channel", "monarch:b2 + int4:g64")
    assert finer("lowrank:r8 + int4:g64", known) == ("lowrank:r9 + int4:g64",)
    assert finer("lowrank:r9 + int4:g64", (*known, "lowrank:r9 + int4:g64")) == ()
    assert finer("int8:channel @ monarch:b2", ("int8:channel @ monarch:b8",)) == ()
    assert finer("int4:g64", ("int4:g32",)) == ()


def test_what_a_part_of_the_ladder_asks_for_is_stored_for_all() -> None:
    whole = ready(STRUCTURE)
    part = replace(whole, ladder=whole.ladder.only(lambda o: o.option.format == "fp32" or "lowrank" in o.option.format))
    found = part.allocate(Budget(size="20%"))
    assert all("int4" not in d.chosen.option.format for d in found.decisions)
    for prices, decision in zip(whole.prices, found.decisions, strict=True):
        assert decision.chosen in prices.options
    stored = [len(p.options) for p in whole.prices]
    assert part.allocate(Budget(size="20%")).decisions == found.decisions
    assert [len(p.options) for p in whole.prices] == stored
    assert len(part.prices[0].options) < len(whole.prices[0].options)


def test_a_part_without_any_option_of_a_layer_is_refused() -> None:
    with pytest.raises(FormatError, match="expected an option that is kept; found none; keep fp32"):
        ready(("fp32", "int4:g32")).ladder.only(lambda o: "monarch" in o.option.format)
