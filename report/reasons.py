"""Why each layer became what it is, what the budgets cost, and what the solver proved: a plan's numbers in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..ir.options import PricedOption
from ..ir.plan import BudgetUse, Decision, Plan
from ..ir.plan_findings import SolverOutcome
from ..ir.resources import RESOURCES
from . import words

ONE_PERCENT = 0.01
ROUNDING = 1e-9
"""Relative difference below which two weighed options count as equal: the solver breaks such ties by bytes."""

VISIBLE_GAP = 1e-4
"""A proof with a smaller gap is called a proof without saying so in words; the gap is among its numbers."""


LOSSES = {
    "fisher": "expected squared relative change of the model's outputs, from gradients on the calibration data",
    "output_error": "squared relative error of each layer's own output on the calibration data, summed",
    "weight_error": "squared relative error of each layer's weight, summed, since no calibration data was given",
    "measured": "squared relative change of the model's outputs with one layer replaced, summed over the layers",
}
"""Measure of loss -> what it says, for someone who has not read the documentation."""

OF_OUTPUTS = ("fisher", "measured")
"""Measures whose square root is an error of the model's outputs."""


def loss_words(sensitivity: str) -> str:
    """What the predicted loss is: ``"fisher: expected squared relative change of ..."``."""
    meaning = LOSSES.get(sensitivity)
    return f"{sensitivity}: {meaning}" if meaning else sensitivity


@dataclass(frozen=True)
class Neighbour:
    """An option that a layer did not take, as differences from the one it took.

    Attributes:
        priced: the option.
        nbytes: more bytes, negative where it takes fewer.
        latency_ms: more milliseconds; None where latency was not measured.
        bops: more bit operations.
        loss: more predicted loss.
        worth: predicted loss that what it takes more of the budgets would save elsewhere, by their shadow prices.
    """

    priced: PricedOption
    nbytes: int
    latency_ms: float | None
    bops: int
    loss: float
    worth: float

    @property
    def weighed(self) -> float:
        """Loss and the worth of the budgets together; negative where the neighbour is the better trade."""
        return self.loss + self.worth

    def takes_less(self, resources: Iterable[str]) -> bool:
        """Whether it takes less of any of these resources; of any at all where there are none."""
        more: dict[str, float] = {"size": self.nbytes, "latency": self.latency_ms or 0.0, "ops": self.bops}
        return any(more[name] < 0 for name in tuple(resources) or more)

    @property
    def text(self) -> str:
        """The differences as a clause."""
        parts = [_more(words.size(abs(self.nbytes)), self.nbytes, "more", "less")]
        if self.latency_ms is not None:
            parts.append(_more(words.milliseconds(abs(self.latency_ms)), self.latency_ms, "slower", "faster"))
        if self.loss:
            parts.append(f"loss {words.loss(abs(self.loss))} {'higher' if self.loss > 0 else 'lower'}")
        return ", ".join(part for part in parts if part) or "no difference"


def _more(amount: str, sign: float, above: str, below: str) -> str:
    return f"{amount} {above if sign > 0 else below}" if sign else ""


@dataclass(frozen=True)
class Reason:
    """Why a layer became what it is.

    Attributes:
        verdict: one clause.
        cheaper: the best trade among the options with no less loss that take less of what budgets are about, None
            where there is none.
        better: the best trade among the options with less loss, None where there is none.
    """

    verdict: str
    cheaper: Neighbour | None
    better: Neighbour | None


def shadow_prices(budgets: Iterable[BudgetUse]) -> dict[str, float]:
    """Resource -> predicted loss that one more unit would save."""
    found: dict[str, float] = {}
    for budget in budgets:
        found[budget.resource] = found.get(budget.resource, 0.0) + budget.shadow_price
    return found


def reason(decision: Decision, prices: Mapping[str, float]) -> Reason:
    """Why a layer took its option, and the runner-up on either side by the budgets' shadow prices."""
    options = [neighbour(decision.chosen, other, prices) for other in decision.alternatives]
    cheaper = min((n for n in options if n.loss >= 0 and n.takes_less(prices)), key=lambda n: n.weighed, default=None)
    better = min((n for n in options if n.loss < 0), key=lambda n: n.weighed, default=None)
    return Reason(_verdict(decision, prices, cheaper, better), cheaper, better)


def neighbour(chosen: PricedOption, other: PricedOption, prices: Mapping[str, float]) -> Neighbour:
    """How another option differs from the chosen one."""
    more = {name: _difference(resource.of(chosen), resource.of(other)) for name, resource in RESOURCES.items()}
    worth = sum(price * (more.get(resource) or 0.0) for resource, price in prices.items())
    loss = other.loss - chosen.loss
    return Neighbour(other, other.nbytes - chosen.nbytes, more["latency"], other.bops - chosen.bops, loss, worth)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _verdict(
    decision: Decision, prices: Mapping[str, float], cheaper: Neighbour | None, better: Neighbour | None
) -> str:
    if decision.forced:
        return f"not free: {decision.forced}"
    if cheaper is None and better is None:
        if prices and decision.alternatives:
            return "no other option loses less or takes less of what is bounded"
        return "no other option is better in any respect"
    if better is None:
        return "the most accurate option; the budgets leave room for it"
    runner_up = min((n.weighed for n in (cheaper, better) if n is not None), default=0.0)
    if runner_up < -ROUNDING * max(decision.chosen.loss, abs(better.loss)) and any(prices.values()):
        return (
            "another option trades better for this layer alone, but not in a whole plan: a layer is one choice, and "
            "layers that are tied choose together"
        )
    if cheaper is None:
        return "the cheapest option; what it saves lowers the loss more elsewhere"
    return "the best trade at the budgets' prices"


def saved_ms(decision: Decision) -> float | None:
    """Milliseconds of a run that the layer saves, negative where it got slower; None where latency was not measured.

    Only the difference means something: the times of single layers are fitted to the time of the whole network.
    """
    before, after = decision.original.latency_ms, decision.chosen.latency_ms
    return None if before is None or after is None else before - after


def binding(budgets: Iterable[BudgetUse]) -> list[BudgetUse]:
    """The budgets that cost loss."""
    return [b for b in budgets if b.shadow_price > 0]


def budget_words(budget: BudgetUse, total_loss: float) -> str:
    """What a budget allows, what is used of it, whether it binds, and what one percent more would bring."""
    text = f"{words.amount(budget.resource, budget.used)} of at most {words.amount(budget.resource, budget.limit)}"
    asked = f" (asked: {budget.asked})" if budget.asked else ""
    return f"{text}{asked}; {_state(budget, total_loss)}{_measured(budget)}."


def _state(budget: BudgetUse, total_loss: float) -> str:
    if budget.used > budget.limit:
        return f"exceeds its limit by {words.amount(budget.resource, budget.used - budget.limit)}"
    if budget.shadow_price <= 0:
        return f"does not bind: {words.amount(budget.resource, budget.limit - budget.used)} are left"
    more = ONE_PERCENT * budget.limit
    saved = min(more * budget.shadow_price, total_loss)
    lower = words.percent(saved / total_loss) if total_loss > 0 else words.loss(saved)
    return f"binds: 1 % more ({words.amount(budget.resource, more)}) would lower the predicted loss by about {lower}"


def _measured(budget: BudgetUse) -> str:
    if budget.measured is None:
        return ""
    over = ""
    if budget.measured > budget.limit:
        error = words.percent(RESOURCES[budget.resource].measured_again)
        over = (
            ", over the limit" if budget.exceeded else f", the limit within the {error} that two measurements differ by"
        )
    return f". Measured on the artifact: {words.amount(budget.resource, budget.measured)}{over}"


def solver_words(outcome: SolverOutcome | None) -> str:
    """What the solver proved, and about what."""
    if outcome is None:
        return "There was nothing to decide, so there is no proof."
    numbers = f"objective {words.loss(outcome.objective)}, bound {words.loss(outcome.bound)}"
    meaning = (
        "The proof is about the predicted loss, which estimates the damage from calibration data; it is not a proof "
        "about accuracy."
    )
    if outcome.status == "optimal":
        claim = "Proven optimal: no other choice among these options that meets the budgets has a lower predicted loss"
        claim += f", up to a gap of {words.percent(outcome.gap)}" if outcome.gap > VISIBLE_GAP else ""
    else:
        claim = (
            f"Not proven optimal (status {outcome.status}): the predicted loss may be up to "
            f"{words.percent(outcome.gap)} above the best possible"
        )
    return f"{claim} ({numbers}, gap {words.percent(outcome.gap)}, {outcome.solver}). {meaning}"


def formats_used(decisions: Sequence[Decision]) -> dict[str, int]:
    """Format -> how many layers have it, most frequent first."""
    counts: dict[str, int] = {}
    for decision in decisions:
        name = decision.chosen.option.format
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def binding_words(plan: Plan) -> str:
    """Which budgets bind, as a clause."""
    names = [b.key for b in binding(plan.budgets)]
    if not plan.budgets:
        return "No budget was given"
    if not names:
        return "No budget binds: more room would not lower the predicted loss"
    return f"The {words.listing(names)} budget{'s' if len(names) > 1 else ''} {'bind' if len(names) > 1 else 'binds'}"
