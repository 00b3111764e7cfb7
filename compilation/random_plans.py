"""Predicted against measured loss over random plans: how far the additive prediction can be trusted."""

from __future__ import annotations

import random

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
        decisions = tuple(decide(p, generator.choice(p.options).option.name) for p in prepared.prices)
        outcome = SolverOutcome("random", 0.0, 0.0, 0.0, "none", prepared.pipeline.seed)
        plan = prepared.plan(Allocation(decisions, outcome, ()))
        graph = prepared.unchecked(plan)
        size = int(predicted(decisions, prepared.totals)["size"])
        pairs.append(LossPair(f"random {number}", plan.predicted_loss, measure.of_graph(graph), size))
    return tuple(pairs)
