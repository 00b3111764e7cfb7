"""The exact part: CP-SAT on the options that can still matter.

CP-SAT computes in 64-bit integers, losses are longer. So the objective is the *difference* to a reference assignment,
divided by a power of two and rounded down. Rounding down keeps every bound valid, and since the reference itself has
difference zero exactly, "no assignment is below zero" proves that the reference is optimal without any tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ortools.sat.python import cp_model

from ...ir.errors import ScheduleError
from .dominance import Option
from .effort import CoreResult, Effort

OBJECTIVE_BITS = 50
"""Size of the largest objective value: doubles, in which CP-SAT reports bounds, hold 53 bits exactly."""

SUBSOLVERS = ("default_lp", "reduced_costs", "max_lp", "pseudo_costs", "quick_restart", "core")
"""What several workers run in turns; the full portfolio takes seconds to start, and most of it is for scheduling."""


class _StopWhenGood(cp_model.CpSolverSolutionCallback):
    """Ends the search at the first solution that is as good as was asked for."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target

    def on_solution_callback(self) -> None:
        """Called by CP-SAT for every better solution."""
        if self.objective_value <= self._target:
            self.stop_search()


def solve_core(
    layers: Sequence[Sequence[Option]], limits: Sequence[int], reference: Sequence[int], target: int, effort: Effort
) -> CoreResult:
    """Minimise the summed loss over the given options.

    Args:
        layers: options per layer, at least one each.
        limits: one per cost.
        reference: loss per layer that differences are taken to.
        target: a summed difference that is good enough to stop at.
        effort: time limits, seed and workers.
    """
    differences = [[option.loss - base for option in options] for options, base in zip(layers, reference, strict=True)]
    unit = _unit(differences)
    model = cp_model.CpModel()
    literals = [[model.new_bool_var("") for _ in options] for options in layers]
    for row in literals:
        model.add_exactly_one(row)
    flat = [literal for row in literals for literal in row]
    for position, limit in enumerate(limits):
        _add_budget(model, flat, layers, position, limit)
    values = [[value // unit for value in row] for row in differences]
    model.minimize(cp_model.LinearExpr.weighted_sum(flat, [value for row in values for value in row]))
    _hint_reference(model, literals, differences)
    solver = configured(effort)
    status = solver.solve(model, _StopWhenGood(target // unit))
    if status == cp_model.MODEL_INVALID:
        raise ScheduleError(
            f"allocation: expected a model that CP-SAT accepts, found {model.validate()!r}; report this"
        )
    if status == cp_model.INFEASIBLE:
        return CoreResult("infeasible", (), 0)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return CoreResult("unknown", (), _least(values) * unit)
    picks = tuple(next(i for i, literal in enumerate(row) if solver.boolean_value(literal)) for row in literals)
    total = sum(row[pick] for row, pick in zip(values, picks, strict=True))
    if status == cp_model.OPTIMAL:
        return CoreResult("optimal", picks, total * unit)
    return CoreResult("feasible", picks, _reported_bound(solver, total, _least(values)) * unit)


def _least(values: Sequence[Sequence[int]]) -> int:
    return sum(min(row) for row in values)


def _reported_bound(solver: cp_model.CpSolver, total: int, least: int) -> int:
    """CP-SAT's own bound, unless it may be the zero that CP-SAT reports when it had no time to find one."""
    bound = solver.best_objective_bound
    return max(least, math.floor(bound)) if bound < min(total, 0) else least


def _unit(differences: Sequence[Sequence[int]]) -> int:
    """Common divisor of all differences, coarsened by a power of two until the objective fits."""
    unit = max(math.gcd(*(value for row in differences for value in row)), 1)
    largest = sum(max(abs(value) for value in row) for row in differences) // unit
    return unit << max(0, largest.bit_length() - OBJECTIVE_BITS)


def _add_budget(
    model: cp_model.CpModel,
    literals: Sequence[cp_model.IntVar],
    layers: Sequence[Sequence[Option]],
    position: int,
    limit: int,
) -> None:
    smallest = [min(option.costs[position] for option in options) for options in layers]
    extra = [o.costs[position] - least for options, least in zip(layers, smallest, strict=True) for o in options]
    divisor = max(math.gcd(*extra), 1)
    room = (limit - sum(smallest)) // divisor
    model.add(cp_model.LinearExpr.weighted_sum(literals, [value // divisor for value in extra]) <= room)


def _hint_reference(
    model: cp_model.CpModel, literals: Sequence[Sequence[cp_model.IntVar]], differences: Sequence[Sequence[int]]
) -> None:
    for row, values in zip(literals, differences, strict=True):
        chosen = values.index(0) if 0 in values else -1
        for place, literal in enumerate(row):
            model.add_hint(literal, place == chosen)


def configured(effort: Effort) -> cp_model.CpSolver:
    """CP-SAT that gives the same answers in every run."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = effort.workers
    if effort.workers > 1:
        solver.parameters.interleave_search = True
        solver.parameters.use_lns = False
        solver.parameters.use_feasibility_jump = False
        solver.parameters.subsolvers.extend(SUBSOLVERS)
    solver.parameters.random_seed = effort.seed
    solver.parameters.max_time_in_seconds = max(effort.seconds, 0.0001)
    solver.parameters.max_deterministic_time = effort.steps
    return solver
