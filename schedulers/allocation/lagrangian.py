"""Prices of the budgets from the linear relaxation, and an exact lower bound from any prices.

GLOP solves the relaxation in floating point. Only its dual prices are used, and any prices that are not negative give
a valid lower bound: ``sum_i min_j (loss_ij + price . cost_ij) - price . limit`` (Fisher, Management Science 27, 1981).
That sum is evaluated in integers, so the bound carries no rounding error however inaccurate the prices are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from ortools.math_opt.python import mathopt

from .dominance import Option

NOISE = 1e-9
"""A price whose budget matters less than this fraction of the loss is numerical noise, and zero."""


@dataclass(frozen=True)
class Relaxation:
    """``prices`` per budget and ``bound`` in loss units, and every option's distance from the best of its layer."""

    prices: tuple[int, ...]
    bound: int
    reduced: tuple[tuple[int, ...], ...]


def relax(layers: Sequence[Sequence[Option]], limits: Sequence[int], time_limit_s: float) -> Relaxation:
    """Prices, bound and reduced losses; with all prices zero if the relaxation has no solution.

    An option whose reduced loss exceeds ``objective - bound`` is in no assignment better than ``objective``.
    """
    return price_out(layers, limits, budget_prices(layers, limits, time_limit_s))


def price_out(layers: Sequence[Sequence[Option]], limits: Sequence[int], prices: tuple[int, ...]) -> Relaxation:
    """The exact Lagrangian bound and reduced losses for given prices (not negative)."""
    bound = -sum(price * limit for price, limit in zip(prices, limits, strict=True))
    reduced: list[tuple[int, ...]] = []
    for options in layers:
        priced = [option.loss + sum(p * c for p, c in zip(prices, option.costs, strict=True)) for option in options]
        best = min(priced)
        bound += best
        reduced.append(tuple(value - best for value in priced))
    return Relaxation(prices, bound, tuple(reduced))


def budget_prices(layers: Sequence[Sequence[Option]], limits: Sequence[int], time_limit_s: float) -> tuple[int, ...]:
    """Duals of the budget rows in loss units per unit of the budget, rounded to integers; zeros if there are none."""
    unpriced = tuple(0 for _ in limits)
    scale = max((option.loss for options in layers for option in options), default=0)
    if not any(limit > 0 for limit in limits) or not scale:
        return unpriced
    model = mathopt.Model(name="multiple-choice knapsack, relaxed")
    rows = [model.add_linear_constraint(ub=1.0) for _ in limits]
    terms: list[mathopt.LinearTypes] = []
    for options in layers:
        pick = model.add_linear_constraint(lb=1.0, ub=1.0)
        for option in options:
            share = model.add_variable(lb=0.0)
            pick.set_coefficient(share, 1.0)
            terms.append(share * (option.loss / scale))
            for row, cost, limit in zip(rows, option.costs, limits, strict=True):
                row.set_coefficient(share, cost / max(limit, 1))
    model.minimize(mathopt.fast_sum(terms))
    parameters = mathopt.SolveParameters(time_limit=timedelta(seconds=max(time_limit_s, 0.01)), threads=1)
    result = mathopt.solve(model, mathopt.SolverType.GLOP, params=parameters)
    if not result.has_dual_feasible_solution() or not result.has_primal_feasible_solution():
        return unpriced
    floor = NOISE * max(result.objective_value(), 0.0)
    duals = [-value for value in result.dual_values(rows)]
    return tuple(
        _scaled(dual, scale) // max(limit, 1) if dual > floor else 0 for dual, limit in zip(duals, limits, strict=True)
    )


def _scaled(value: float, scale: int) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * scale // denominator
