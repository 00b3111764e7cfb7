"""Replacement at a fixed order, exactly: which tensors leave between two of their uses.

One boolean per gap that crosses a step where not everything fits; the rows are the bytes of those steps. It is offline
caching with tensors of different sizes, as an interval program whose linear relaxation is nearly integral.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from .flow import Flow, Gap, gaps


@dataclass(frozen=True)
class Replacement:
    """Which gaps a tensor does not survive on chip.

    Attributes:
        dropped: those gaps.
        traffic_bytes: bytes written out and read back because of them.
        bound_bytes: no replacement at this order moves less.
    """

    dropped: tuple[Gap, ...]
    traffic_bytes: int
    bound_bytes: int

    @property
    def optimal(self) -> bool:
        """Whether the two meet."""
        return self.traffic_bytes == self.bound_bytes


def replace_exactly(
    flow: Flow,
    order: Sequence[int],
    budget_bytes: int,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    forbidden: Sequence[Sequence[Gap]] = (),
) -> Replacement:
    """The cheapest replacement.

    Args:
        flow: the network.
        order: operators, in an executable order.
        budget_bytes: at least ``flow.required_bytes``.
        seconds: time limit; the result is optimal unless it is reached.
        seed: of CP-SAT.
        forbidden: sets of gaps of which each must lose one more member than it has dropped: residencies that cannot be
            placed.

    Returns:
        The best that was found; where time runs out first, everything that can leave does, with a bound of 0.
    """
    every = gaps(flow, order)
    rows = _rows(flow, order, every, budget_bytes)
    model = cp_model.CpModel()
    place = {gap: index for index, gap in enumerate(every)}
    mentioned = {place[gap] for kept in forbidden for gap in kept}
    chosen = sorted({index for _, members in rows for index in members} | mentioned)
    drop = {index: model.new_bool_var("") for index in chosen}
    unit = max(math.gcd(*flow.sizes), 1)
    for excess, members in rows:
        model.add(
            cp_model.LinearExpr.weighted_sum(
                [drop[index] for index in members], [flow.sizes[every[index].tensor] // unit for index in members]
            )
            >= -(-excess // unit)
        )
    for kept in forbidden:
        model.add_at_least_one(drop[place[gap]] for gap in kept)
    model.minimize(_cost(model, flow, every, drop, unit))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.random_seed = 1, seed
    solver.parameters.max_time_in_seconds = seconds
    for variable in drop.values():
        model.add_hint(variable, True)
    if not drop:
        return Replacement((), 0, 0)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        everything = tuple(every[index] for index in chosen)
        return Replacement(everything, traffic_bytes(flow, everything), 0)
    dropped = tuple(every[index] for index in chosen if solver.boolean_value(drop[index]))
    traffic = traffic_bytes(flow, dropped)
    bound = traffic if status == cp_model.OPTIMAL else max(math.floor(solver.best_objective_bound), 0) * unit
    return Replacement(dropped, traffic, bound)


def traffic_bytes(flow: Flow, dropped: Sequence[Gap]) -> int:
    """A tensor that leaves is written once, and read back at the end of every gap that it was away."""
    written = sum(flow.write_bytes[tensor] for tensor in {gap.tensor for gap in dropped})
    return written + sum(flow.sizes[gap.tensor] for gap in dropped)


def _rows(
    flow: Flow, order: Sequence[int], every: Sequence[Gap], budget_bytes: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Steps in which too much would be on chip: the excess in bytes, and the gaps that could make room."""
    starts: list[list[int]] = [[] for _ in range(flow.steps + 1)]
    stops: list[list[int]] = [[] for _ in range(flow.steps + 1)]
    for place, gap in enumerate(every):
        starts[gap.start + 1].append(place)
        stops[gap.stop].append(place)
    open_gaps: dict[int, None] = {}
    worst: dict[tuple[int, ...], int] = {}
    total = 0
    for step, operator in enumerate(order):
        for place in stops[step]:
            del open_gaps[place]
            total -= flow.sizes[every[place].tensor]
        for place in starts[step]:
            open_gaps[place] = None
            total += flow.sizes[every[place].tensor]
        excess = flow.pinned[operator] + total - budget_bytes
        if excess > 0:
            members = tuple(open_gaps)
            worst[members] = max(excess, worst.get(members, 0))
    return [(excess, members) for members, excess in worst.items()]


def _cost(
    model: cp_model.CpModel, flow: Flow, every: Sequence[Gap], drop: dict[int, cp_model.IntVar], unit: int
) -> cp_model.LinearExprT:
    """Reads for every dropped gap; one write per tensor that has any, as a literal of its own if it has several."""
    by_tensor: dict[int, list[cp_model.IntVar]] = {}
    for place, variable in drop.items():
        by_tensor.setdefault(every[place].tensor, []).append(variable)
    terms: list[cp_model.LinearExprT] = []
    for tensor, variables in by_tensor.items():
        terms += [variable * (flow.sizes[tensor] // unit) for variable in variables]
        if flow.write_bytes[tensor]:
            left = variables[0] if len(variables) == 1 else model.new_bool_var("")
            terms.append(left * (flow.write_bytes[tensor] // unit))
            if len(variables) > 1:
                model.add_max_equality(left, variables)
    return sum(terms)
