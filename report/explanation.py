"""What ``instar explain`` prints, from a plan alone."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..ir.plan import Decision, Plan
from . import reasons, words
from .summary import corrections, in_order, kernel_cost, refinement, transforms

REFUSALS = 3
"""How many refused options of a layer are shown."""


def explain(plan: Plan) -> RenderableType:
    """Budgets, the proof, and one block per layer: what it became, why, and the runner-up on either side."""
    prices = reasons.shadow_prices(plan.budgets)
    parts: list[RenderableType] = [_title(plan), Text(), *_budgets(plan), Text(reasons.solver_words(plan.solver))]
    if plan.sensitivity:
        parts.append(Text(f"Loss is {reasons.loss_words(plan.sensitivity)}."))
    if plan.refinement is not None:
        parts.append(Text(refinement(plan.refinement)))
    if plan.in_order is not None:
        parts.append(Text(in_order(plan.in_order)))
    if plan.kernel_cost is not None:
        parts.append(Text(kernel_cost(plan.kernel_cost)))
    if plan.transforms:
        parts.append(Text(transforms(plan.transforms)))
    if plan.corrections:
        parts.append(Text(corrections(plan.corrections)))
    if plan.decisions:
        parts += [Text(), Rule("layers", align="left", style="dim"), _layers(plan, prices)]
    return Group(*parts)


def _title(plan: Plan) -> Text:
    before = sum(d.original.nbytes for d in plan.decisions)
    after = sum(d.chosen.nbytes for d in plan.decisions)
    text = f"Plan for {plan.target}: {words.plural(len(plan.decisions), 'layer')}, "
    text += f"{words.size(before)} -> {words.size(after)} of weights, predicted loss {words.loss(plan.predicted_loss)}"
    return Text(text, style="bold")


def _budgets(plan: Plan) -> list[RenderableType]:
    lines = [Text(f"{b.key}: {reasons.budget_words(b, plan.predicted_loss)}") for b in plan.budgets]
    return [Text(f"{reasons.binding_words(plan)}."), *lines]


def _layers(plan: Plan, prices: dict[str, float]) -> Table:
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 1, 0))
    grid.add_column(overflow="fold")
    for decision in plan.decisions:
        grid.add_row(_layer(decision, prices, plan))
    return grid


def _saved(milliseconds: float) -> str:
    if milliseconds < 0:
        return f"takes {words.milliseconds(-milliseconds)} longer"
    return f"saves {words.milliseconds(milliseconds)}"


def _layer(decision: Decision, prices: dict[str, float], plan: Plan) -> Text:
    chosen, total, correction = decision.chosen, plan.predicted_loss, plan.corrections.get(decision.layer)
    why = reasons.reason(decision, prices)
    text = Text().append(decision.layer, style="bold")
    text.append(f"  {decision.kind} {'x'.join(map(str, decision.shape))}\n", style="dim")
    facts = [f"{words.size(decision.original.nbytes)} -> {words.size(chosen.nbytes)}"]
    if chosen.latency_ms is not None:
        facts.append(_saved(reasons.saved_ms(decision) or 0.0))
    share = f" ({words.percent(chosen.loss / total)} of all)" if total > 0 else ""
    facts.append(f"loss {words.loss(chosen.loss)}{share}")
    if correction is not None:
        facts.append(f"bias corrected by {words.percent(correction.shift)} of the output")
    text.append(f"  {chosen.option.name}", style="green")
    text.append(f": {', '.join(facts)}\n  why: {why.verdict}")
    for label, other in (("cheaper", why.cheaper), ("more accurate", why.better)):
        if other is not None:
            text.append(f"\n  {label}: {other.priced.option.name}: {other.text}")
    refused = words.grouped(decision.refused)
    for refusal in refused[:REFUSALS]:
        text.append(f"\n  refused: {refusal}", style="dim")
    if len(refused) > REFUSALS:
        text.append(f"\n  refused: {len(refused) - REFUSALS} more, all in the plan", style="dim")
    return text
