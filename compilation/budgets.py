"""Stage: decide under the budgets, build, measure the artifact, and tighten where a prediction was too optimistic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.layers import taken_together
from ..ir.plan import BudgetUse, Decision, Plan
from ..ir.resources import LATENCY
from .allocation_stage import Allocation, SolverOutcome, decide, predicted
from .building import Built, build, check
from .costs import Totals
from .finer_ranks import refine_ladder
from .minimising import Minimising, minimising
from .prepared import Prepared
from .pricing_stage import LayerPrices, as_original
from .refinement import refine
from .residency import with_residency
from .workloads import at_shapes, time_artifact

ROUNDS = 5
"""How often the artifact is built before a budget that is still missed becomes an error."""

LATENCY_MARGIN = 0.002
"""Share of a latency budget that is given up on top of what a prediction was short of."""

ROUNDING = 1e-7
"""The same where no plan but the fastest is left: latencies are whole nanoseconds to the solver."""

CLOSE = 0.005
"""Share of a size budget that is not worth another try."""


@dataclass(frozen=True)
class Attempt:
    """What a plan was expected to cost, and what was built from it."""

    expected: dict[str, float]
    built: Built

    @property
    def size(self) -> float:
        """Bytes of the artifact."""
        return self.built.measured["size"]


def meet_budgets(prepared: Prepared) -> Built:
    """Decide, apply and build until the artifact itself meets every budget.

    Raises:
        InfeasibleError: no plan meets the budgets, or the artifact misses one after all rounds.
    """
    budget, aim = prepared.request.budget, minimising(prepared)
    if aim is not None:
        return build_least(aim)
    if budget is None:
        first = _build(prepared, prepared.plan(least_loss(prepared)), {})
        return check(_with_residency(prepared, first, {}), prepared.samples)
    built = _refined(prepared, budget, decide_and_build(prepared, budget))
    return _checked(prepared, _with_residency(prepared, built, prepared.totals.limits(budget)))


def _with_residency(prepared: Prepared, built: Built, asked: dict[str, float]) -> Built:
    def again(plan: Plan) -> Built | None:
        found = _build(prepared, plan, asked)
        return None if missed_budgets(found.measured, asked, prepared.totals) else found

    return with_residency(prepared, built, again)


def decide_and_build(prepared: Prepared, budget: Budget) -> Built:
    """Allocate, build and tighten until the artifact meets the budgets; it is not compared with its graph yet.

    Raises:
        InfeasibleError: see :func:`meet_budgets`.
    """
    asked = prepared.totals.limits(budget)
    refine_ladder(prepared, budget, asked)
    limits = dict(asked)
    missed: dict[str, float] = {}
    last: Attempt | None = None
    fastest = iter((LATENCY_MARGIN, ROUNDING))
    tries = 0
    while tries < ROUNDS:
        try:
            allocation = prepared.allocate(budget, limits)
        except InfeasibleError as error:
            late = next((n for n in error.smallest if n in missed and n != "size"), None)
            if late is None:
                return _fewest_bytes(prepared, budget, limits, asked, error, last)
            margin = next(fastest, None)
            if margin is None:
                break
            limits[late] = error.smallest[late] * (1.0 + margin)
            allocation = prepared.allocate(budget, limits)
        built = _build(prepared, prepared.plan(allocation), asked)
        missed = missed_budgets(built.measured, asked, prepared.totals)
        tried = Attempt(predicted(allocation.decisions, prepared.totals), built)
        if not missed:
            return built if last is None else _between(prepared, budget, limits, asked, tried, last)
        last = tried
        limits = _tightened(limits, asked, built, last.expected, tries)
        tries += 1
    raise _still_missed(tries, asked, missed)


def build_least(aim: Minimising, value: float | None = None) -> Built:
    """Build the plan that loses least with at most ``value`` of a resource, and check it.

    Args:
        aim: the resource, and the bounds on others that the artifact itself meets.
        value: of the resource by prediction; None: the least that any plan has.

    Raises:
        InfeasibleError: no plan meets the bounds on the others, or the artifact misses one after all rounds.
    """
    prepared, limits = aim.prepared, dict(aim.asked)
    missed: dict[str, float] = {}
    for attempt in range(ROUNDS):
        allocation = aim.best(limits) if value is None else aim.at(value, limits)
        built = _build(prepared, prepared.plan(allocation), aim.asked)
        missed = missed_budgets(built.measured, aim.asked, prepared.totals)
        if not missed:
            return _checked(prepared, built)
        expected = predicted(allocation.decisions, prepared.totals)
        limits = _tightened(limits, aim.asked, built, expected, attempt)
    raise _still_missed(ROUNDS, aim.asked, missed)


def _still_missed(tries: int, asked: Mapping[str, float], missed: Mapping[str, float]) -> InfeasibleError:
    details = ", ".join(f"{name}: limit {asked[name]:.6g}, measured {value:.6g}" for name, value in missed.items())
    return InfeasibleError(
        f"budgets: after {tries} tries the built model still misses {details}; raise the budget, or measure on "
        "a quieter machine"
    )


def _fewest_bytes(
    prepared: Prepared,
    budget: Budget,
    limits: dict[str, float],
    asked: dict[str, float],
    error: InfeasibleError,
    last: Attempt | None,
) -> Built:
    """Build the smallest plan: where it fits, a larger one may; where it does not, its bytes are the exact number.

    Raises:
        InfeasibleError: with the bytes that the smallest artifact really takes.
    """
    if "size" not in error.smallest:
        raise error
    try:
        allocation = prepared.allocate(budget, limits | {"size": error.smallest["size"]})
    except InfeasibleError:
        raise error from None
    built = _build(prepared, prepared.plan(allocation), asked)
    expected = predicted(allocation.decisions, prepared.totals)
    if not missed_budgets(built.measured, asked, prepared.totals):
        return built if last is None else _between(prepared, budget, limits, asked, Attempt(expected, built), last)
    more = built.artifact.nbytes - int(expected["size"])
    exact = replace(prepared.totals, fixed_nbytes=prepared.totals.fixed_nbytes + more)
    replace(prepared, totals=exact).allocate(budget)
    raise error


def _between(
    prepared: Prepared, budget: Budget, limits: dict[str, float], asked: dict[str, float], low: Attempt, high: Attempt
) -> Built:
    """The largest artifact found that meets the budgets, between a plan that does and one that is too large.

    What the graph around the weights takes grows with the number of formats in a plan, so that neither the smallest
    plan's nor the largest one's overhead is that of the plan in the middle: interpolate, and try. Where the larger one
    missed something else than its bytes there is nothing between.
    """
    if "size" not in asked or high.size <= asked["size"]:
        return low.built
    for _ in range(ROUNDS):
        if asked["size"] - low.size < CLOSE * asked["size"]:
            break
        share = (asked["size"] - low.size) / (high.size - low.size)
        limit = low.expected["size"] + share * (high.expected["size"] - low.expected["size"])
        allocation = prepared.allocate(budget, limits | {"size": limit})
        built = _build(prepared, prepared.plan(allocation), asked)
        tried = Attempt(predicted(allocation.decisions, prepared.totals), built)
        if tried.expected["size"] <= low.expected["size"]:
            break
        if not missed_budgets(built.measured, asked, prepared.totals):
            low = tried
        elif tried.size > asked["size"]:
            high = tried
        else:
            break
    return low.built


def _refined(prepared: Prepared, budget: Budget, built: Built) -> Built:
    """The artifact of the refined plan, where one is asked for, changes something, and meets the budgets."""
    steps = prepared.pipeline.search.refine
    if not steps:
        return built
    asked = prepared.totals.limits(budget)
    plan = refine(prepared, budget, built.plan, steps, _with_room(prepared, built, asked))
    if plan.refinement is None or not plan.refinement.changed:
        return replace(built, plan=plan)
    again = _build(prepared, plan, asked)
    return built if missed_budgets(again.measured, asked, prepared.totals) else again


def _with_room(prepared: Prepared, built: Built, asked: Mapping[str, float]) -> dict[str, float]:
    """What a plan in place of this one may use by prediction: as much, and the bytes and operations that are left."""
    used = predicted(built.plan.decisions, prepared.totals)
    exact = used | {"size": built.measured["size"]}
    noisy = {key for key, row in prepared.totals.rows.items() if row.resource is LATENCY}
    return {n: used[n] + (0.0 if n in noisy else max(0.0, v - exact[n])) for n, v in asked.items()}


def build_plan(prepared: Prepared, plan: Plan) -> Built:
    """Apply a plan, lower the graph, measure what has a budget, and check the artifact."""
    return check(_build(prepared, plan, {}), prepared.samples)


def _build(prepared: Prepared, plan: Plan, asked: Mapping[str, float]) -> Built:
    """The same without the check; an artifact that is too large anyway is not timed either."""
    built = build(prepared.offer.cleaned, plan, prepared.samples)
    if not prepared.timed or missed_budgets(built.measured, asked, prepared.totals):
        return built
    with prepared.stages.time("measure latency"):
        latency_ms, timings = time_artifact(prepared.timed, built.artifact, built.plan.decisions)
    return replace(built, measured={**built.measured, "latency": latency_ms, **at_shapes(timings)}, timings=timings)


def missed_budgets(measured: Mapping[str, float], asked: Mapping[str, float], totals: Totals) -> dict[str, float]:
    """What was measured to be above its limit, by more than two measurements differ."""
    return {n: v for n, v in measured.items() if n in asked and totals.rows[n].resource.exceeds(v, asked[n])}


def _tightened(
    limits: dict[str, float], asked: dict[str, float], built: Built, expected: dict[str, float], attempt: int
) -> dict[str, float]:
    """Bytes: subtract what the prediction was short of. Latency: scale, since whole runs get faster or slower.

    The graph around the weights takes a little more or less in every plan; from the second attempt on, what is still
    missed is given up as well, twice as much every time.
    """
    result = dict(limits)
    for name, value in built.measured.items():
        if name not in asked or value <= asked[name]:
            continue
        if name == "size":
            more = (2**attempt - 1) * (value - asked[name])
            result[name] = min(limits[name], asked[name] - (value - expected[name]) - more)
        else:
            result[name] = min(limits[name], expected[name]) * (asked[name] / value) * (1.0 - LATENCY_MARGIN)
    return result


def _checked(prepared: Prepared, built: Built) -> Built:
    """The artifact compared with its graph, the plan with what was measured."""
    check(built, prepared.samples)
    uses = tuple(replace(u, measured=_measured(built, u)) for u in built.plan.budgets)
    return replace(built, plan=replace(built.plan, budgets=uses))


def _measured(built: Built, use: BudgetUse) -> float | None:
    """What the artifact takes; None of times that another device has."""
    return None if use.resource == LATENCY.name and not built.timed else built.measured.get(use.key)


def least_loss(prepared: Prepared) -> Allocation:
    """Without a budget every layer stays as it is, or takes what loses least where it may not.

    What one operator takes whole loses least together, under one kernel.
    """
    prices = {p.layer.name: p for p in prepared.prices}
    for names in taken_together(prepared.layers):
        prices |= {p.layer.name: p for p in _under_one_kernel([prices[name] for name in names])}
    decisions = tuple(_least(p) for p in prices.values())
    loss = math.fsum(d.chosen.loss for d in decisions)
    return Allocation(
        decisions, SolverOutcome("optimal", loss, loss, 0.0, "none: no budget", prepared.pipeline.seed), ()
    )


def _under_one_kernel(group: Sequence[LayerPrices]) -> list[LayerPrices]:
    """The layers with the options of the kernel under which all of them together lose least, of those that all have."""

    def under(kernel: str) -> list[LayerPrices]:
        return [replace(p, options=tuple(o for o in p.options if o.option.rounds_under == kernel)) for p in group]

    def loss(found: Sequence[LayerPrices]) -> float:
        return math.fsum(_least(p).chosen.loss for p in found)

    kernels = dict.fromkeys(o.option.rounds_under for p in group for o in p.options)
    possible = [found for found in map(under, kernels) if all(p.options for p in found)]
    return min(possible, key=loss)


def _least(prices: LayerPrices) -> Decision:
    if any(o.option.unchanged for o in prices.options):
        return as_original(prices)
    best = min(prices.options, key=lambda o: (o.loss, not o.option.activation.is_none, o.nbytes, o.option.name))
    return decide(prices, best.option.name)
