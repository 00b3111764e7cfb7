"""Pairs for CP-SAT: every product of two choices is a literal of its own.

``z = x and y``, with the rows ``sum_k z_jk <= x_j`` of the local polytope, which are what makes its relaxation strong.
Choices of a layer that add the same with every choice of another, such as all that are computed in integers, share
their products with it: what counts is whether one of them is taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ortools.sat.python import cp_model

from .core import configured
from .effort import Effort
from .minimise import Limits
from .pairwise_terms import Block, Found, Terms, blocks_of
from .problem import AllocationProblem
from .ties import restrictions

OBJECTIVE_BITS = 56
"""Size of the largest objective value."""

REPORTED_BITS = 5
"""Bits of that which the double that CP-SAT reports a bound in may lack."""

Literals = Sequence[Mapping[int, cp_model.IntVar]]
"""Per layer, place -> whether it is taken."""


def minimise_model(problem: AllocationProblem, terms: Terms, stop: Limits, hint: tuple[int, ...] | None) -> Found:
    """The least loss over the assignments that meet the budgets.

    Args:
        problem: names the ties and traits.
        terms: everything else.
        stop: time limit, gap, seed, workers.
        hint: an assignment to begin with.
    """
    model = cp_model.CpModel()
    literals = [{place: model.new_bool_var("") for place in row} for row in terms.allowed]
    for row in literals:
        model.add_exactly_one(row.values())
    _add_restrictions(model, problem, literals)
    blocks = blocks_of(terms.pair_loss, terms.pair_costs, [tuple(row) for row in literals], len(terms.limits))
    products = _add_products(model, literals, blocks)
    for budget in range(len(terms.limits)):
        _add_budget(model, terms, literals, list(zip(blocks, products, strict=True)), budget)
    least = [min(row[place] for place in left) for row, left in zip(terms.loss, terms.allowed, strict=True)]
    values = [
        (literal, terms.loss[i][place] - least[i]) for i, row in enumerate(literals) for place, literal in row.items()
    ]
    values += [(z, block.value) for block, z in zip(blocks, products, strict=True) if block.value]
    unit = _unit([value for _, value in values])
    scaled = [(z, value // unit) for z, value in values]
    model.minimize(cp_model.LinearExpr.weighted_sum([z for z, _ in scaled], [value for _, value in scaled]))
    for i, row in enumerate(literals if hint is not None else []):
        for place, literal in row.items():
            model.add_hint(literal, place == (hint or ())[i])
    places, bound, infeasible = _solved(model, literals, scaled, stop)
    return Found(places, sum(least) + bound * unit, infeasible)


def _solved(
    model: cp_model.CpModel, literals: Literals, terms: Sequence[tuple[cp_model.IntVar, int]], stop: Limits
) -> tuple[tuple[int, ...] | None, int, bool]:
    """Places, a bound in units of the objective, and whether there is no assignment."""
    solver = configured(Effort(stop.remaining_s(), stop.work, stop.seed, stop.workers))
    solver.parameters.relative_gap_limit = stop.relative_gap
    status = solver.solve(model)
    least = sum(min(value, 0) for _, value in terms)
    if status == cp_model.INFEASIBLE:
        return None, 0, True
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, least, False
    places = tuple(next(p for p, z in row.items() if solver.boolean_value(z)) for row in literals)
    total = sum(value for z, value in terms if solver.boolean_value(z))
    reported = math.floor(solver.best_objective_bound) - (1 << REPORTED_BITS)
    proven = status == cp_model.OPTIMAL and not stop.relative_gap
    return places, total if proven else max(least, min(reported, total)), False


def _add_restrictions(model: cp_model.CpModel, problem: AllocationProblem, literals: Literals) -> None:
    """One literal per class: in every layer, exactly the choices of the class make it up."""
    position = {layer.name: i for i, layer in enumerate(problem.layers)}
    for rule in restrictions(problem):
        names = sorted({name for classes in rule.values() for name in classes})
        taken = {name: model.new_bool_var("") for name in names}
        for layer, classes in rule.items():
            row = literals[position[layer]]
            for name, literal in taken.items():
                model.add(sum(z for place, z in row.items() if classes[place] == name) == literal)


def _add_budget(
    model: cp_model.CpModel,
    terms: Terms,
    literals: Literals,
    products: Sequence[tuple[Block, cp_model.IntVar]],
    budget: int,
) -> None:
    least = [min(terms.costs[i][place][budget] for place in row) for i, row in enumerate(literals)]
    costs = [
        (z, terms.costs[i][place][budget] - least[i]) for i, row in enumerate(literals) for place, z in row.items()
    ]
    costs += [(z, block.costs[budget]) for block, z in products if block.costs[budget]]
    room = terms.limits[budget] - sum(least)
    model.add(cp_model.LinearExpr.weighted_sum([z for z, _ in costs], [cost for _, cost in costs]) <= room)


def _add_products(
    model: cp_model.CpModel, literals: Sequence[Mapping[int, cp_model.IntVar]], blocks: Sequence[Block]
) -> list[cp_model.IntVar]:
    """``z = x and y`` for every block, where ``x`` says that one of its choices of the first layer is taken."""
    one_of: dict[tuple[int, tuple[int, ...]], cp_model.IntVar] = {}

    def taken(layer: int, places: tuple[int, ...]) -> cp_model.IntVar:
        if len(places) == 1:
            return literals[layer][places[0]]
        if (layer, places) not in one_of:
            one_of[layer, places] = model.new_bool_var("")
            model.add(sum(literals[layer][p] for p in places) == one_of[layer, places])
        return one_of[layer, places]

    products: list[cp_model.IntVar] = []
    lines: dict[tuple[int, tuple[int, ...], int], list[tuple[cp_model.IntVar, int]]] = defaultdict(list)
    for block in blocks:
        x, y, z = taken(block.i, block.firsts), taken(block.j, block.seconds), model.new_bool_var("")
        model.add_bool_or([x.negated(), y.negated(), z])
        products.append(z)
        lines[block.i, block.firsts, block.j].append((z, len(block.seconds)))
        lines[block.j, block.seconds, block.i].append((z, len(block.firsts)))
    for (layer, places, other), together in lines.items():
        some, own = sum(z for z, _ in together), taken(layer, places)
        model.add(some == own if sum(count for _, count in together) == len(literals[other]) else some <= own)
    return products


def _unit(values: Sequence[int]) -> int:
    """Common divisor of all values, coarsened by a power of two until their sum fits."""
    unit = max(math.gcd(*values), 1)
    largest = sum(map(abs, values)) // unit
    return unit << max(0, largest.bit_length() - OBJECTIVE_BITS)
