"""Stage: prices and budgets become an allocation problem, its solution becomes decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.layers import shared_input_groups
from ..ir.options import PricedOption
from ..ir.plan import BudgetUse, Decision, SolverOutcome
from ..schedulers import allocation
from .pricing_stage import LayerPrices
from .weights_that_stay import Weight, heaviest

NANOSECONDS = 1_000_000
"""Latencies enter the solver as integers: nanoseconds."""

MBOPS = 1_000_000
"""Bit operations enter the solver in millions."""

SHARES = 1_000_000
"""Among options of exactly equal loss, bytes and time decide: in parts per million of the original layer's."""


SHOWN_UNITS: dict[str, tuple[tuple[str, float], ...]] = {
    "size": (("MB", 1e6), ("kB", 1e3), ("B", 1.0)),
    "latency": (("ms", 1.0), ("us", 1e-3)),
    "ops": (("GBOPS", 1e9), ("MBOPS", 1e6), ("BOPS", 1.0)),
}
"""Resource -> units that a budget takes, largest first."""


@dataclass(frozen=True)
class Totals:
    """What the model costs besides its layers' weights, and what all of it costs originally.

    Attributes:
        fixed_nbytes: everything in the artifact that is not a layer's weight.
        original_nbytes: the original model's constants.
        original_ms: the original model's latency, None where not measured.
        float_ms: the same with every layer in float as the target lowers it; differences per layer add to it.
        original_bops: bit operations of the original.
        fixed: the weights among what is fixed, for refusals.
    """

    fixed_nbytes: int
    original_nbytes: int
    original_ms: float | None
    original_bops: int
    float_ms: float | None = None
    fixed: tuple[Weight, ...] = ()


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


def budget_limits(budget: Budget, totals: Totals) -> dict[str, float]:
    """Absolute limits: bytes, milliseconds, bit operations."""
    originals = {
        "size": float(totals.original_nbytes),
        "latency": totals.original_ms or 0.0,
        "ops": float(totals.original_bops),
    }
    return {name: limit.absolute(originals[name]) for name, limit in budget.limits.items()}


def problem(
    prices: Sequence[LayerPrices], limits: Mapping[str, float], totals: Totals, shared: Sequence[tuple[str, ...]] = ()
) -> allocation.AllocationProblem:
    """The allocation problem: one budget row per limit, the model's fixed costs subtracted.

    ``shared`` are layers that read the same value: they quantize it alike, whatever else they become.
    """
    resources = tuple(limits)
    layers = tuple(
        allocation.LayerChoices(p.layer.name, tuple(_choice(o, p.original, resources) for o in p.options))
        for p in prices
    )
    rows = tuple(allocation.AllocationBudget(r, _row_limit(r, limits[r], prices, totals), _unit(r)) for r in resources)
    traits = tuple(_same_activation(prices, names) for names in shared)
    return allocation.AllocationProblem(layers, rows, traits=traits)


def _choice(option: PricedOption, original: PricedOption, resources: Sequence[str]) -> allocation.Choice:
    costs = {"size": option.nbytes, "latency": _nanoseconds(option.latency_ms), "ops": -(-option.bops // MBOPS)}
    spent = option.nbytes / max(original.nbytes, 1) + _share(option, original)
    preference = round(spent * SHARES)
    return allocation.Choice(option.option.name, option.loss, tuple(costs[r] for r in resources), preference)


def _share(option: PricedOption, original: PricedOption) -> float:
    if option.latency_ms is None or not original.latency_ms:
        return 0.0
    return option.latency_ms / original.latency_ms


def _nanoseconds(milliseconds: float | None) -> int:
    return math.ceil((milliseconds or 0.0) * NANOSECONDS)


def _row_limit(resource: str, limit: float, prices: Sequence[LayerPrices], totals: Totals) -> int:
    if resource == "size":
        return math.floor(limit) - totals.fixed_nbytes
    if resource == "latency":
        return math.floor((limit - (totals.float_ms or 0.0)) * NANOSECONDS) + _original_ns(prices)
    return math.floor(limit / MBOPS)


def _original_ns(prices: Sequence[LayerPrices]) -> int:
    """Nanoseconds of all layers as they are, rounded like the choices: leaving all alone costs exactly 100 %."""
    return sum(_nanoseconds(p.original.latency_ms) for p in prices)


def _unit(resource: str) -> str:
    return {"size": "bytes", "latency": "ns", "ops": "MBOPS"}[resource]


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

    Raises:
        InfeasibleError: names the budget and the smallest feasible value, in the user's unit.
    """
    asked = budget_limits(budget, totals)
    limits = dict(limits or asked)
    shared = _shared_inputs(prices) if tie_shared_inputs else ()
    formulated = problem(prices, limits, totals, shared)
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

    It proves nothing. None where it ends up outside of a budget.
    """
    asked = budget_limits(budget, totals)
    shared = _shared_inputs(prices) if tie_shared_inputs else ()
    assignment = allocation.greedy_ratio(problem(prices, dict(limits or asked), totals, shared))
    if assignment is None:
        return None
    decisions = tuple(decide(p, assignment[p.layer.name]) for p in prices)
    loss = math.fsum(d.chosen.loss for d in decisions)
    outcome = SolverOutcome("feasible", loss, 0.0, 1.0 if loss else 0.0, "greedy by ratio", 0)
    return Allocation(decisions, outcome, budget_use(decisions, budget, asked, totals, dict.fromkeys(asked, 0.0)))


def _same_activation(prices: Sequence[LayerPrices], names: Sequence[str]) -> allocation.Trait:
    inside = [p for p in prices if p.layer.name in names]
    classes = {p.layer.name: tuple(o.option.activation.spelling for o in p.options) for p in inside}
    return allocation.Trait(f"the input of {', '.join(classes)}", classes)


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
    used = predicted(decisions, totals)
    originals = {"size": totals.original_nbytes, "latency": totals.original_ms or 0.0, "ops": totals.original_bops}
    unit = {"size": 1.0, "latency": float(NANOSECONDS), "ops": 1.0 / MBOPS}
    return tuple(
        BudgetUse(
            name,
            str(getattr(budget, name)),
            limits[name],
            used[name],
            originals[name],
            shadow.get(name, 0.0) * unit[name],
        )
        for name in limits
    )


def predicted(decisions: Sequence[Decision], totals: Totals) -> dict[str, float]:
    """Predicted bytes, milliseconds and bit operations of a plan."""
    size = totals.fixed_nbytes + sum(d.chosen.nbytes for d in decisions)
    change = sum((d.chosen.latency_ms or 0.0) - (d.original.latency_ms or 0.0) for d in decisions)
    return {
        "size": float(size),
        "latency": (totals.float_ms or 0.0) + change,
        "ops": float(sum(d.chosen.bops for d in decisions)),
    }


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
        value = _total(item.budget, item.smallest_feasible, totals, prices)
        given = ""
        if item.given:
            given = f" while {' and '.join(item.given)} {'is' if len(item.given) == 1 else 'are'} met"
        lines.append(
            f"budget {item.budget}={getattr(budget, item.budget)}: cannot be met{given}; the smallest feasible value "
            f"is {_in_user_units(item.budget, value, totals)}; {_advice(prices)}"
            f"{heaviest(totals.fixed, prices, value) if item.budget == 'size' else ''}"
        )
        smallest[item.budget] = value
    return InfeasibleError("\n".join(lines), smallest)


def _advice(prices: Sequence[LayerPrices]) -> str:
    if prices:
        return "raise the budget, or allow more formats"
    return (
        "no weight of this model is a layer that could become smaller (instar.inspect says why under 'skipped'; layers "
        "of less than 1,024 weights stay as they are); leave the budget out"
    )


def _total(resource: str, value: int, totals: Totals, prices: Sequence[LayerPrices]) -> float:
    """The whole model's bytes, milliseconds or bit operations for what the layers use in the solver's units."""
    if resource == "size":
        return float(value + totals.fixed_nbytes)
    if resource == "latency":
        return (totals.float_ms or 0.0) + (value - _original_ns(prices)) / NANOSECONDS
    return float(value * MBOPS)


def _in_user_units(resource: str, value: float, totals: Totals) -> str:
    """Rounded up, so that what is printed is feasible when it is given back."""
    originals = {"size": totals.original_nbytes, "latency": totals.original_ms or 0.0, "ops": totals.original_bops}
    units = SHOWN_UNITS[resource]
    unit, factor = next((u for u in units if value >= u[1]), units[-1])
    share = f" ({math.ceil(1000.0 * value / originals[resource] - 1e-9) / 10:g}%)" if originals[resource] > 0 else ""
    return f"{_rounded_up(value / factor)}{unit}{share}"


def _rounded_up(value: float, digits: int = 4) -> str:
    if value <= 0.0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10.0**decimals - 1e-9) / 10.0**decimals:.{max(decimals, 0)}f}"
