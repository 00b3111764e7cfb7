"""Prices of the budgets: the dual of the linear relaxation, found on the Lagrangian function.

``D(prices) = sum_i min_j (loss_ij + prices . cost_ij) - prices . limit`` is concave and piecewise linear, and its
maximum is the optimum of the linear relaxation (Fisher, Management Science 27, 1981). It is climbed by cutting planes
(Kelley, J. SIAM 8, 1960): every evaluation gives a plane above it, and the next prices are where the lowest of all
planes is highest. For one budget that is the intersection of two lines, and the search is finite and exact up to
rounding. For several, GLOP solves the small program; the planes are shifted to the best point and scaled by what is
still open, so that losses may differ by many decades.

The prices need not be exact: any that are not negative give a valid bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .table import Floats, Integers, Table

MOST_PLANES = 120
"""Evaluations with several budgets."""

CLOSE = 1e-9
"""Relative distance of the planes from the function at which the climb ends."""

LARGE = 1e6
"""Box of the scaled program."""

NOISE = 1e-9
"""A price whose budget matters less than this fraction of the loss is numerical noise, and zero."""


@dataclass(frozen=True)
class Plane:
    """``value + (prices - at) . slope`` is nowhere below the function."""

    at: Floats
    value: float
    slope: Floats


def dual_prices(table: Table) -> Floats:
    """Loss units per unit of each budget, not negative: ``[budgets]`` float64."""
    if len(table.room) == 1:
        return _one_budget(table)
    prices = _many_budgets(table)
    worth = prices * np.maximum(table.room, 1)
    return np.where(worth > NOISE * max(worth.sum(), 0.0), prices, 0.0)


def _touch(table: Table, prices: Floats) -> Plane:
    """The plane that touches the function at the prices."""
    value = table.value(prices)
    picks = table.picks(value)
    slope = table.cost[picks].sum(axis=0) - table.room
    return Plane(prices, float(value[picks].sum() - prices @ table.room), slope.astype(np.float64))


def _one_budget(table: Table) -> Floats:
    """Two lines, one rising and one falling, meet at the next price."""
    rising = _touch(table, np.zeros(1))
    if rising.slope[0] <= 0:
        return np.zeros(1)
    cheapest = table.picks(table.cost[:, 0] + _tie_break(table.loss))
    falling = Plane(np.zeros(1), float(table.loss[cheapest].sum()), -table.room.astype(np.float64))
    price = np.zeros(1)
    for _ in range(MOST_PLANES):
        at_zero = [plane.value - float(plane.at @ plane.slope) for plane in (rising, falling)]
        meeting = (at_zero[1] - at_zero[0]) / (rising.slope[0] - falling.slope[0])
        if not meeting > price[0] and price[0] > 0 and rising.at[0] == price[0]:
            break
        price = np.array([max(meeting, 0.0)])
        plane = _touch(table, price)
        height = at_zero[0] + meeting * rising.slope[0]
        if plane.slope[0] == 0 or plane.value >= height - CLOSE * CLOSE * abs(height):
            break
        if plane.slope[0] > 0:
            rising = plane
        else:
            falling = plane
    return price


def _tie_break(loss: Floats) -> Floats:
    """Below one half and growing with the loss, so that of equally cheap options the better one is picked."""
    return loss / (2.0 * max(float(loss.max()), 1e-300) + 1e-300) * 0.5


def _many_budgets(table: Table) -> Floats:
    """Kelley's method on the function of a table."""
    largest = 2.0 * float(np.maximum.reduceat(table.loss, table.first[:-1]).sum())
    return climb(lambda prices: _touch(table, prices), table.room, _loss_range(table), largest)


def climb(
    touch: Callable[[Floats], Plane],
    room: Integers,
    open_: float,
    largest: float,
    start: Floats | None = None,
    close: float = CLOSE,
) -> Floats:
    """Kelley's method: the best point that was evaluated.

    Args:
        touch: the plane that touches the function at prices.
        room: ``[budgets]`` int64; sizes of the budgets, which scale the steps.
        open_: how far the function rises above its value without prices at most.
        largest: a value from which on there is no assignment.
        start: prices that may be good, evaluated first.
        close: relative distance of the planes from the function at which the climb ends.
    """
    best = touch(np.zeros(len(room)))
    if (best.slope <= 0).all():
        return best.at
    planes = [best]
    if start is not None and start.any():
        planes.append(touch(start))
        best = max(planes, key=lambda plane: plane.value)
    while len(planes) < MOST_PLANES and open_ > close * abs(best.value) and best.value <= largest:
        found = _highest(planes, best, open_, np.maximum(room, 1).astype(np.float64))
        if found is None:
            break
        plane = touch(found[0])
        planes.append(plane)
        if plane.value > best.value:
            best = plane
        open_ = min(open_, found[1])
    return best.at


def _loss_range(table: Table) -> float:
    largest = np.maximum.reduceat(table.loss, table.first[:-1]).sum()
    return float(largest - table.least(table.loss).sum())


def _highest(planes: list[Plane], best: Plane, unit: float, room: Floats) -> tuple[Floats, float] | None:
    """Where the lowest plane is highest, and how far that is above the best value; ``unit`` scales the program."""
    from ortools.math_opt.python import mathopt  # one budget needs none

    model = mathopt.Model(name="lowest plane")
    height = model.add_variable(lb=-LARGE, ub=LARGE)
    steps = [
        model.add_variable(lb=max(-price * size / unit, -LARGE), ub=LARGE)
        for price, size in zip(best.at, room, strict=True)
    ]
    for plane in planes:
        over = (_at(plane, best.at) - best.value) / unit
        slopes = zip(steps, plane.slope / room, strict=True)
        model.add_linear_constraint(height - mathopt.fast_sum(step * slope for step, slope in slopes) <= over)
    model.maximize(height)
    result = mathopt.solve(model, mathopt.SolverType.GLOP, params=mathopt.SolveParameters(threads=1))
    if not result.has_primal_feasible_solution():
        return None
    moved = np.array(result.variable_values(steps)) * unit / room
    return np.maximum(best.at + moved, 0.0), max(float(result.objective_value()), 0.0) * unit


def _at(plane: Plane, prices: Floats) -> float:
    return plane.value + float((prices - plane.at) @ plane.slope)
