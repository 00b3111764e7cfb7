"""Stage: prices and budgets become an allocation problem, its solution becomes decisions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.layers import shared_input_groups, taken_together
from ..ir.options import PricedOption
from ..ir.plan import BudgetUse, Decision
from ..ir.plan_findings import SolverOutcome
from ..ir.resources import SIZE
from ..schedulers import allocation
from ..targets.integer_runs import Choice
from .costs import Row, Totals
from .pricing_stage import LayerPrices
from .weights_that_stay import heaviest

SHARES = 1_000_000
"""Among options of exactly equal loss, bytes and time decide: in parts per million of the original layer's."""


@dataclass(frozen=True)
class Allocation:
    """Decisions with the solver's outcome and the budgets' use."""

    decisions: tuple[Decision, ...]
    outcome: SolverOutcome
    budgets: tuple[BudgetUse, ...]

    def bounded_by(self, bound: float) -> Allocation:
        """The same decisions among more options than they were made from, none of which allows less than ``bound``."""
        loss, bound = self.outcome.objective, min(bound, self.outcome.bound)
        gap = (loss - bound) / loss if loss > bound else 0.0
        status = self.outcome.status if gap <= self.outcome.gap else "feasible"
        return replace(self, outcome=replace(self.outcome, status=status, bound=bound, gap=gap))


def problem(
    prices: Sequence[LayerPrices],
    limits: Mapping[str, float],
    totals: Totals,
    shared: Sequence[tuple[str, ...]] = (),
    pairs: Sequence[allocation.Pair] = (),
) -> allocation.AllocationProblem:
    """The allocation problem: one budget row per limit, the model's fixed costs subtracted.

    ``shared`` are layers that read the same value: they quantize it alike, whatever else they become. Layers that one
    operator takes whole always agree. ``pairs`` are what options of two layers add together.
    """
    limited = tuple(totals.rows[key] for key in limits)
    layers = tuple(
        allocation.LayerChoices(p.layer.name, tuple(_choice(p, o, limited) for o in p.options)) for p in prices
    )
    rows = tuple(allocation.AllocationBudget(r.key, r.room(limits[r.key], prices), r.resource.step) for r in limited)
    traits = [_same_activation(prices, names) for names in shared]
    traits += [_same_kernel(prices, names) for names in _taken_together(prices)]
    between = states_between([row.states() for row in limited])
    together = with_costs(pairs, [row.pairs(prices) for row in limited], (*layers, *between))
    return allocation.AllocationProblem((*layers, *between), rows, traits=tuple(traits), pairs=together)


def states_between(costs: Sequence[Mapping[str, Mapping[str, int]]]) -> tuple[allocation.LayerChoices, ...]:
    """Values between layers and sums as layers of their own, which lose nothing; ``costs`` of their states by row."""
    names: dict[str, dict[str, None]] = {}
    for row in costs:
        for name, states in row.items():
            names.setdefault(name, {}).update(dict.fromkeys(states))
    return tuple(
        allocation.LayerChoices(name, tuple(
            allocation.Choice(state, 0.0, tuple(row.get(name, {}).get(state, 0) for row in costs)) for state in states
        ))
        for name, states in names.items()
    )  # fmt: skip


def with_costs(
    pairs: Sequence[allocation.Pair],
    costs: Sequence[Mapping[frozenset[Choice], int | None]],
    layers: Sequence[allocation.LayerChoices],
) -> tuple[allocation.Pair, ...]:
    """Pairs of losses, and what choices of two layers take together of every budget.

    Two that cannot be together take more of a budget than everything else together does.
    """
    losses = {frozenset((pair.first, pair.second)): pair for pair in pairs}
    beyond = [
        1 + sum(max(c.costs[b] for c in layer.choices) for layer in layers) + sum(cost or 0 for cost in row.values())
        for b, row in enumerate(costs)
    ]
    found: list[allocation.Pair] = []
    for ends in dict.fromkeys(itertools.chain(losses, *costs)):
        first, second = sorted(ends)
        each = zip((row.get(ends, 0) for row in costs), beyond, strict=True)
        taken = tuple(more if cost is None else cost for cost, more in each)
        loss = losses[ends].loss if ends in losses else 0.0
        found.append(allocation.Pair(first, second, loss, taken if any(taken) else ()))
    return tuple(found)


def _choice(prices: LayerPrices, option: PricedOption, rows: Sequence[Row]) -> allocation.Choice:
    original, costs = prices.original, tuple(row.steps(prices.layer.name, option) for row in rows)
    preference = round((option.nbytes / max(original.nbytes, 1) + _share(option, original)) * SHARES)
    return allocation.Choice(option.option.name, option.loss, costs, preference)


def _share(option: PricedOption, original: PricedOption) -> float:
    if option.latency_ms is None or not original.latency_ms:
        return 0.0
    return option.latency_ms / original.latency_ms


def allocate(
    prices: Sequence[LayerPrices],
    budget: Budget,
    totals: Totals,
    *,
    limits: Mapping[str, float] | None = None,
    tie_shared_inputs: bool = False,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
    seed: int = 0,
    work_limit: float = math.inf,
    pairs: Sequence[allocation.Pair] = (),
) -> Allocation:
    """Solve.

    Args:
        prices: of every layer.
        budget: as the user gave it.
        totals: of the model.
        limits: absolute limits where they differ from the budget's own (tightened after measuring the artifact).
        tie_shared_inputs: layers that read the same value quantize it alike.
        time_limit_s: of the solver.
        gap: relative gap at which the solver may stop.
        seed: of the solver.
        work_limit: of the solver, in deterministic seconds.
        pairs: what options of two layers add together, by the options' names.

    Raises:
        InfeasibleError: names the budget and the smallest feasible value, in the user's unit.
    """
    asked = totals.limits(budget)
    limits = dict(limits or asked)
    shared = _shared_inputs(prices) if tie_shared_inputs else ()
    formulated = problem(prices, limits, totals, shared, pairs)
    solution = allocation.solve(formulated, time_limit_s, relative_gap=gap, seed=seed, work_limit=work_limit)
    if solution.status in ("infeasible", "timeout"):
        raise _infeasible(solution, budget, totals, prices)
    decisions = tuple(decide(p, solution.assignment[p.layer.name]) for p in prices)
    outcome = SolverOutcome(
        solution.status,
        solution.objective or 0.0,
        solution.bound or 0.0,
        solution.gap or 0.0,
        solution.solver,
        solution.seed,
        solution.wall_s,
    )
    prices_of = {b.name: b.shadow_price for b in solution.binding}
    return Allocation(decisions, outcome, budget_use(decisions, budget, asked, totals, prices_of))


def allocate_greedily(
    prices: Sequence[LayerPrices],
    budget: Budget,
    totals: Totals,
    *,
    limits: Mapping[str, float] | None = None,
    tie_shared_inputs: bool = False,
) -> Allocation | None:
    """The same problem without a solver: from the cheapest, the step that saves most per share of the budgets, in turn.

    It proves nothing, and it does not see what options of two layers take together. None where it ends up outside of a
    budget.
    """
    asked = totals.limits(budget)
    limits = dict(limits or asked)
    shared = _shared_inputs(prices) if tie_shared_inputs else ()
    alone = replace(problem(prices, limits, totals, shared), pairs=())
    assignment = allocation.greedy_ratio(alone)
    if assignment is None:
        return None
    decisions = tuple(decide(p, assignment[p.layer.name]) for p in prices)
    if any(totals.rows[key].runs.values and totals.rows[key].predicted(decisions) > limits[key] for key in limits):
        return None
    loss = math.fsum(d.chosen.loss for d in decisions)
    outcome = SolverOutcome("feasible", loss, 0.0, 1.0 if loss else 0.0, "greedy by ratio", 0)
    return Allocation(decisions, outcome, budget_use(decisions, budget, asked, totals, dict.fromkeys(asked, 0.0)))


def _same_activation(prices: Sequence[LayerPrices], names: Sequence[str]) -> allocation.Trait:
    inside = [p for p in prices if p.layer.name in names]
    classes = {p.layer.name: tuple(o.option.activation.spelling for o in p.options) for p in inside}
    return allocation.Trait(f"the input of {', '.join(classes)}", classes)


def _same_kernel(prices: Sequence[LayerPrices], names: Sequence[str]) -> allocation.Trait:
    """Of what one operator multiplies with."""
    inside = [p for p in prices if p.layer.name in names]
    classes = {p.layer.name: tuple(o.option.rounds_under or "float" for o in p.options) for p in inside}
    return allocation.Trait(f"the operator of {', '.join(classes)}", classes)


def _taken_together(prices: Sequence[LayerPrices]) -> list[tuple[str, ...]]:
    """Layers that one operator takes whole, where it may compute with them in another way."""
    rounded = {p.layer.name for p in prices if any(not o.option.activation.is_none for o in p.options)}
    return [names for names in taken_together(p.layer for p in prices) if not rounded.isdisjoint(names)]


def _shared_inputs(prices: Sequence[LayerPrices]) -> tuple[tuple[str, ...], ...]:
    """Layers that read the same value, where there is a quantization that all of them can have."""
    groups = shared_input_groups(tuple(p.layer for p in prices))
    return tuple(names for names in groups if _common(prices, names))


def _common(prices: Sequence[LayerPrices], names: Sequence[str]) -> set[str]:
    tables = [{o.option.activation.spelling for o in p.options} for p in prices if p.layer.name in names]
    return set.intersection(*tables) if tables else set()


def decide(prices: LayerPrices, name: str) -> Decision:
    """The decision for the option of this name."""
    chosen = next(o for o in prices.options if o.option.name == name)
    front = tuple(o for o in pareto_front(prices.options) if o is not chosen)
    return Decision(
        prices.layer.name,
        prices.layer.kind,
        prices.layer.shape,
        chosen,
        prices.original,
        front,
        prices.refused,
        prices.forced,
    )


def pareto_front(options: Sequence[PricedOption]) -> list[PricedOption]:
    """Options that no other one beats in bytes, latency and loss at once, by increasing bytes."""
    kept: list[PricedOption] = []
    for option in sorted(options, key=lambda o: (o.nbytes, o.latency_ms or 0.0, o.loss)):
        if not any(_beats(other, option) for other in kept):
            kept.append(option)
    return kept


def _beats(a: PricedOption, b: PricedOption) -> bool:
    return (
        a.nbytes <= b.nbytes
        and (a.latency_ms or 0.0) <= (b.latency_ms or 0.0)
        and a.loss <= b.loss
        and a.bops <= b.bops
    )


def budget_use(
    decisions: Sequence[Decision],
    budget: Budget,
    limits: Mapping[str, float],
    totals: Totals,
    shadow: Mapping[str, float],
) -> tuple[BudgetUse, ...]:
    """What the decisions use of every budget."""
    found: list[BudgetUse] = []
    for key, limit in limits.items():
        row = totals.rows[key]
        price = shadow.get(key, 0.0) * row.resource.steps / row.resource.units_per_step
        asked, name = str(getattr(budget, row.resource.name)), row.resource.name
        found.append(BudgetUse(name, asked, limit, row.predicted(decisions), row.original, price, shape=row.shape))
    return tuple(found)


def predicted(decisions: Sequence[Decision], totals: Totals) -> dict[str, float]:
    """Predicted bytes, milliseconds and bit operations of a plan, by row."""
    return {key: row.predicted(decisions) for key, row in totals.rows.items()}


def _held(totals: Totals, prices: Sequence[LayerPrices], smallest: float) -> str:
    around = totals.fixed_nbytes - sum(weight.nbytes for weight in totals.fixed)
    return heaviest(totals.fixed, around, prices, smallest)


def _infeasible(
    solution: allocation.AllocationSolution, budget: Budget, totals: Totals, prices: Sequence[LayerPrices]
) -> InfeasibleError:
    if not solution.infeasible:
        return InfeasibleError(
            f"allocation: the solver found no assignment within its time limit (status {solution.status}); "
            "allow more time"
        )
    lines: list[str] = []
    smallest: dict[str, float] = {}
    for item in solution.infeasible:
        row = totals.rows[item.budget]
        value = row.total(item.smallest_feasible, prices)
        at = f" at {row.shape}" if row.shape else ""
        hopeless = row.resource is SIZE and totals.limits(budget)[item.budget] < totals.fixed_nbytes
        given = ""
        if item.given:
            given = f" while {' and '.join(item.given)} {'is' if len(item.given) == 1 else 'are'} met"
        lines.append(
            f"budget {row.resource.name}={getattr(budget, row.resource.name)}{at}: cannot be met{given}; the smallest "
            f"feasible value is {row.words(value)}; {_advice(prices, hopeless=hopeless)}"
            f"{_held(totals, prices, value) if row.resource is SIZE else ''}"
        )
        smallest[item.budget] = value
    return InfeasibleError("\n".join(lines), smallest)


def _advice(prices: Sequence[LayerPrices], *, hopeless: bool) -> str:
    """What would help; ``hopeless`` where all that formats cannot change holds more than the budget."""
    if prices and hopeless:
        return "raise the budget, more formats do not help"
    if prices:
        return "raise the budget, or allow more formats"
    return (
        "no weight of this model is a layer that could become smaller (instar.inspect says why under 'skipped'; layers "
        "of less than 1,024 weights stay as they are); leave the budget out"
    )
