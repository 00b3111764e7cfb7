"""Predicted against measured loss over random plans: how far the additive prediction can be trusted."""

from __future__ import annotations

import random

from ..ir.layers import taken_together
from ..ir.plan import Decision
from ..ir.plan_findings import SolverOutcome
from ..report.data import LossPair
from .allocation_stage import Allocation, decide, predicted
from .measured_loss import MeasuredLoss
from .prepared import Prepared


def random_plan_losses(prepared: Prepared, count: int) -> tuple[LossPair, ...]:
    """Draw ``count`` plans uniformly, apply each and measure it on the calibration samples."""
    if count == 0 or not prepared.prices:
        return ()
    measure = MeasuredLoss(prepared.graph, prepared.fitting)
    generator = random.Random(prepared.pipeline.seed)
    pairs: list[LossPair] = []
    for number in range(count):
        decisions = _drawn(prepared, generator)
        outcome = SolverOutcome("random", 0.0, 0.0, 0.0, "none", prepared.pipeline.seed)
        plan = prepared.plan(Allocation(decisions, outcome, ()))
        graph = prepared.unchecked(plan)
        size = int(predicted(decisions, prepared.totals)["size"])
        pairs.append(LossPair(f"random {number}", plan.predicted_loss, measure.of_graph(graph), size))
    return tuple(pairs)


def _drawn(prepared: Prepared, generator: random.Random) -> tuple[Decision, ...]:
    """Any option of each layer; what one operator takes whole agrees in the kernel that rounds."""
    groups = taken_together(prepared.layers)
    drawn: dict[tuple[str, ...], str] = {}
    decisions: list[Decision] = []
    for prices in prepared.prices:
        own = [names for names in groups if prices.layer.name in names]
        wanted = {drawn[names] for names in own if names in drawn}
        option = generator.choice([o for o in prices.options if not wanted or o.option.rounds_under in wanted]).option
        drawn |= dict.fromkeys(own, option.rounds_under)
        decisions.append(decide(prices, option.name))
    return tuple(decisions)
