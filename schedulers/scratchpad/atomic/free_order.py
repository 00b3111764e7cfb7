"""Order and residency together, exactly, for small graphs.

A position for every operator; for every tensor a segment on chip that starts where it is made, and optional ones that
start where it is read back. Every use lies in one segment; a cumulative constraint holds the budget (the retention
intervals of MOCCASIN, arXiv 2304.14463, with a read from off-chip in place of recomputation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from .flow import Flow, Gap, positions, touched

MOST_SEGMENTS = 6
"""Optional segments of a tensor; one with more uses makes the bound of this model invalid for it."""


@dataclass(frozen=True)
class FreeOrder:
    """The order that was found, and what no order with any replacement can be below."""

    order: tuple[int, ...]
    bound_bytes: int


def solve_free_order(
    flow: Flow,
    budget_bytes: int,
    start: Sequence[int],
    dropped: Sequence[Gap],
    bound_bytes: int,
    *,
    seconds: float,
    workers: int,
    seed: int,
) -> FreeOrder:
    """Search from a known schedule.

    Args:
        flow: the network.
        budget_bytes: at least ``flow.required_bytes``.
        start: an executable order.
        dropped: gaps in which it evicts, the hint for the residency.
        bound_bytes: a bound that is known already.
        seconds: time limit.
        workers: of CP-SAT; the result follows from the seed where time does not run out.
        seed: of CP-SAT.
    """
    model = _Model(flow, budget_bytes, bound_bytes)
    model.hint(start, dropped)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.random_seed = workers, seed
    solver.parameters.interleave_search = workers > 1
    solver.parameters.max_time_in_seconds = max(seconds, 0.01)
    status = solver.solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return FreeOrder(tuple(start), bound_bytes)
    at = [solver.value(position) for position in model.position]
    order = tuple(sorted(range(flow.steps), key=at.__getitem__))
    exact = all(len(uses) <= MOST_SEGMENTS for uses in flow.uses)
    found = math.ceil(solver.best_objective_bound - 1e-6) * model.unit if exact else 0
    return FreeOrder(order, max(bound_bytes, found))


class _Model:
    def __init__(self, flow: Flow, budget: int, bound: int) -> None:
        self.model = cp_model.CpModel()
        self.unit = max(math.gcd(*flow.sizes, *flow.write_bytes), 1)
        self._flow = flow
        self.position = self._positions()
        self._literals: list[list[cp_model.IntVar]] = []
        self._choices: dict[tuple[int, int], list[cp_model.IntVar]] = {}
        self._starts: list[list[cp_model.IntVar]] = []
        self._stops: list[list[cp_model.IntVar]] = []
        self._intervals: list[cp_model.IntervalVar] = []
        self._demands: list[int] = []
        self._costs: list[cp_model.LinearExprT] = []
        for tensor in range(len(flow.sizes)):
            self._tensor(tensor)
        for operator in range(flow.steps):
            extra = flow.pinned[operator] - sum(flow.sizes[t] for t in {*flow.reads[operator], flow.makes[operator]})
            if extra:
                self._intervals.append(self.model.new_fixed_size_interval_var(self.position[operator], 1, ""))
                self._demands.append(extra)
        self.model.add_cumulative(self._intervals, self._demands, budget)
        self.model.add(sum(self._costs) >= -(-bound // self.unit))
        self.model.minimize(sum(self._costs))

    def _positions(self) -> list[cp_model.IntVar]:
        flow, steps = self._flow, self._flow.steps
        before = [0] * steps
        after = [0] * steps
        for operator in range(steps):
            for earlier in flow.predecessors(operator):
                before[operator] |= before[earlier] | 1 << earlier
        for operator in reversed(range(steps)):
            for later in flow.successors(operator):
                after[operator] |= after[later] | 1 << later
        position = [
            self.model.new_int_var(before[o].bit_count(), steps - 1 - after[o].bit_count(), "") for o in range(steps)
        ]
        self.model.add_all_different(position)
        for operator in range(steps):
            for earlier in flow.predecessors(operator):
                self.model.add(position[earlier] < position[operator])
        return position

    def _tensor(self, tensor: int) -> None:
        flow, model = self._flow, self.model
        count = 1 + min(len(flow.uses[tensor]), MOST_SEGMENTS) if flow.producer[tensor] >= 0 else 1
        if flow.producer[tensor] < 0:
            count = max(min(len(flow.uses[tensor]), MOST_SEGMENTS), 1)
        if not flow.uses[tensor] and flow.producer[tensor] < 0:
            count = 0
        present = [model.new_bool_var("") for _ in range(count)]
        starts = [model.new_int_var(0, flow.steps, "") for _ in range(count)]
        stops = [model.new_int_var(0, flow.steps, "") for _ in range(count)]
        self._literals.append(present)
        self._starts.append(starts)
        self._stops.append(stops)
        for place in range(count):
            length = model.new_int_var(0, flow.steps, "")
            self._intervals.append(
                model.new_optional_interval_var(starts[place], length, stops[place], present[place], "")
            )
            self._demands.append(flow.sizes[tensor])
            if place:
                model.add_implication(present[place], present[place - 1])
                model.add(stops[place - 1] <= starts[place]).only_enforce_if(present[place])
        if count:
            model.add(present[0] == 1)
        if flow.producer[tensor] >= 0:
            made = self.position[flow.producer[tensor]]
            model.add(starts[0] == made)
            model.add(stops[0] > made)
        for use in flow.uses[tensor]:
            self._use(tensor, use, present, starts, stops)
        self._cost(tensor, present)

    def _use(
        self,
        tensor: int,
        use: int,
        present: list[cp_model.IntVar],
        starts: list[cp_model.IntVar],
        stops: list[cp_model.IntVar],
    ) -> None:
        chosen = [self.model.new_bool_var("") for _ in present]
        self._choices[tensor, use] = chosen
        self.model.add_exactly_one(chosen)
        for literal, there, start, stop in zip(chosen, present, starts, stops, strict=True):
            self.model.add_implication(literal, there)
            self.model.add(start <= self.position[use]).only_enforce_if(literal)
            self.model.add(stop > self.position[use]).only_enforce_if(literal)

    def _cost(self, tensor: int, present: list[cp_model.IntVar]) -> None:
        again = present[1:]
        self._costs += [literal * (self._flow.sizes[tensor] // self.unit) for literal in again]
        if again and self._flow.write_bytes[tensor]:
            # A later segment implies the one before it, so the first says whether there are any.
            self._costs.append(again[0] * (self._flow.write_bytes[tensor] // self.unit))

    def hint(self, order: Sequence[int], dropped: Sequence[Gap]) -> None:
        """Suggest an order and its residency."""
        at = positions(order)
        left = {(gap.tensor, gap.start) for gap in dropped}
        for operator, step in enumerate(at):
            self.model.add_hint(self.position[operator], step)
        for tensor, literals in enumerate(self._literals):
            groups: list[list[int]] = []
            for point in touched(self._flow, at, tensor):
                if not groups or (tensor, groups[-1][-1]) in left:
                    groups.append([])
                groups[-1].append(point)
            for place, literal in enumerate(literals):
                self.model.add_hint(literal, place < len(groups))
                if place < len(groups):
                    self.model.add_hint(self._starts[tensor][place], groups[place][0])
                    self.model.add_hint(self._stops[tensor][place], groups[place][-1] + 1)
            for use in self._flow.uses[tensor]:
                for place, choice in enumerate(self._choices[tensor, use]):
                    self.model.add_hint(choice, place < len(groups) and at[use] in groups[place])
