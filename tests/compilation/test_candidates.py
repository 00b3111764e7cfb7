"""Plans that refinement measures beside the optimum: of one kind of format, and with interactions of two layers."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import instar
from instar.compilation.allocation_stage import predicted
from instar.compilation.candidates import candidates, interactions, of_one_kind, sensitive_pairs, with_interactions
from instar.compilation.entry import start
from instar.compilation.holding_out import few_of
from instar.compilation.measured_loss import MeasuredLoss
from instar.compilation.options_in_reach import matrix_of, near_options
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.compilation.refinement import refine
from instar.ir.budget import Budget
from instar.ir.errors import ConfigError
from instar.ir.layers import find_layers
from instar.ir.options import PricedOption
from instar.ir.plan import Decision

from .models import mlp, mlp_data

DATA = mlp_data(8, 64)
BUDGET = Budget(size="16%")


class Twice(nn.Module):
    """Two equal layers whose outputs are subtracted: equal errors cancel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.last = nn.Linear(64, 48), nn.Linear(64, 48), nn.Linear(48, 32)
        self.other.load_state_dict(self.one.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.one(x) - 0.5 * self.other(x))


@functools.cache
def ready(formats: tuple[str, ...] = ("int2:g32", "int3:g32", "int5:g32"), *, twice: bool = False) -> Prepared:
    model = Twice().eval() if twice else mlp()
    data = [(torch.randn(64, 64, generator=torch.Generator().manual_seed(i)),) for i in range(4)] if twice else DATA
    given = {"target": "torch", "budget": {"size": "16%"}, "formats": formats, "activations": ("none",),
             "search": {"refine": 2, "pairs": 3}}  # fmt: skip
    request = start(model, data[0], None, None, None, given, calibration=data)
    return prepare(request, calibration=data, budget=request.budget)


def measure_of(prepared: Prepared) -> MeasuredLoss:
    return MeasuredLoss(prepared.graph, prepared.samples[1:])


def limits_of(prepared: Prepared, decisions: Sequence[Decision]) -> dict[str, float]:
    return {"size": predicted(decisions, prepared.totals)["size"]}


def test_an_interaction_is_what_two_layers_lose_beyond_both_alone() -> None:
    prepared = ready(twice=True)
    measure, options = measure_of(prepared), {p.layer.name: p.options for p in prepared.prices}
    found = interactions(prepared, [("one", "other")], options, measure)
    assert len(found) == len(options["one"]) * len(options["other"])
    layers = {layer.name: layer for layer in prepared.layers}
    for pair in found:
        a, b = (next(o for o in options[n] if o.option.name == name) for n, name in (pair.first, pair.second))
        one, other = matrix_of(prepared, layers["one"], a), matrix_of(prepared, layers["other"], b)
        alone = measure.of_weight(layers["one"], one) + measure.of_weight(layers["other"], other)
        both = measure.of_weights([(layers["one"], one), (layers["other"], other)])
        assert pair.loss == pytest.approx(both - alone, rel=1e-9, abs=1e-15)
        if a.option.format == b.option.format:  # the same error twice, and one is subtracted
            assert pair.loss < -0.5 * alone * 0.5


def test_interactions_decide_and_the_budget_holds() -> None:
    prepared = ready(twice=True)
    measure, best = measure_of(prepared), prepared.allocate(BUDGET)
    limits = limits_of(prepared, best.decisions)
    found = with_interactions(prepared, BUDGET, best.decisions, measure, limits, 3)
    assert predicted(found.decisions, prepared.totals)["size"] <= limits["size"]
    chosen = sensitive_pairs(best.decisions, 3)
    reach = {p.layer.name: near_options(p, d) for p, d in zip(prepared.prices, best.decisions, strict=True)}
    pairs = interactions(prepared, chosen, reach, measure)
    terms = {frozenset((p.first, p.second)): p.loss for p in pairs}

    def loss(options: Sequence[PricedOption]) -> float:
        taken = [(p.layer.name, o.option.name) for p, o in zip(prepared.prices, options, strict=True)]
        return sum(o.loss for o in options) + sum(
            terms.get(frozenset(t), 0.0) for t in itertools.combinations(taken, 2)
        )

    inside = [reach[p.layer.name] for p in prepared.prices]
    fitting = [
        options
        for options in itertools.product(*inside)
        if sum(o.nbytes for o in options) + prepared.totals.fixed_nbytes <= limits["size"]
    ]
    assert loss([d.chosen for d in found.decisions]) == pytest.approx(min(map(loss, fitting)), rel=1e-9)


def test_pairs_are_measured_on_as_few_rows_as_work_allows() -> None:
    samples = [[torch.randn(64, 64, generator=torch.Generator().manual_seed(i))] for i in range(4)]
    graph = instar.optimize(Twice().eval(), tuple(samples[0]), dynamic_shapes=({0: torch.export.Dim("batch")},))
    layers = find_layers(graph)[0]
    macs = 64 * 48 * 2 + 48 * 32  # of one row

    def rows(work: int) -> list[int]:
        return [inputs[0].shape[0] for inputs in few_of(graph, samples, work, layers)]

    assert rows(40 * macs) == [10, 10, 10, 10]
    assert rows(2 * macs) == [1, 1]
    assert rows(1) == [1]
    assert rows(10**9) == [64, 64, 64, 64]
    fixed = ready(twice=True)  # for 64 rows and no others
    assert [s[0].shape[0] for s in few_of(fixed.graph, samples, 2 * 64 * macs, fixed.layers)] == [64, 64]


def test_the_most_sensitive_pairs_are_those_of_the_largest_losses() -> None:
    decisions = ready().allocate(BUDGET).decisions
    losses = sorted((d.chosen.weight_loss, d.layer) for d in decisions)
    (first,) = sensitive_pairs(decisions, 1)
    assert set(first) == {name for _, name in losses[-2:]}
    assert len(sensitive_pairs(decisions, 99)) == len(decisions) * (len(decisions) - 1) // 2


def test_every_kind_of_format_is_a_candidate_by_itself() -> None:
    prepared = ready(("fp32", "int3:g32", "int8:channel", "lowrank"))
    found = list(of_one_kind(prepared, Budget(size="40%"), {"size": 0.4 * prepared.totals.original_nbytes}))
    kinds = [{d.chosen.option.format.split(":")[0] for d in one.decisions} - {"fp32"} for one in found]
    assert len(kinds) == 2
    assert all(kind <= {"lowrank"} or kind <= {"int3", "int8"} for kind in kinds)


def test_formats_of_one_kind_have_no_candidates_of_one_kind() -> None:
    assert list(of_one_kind(ready(), BUDGET, {"size": 1e9})) == []


def test_a_refined_plan_is_no_worse_than_its_candidates() -> None:
    prepared = ready(("fp32", "int3:g32", "int8:channel", "lowrank"))
    budget = Budget(size="40%")
    plan = prepared.plan(prepared.allocate(budget))
    limits = limits_of(prepared, plan.decisions)
    best = refine(prepared, budget, plan, 1, limits)
    assert prepared.known.held_out is not None
    scores = [measure_of(prepared), MeasuredLoss(prepared.graph, [prepared.known.held_out])]
    others = candidates(prepared, budget, plan.decisions, limits)
    lost = [sum(s.of_graph(prepared.unchecked(p)) for s in scores) for p in (best, *map(prepared.plan, others))]
    assert lost[0] <= min(lost) * 1.05


def test_pairs_without_refinement_are_refused() -> None:
    message = "search.pairs: expected search.refine of at least 1, which measures what interactions lead to; found 0"
    with pytest.raises(ConfigError, match=re.escape(message)):
        instar.compile(mlp(), DATA[0], target="torch", budget={"size": "30%"}, calibration=DATA, search={"pairs": 2})
