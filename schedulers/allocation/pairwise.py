"""Losses and costs of two layers' choices together: a quadratic multiple-choice knapsack.

A :class:`~.problem.Pair` adds to loss and costs where both of its choices are taken, which makes the problem
``min x^T G x`` over one choice per layer, as in CLADO (arXiv 2307.05657). CLADO projects the measured ``G`` to a
positive semidefinite matrix so that a quadratic solver accepts it. That is a trap: the projected problem is another
one, whose optimum need not be one of the measured losses, and even a semidefinite ``G`` has a weak continuous
relaxation, because a layer that is half this and half that escapes the products. Nothing is projected here. Every
product of two choices is a literal of its own, exactly as large as the product: ``z = x and y``, with the rows
``sum_k z_jk <= x_j`` of the local polytope, which are what makes its relaxation strong. Choices of a layer that add the
same with every choice of another, such as all that are computed in integers, share their products with it: what counts
is whether one of them is taken. Entries may have any sign.

CP-SAT proves small problems. Where it does not, the bound is the better one of its own and of the problem without
products, in which every pair of layers contributes its smallest entry. The first assignment is that problem's, improved
layer by layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from ortools.sat.python import cp_model

from .core import configured
from .dominance import Option, reduce_problem
from .effort import Effort
from .infeasibility import Least, explain
from .minimise import Limits, Outcome, minimise
from .pairwise_terms import Block, Terms, blocks_of, scale_of, terms_of, without_pairs
from .prices import dual_prices
from .problem import AllocationProblem, Infeasibility
from .table import tabulate
from .ties import restrictions

OBJECTIVE_BITS = 56
"""Size of the largest objective value."""

REPORTED_BITS = 5
"""Bits of that which the double that CP-SAT reports a bound in may lack."""

PASSES = 20
"""Rounds over all layers while an assignment is improved."""


@dataclass(frozen=True)
class PairOutcome:
    """Layer -> place of its choice (``None`` without an assignment), loss and bound in whole units, local prices."""

    places: tuple[int, ...] | None
    objective: int
    bound: int
    prices: tuple[Fraction, ...]
    infeasible: bool = False


def solve_pairs(problem: AllocationProblem, stop: Limits) -> PairOutcome:
    """The assignment with the least loss, pairs included, and a bound for it."""
    terms = terms_of(problem)
    bound, start = _relaxed(problem, terms, stop)
    known = None if start is None else _improved(problem, terms, start)
    if known is not None and terms.total(known) <= bound + math.floor(abs(bound) * stop.relative_gap):
        return _outcome(terms, known, bound)
    found = Model(problem, terms).minimise(terms.loss, terms.pair_loss, range(len(terms.limits)), stop, known)
    if found.infeasible:
        return PairOutcome(None, 0, 0, (Fraction(0),) * len(terms.limits), infeasible=True)
    best = min((p for p in (known, found.places) if p is not None), key=terms.total, default=None)
    bound = max(bound, found.bound)
    if best is None:
        return PairOutcome(None, 0, bound, (Fraction(0),) * len(terms.limits))
    return _outcome(terms, best, bound)


def explain_pairs(problem: AllocationProblem, stop: Limits) -> tuple[Infeasibility, ...]:
    """The budgets that cannot be met, with pairs counted."""
    terms = terms_of(problem)
    model_of = Model(problem, terms)
    exact = replace(stop, relative_gap=0.0)

    def least(budget: int, held: Sequence[int]) -> Least | None:
        costs = [[choice[budget] for choice in row] for row in terms.costs]
        pairs = {key: cost[budget] for key, cost in terms.pair_costs.items()}
        found = model_of.minimise(costs, pairs, held, exact, None)
        if found.places is None:
            return None
        value = sum(row[place] for row, place in zip(costs, found.places, strict=True))
        value += sum(cost for key, cost in pairs.items() if terms.taken(key, found.places))
        return Least(value, found.bound >= value)

    return explain(problem, least)


def _outcome(terms: Terms, places: tuple[int, ...], bound: int) -> PairOutcome:
    objective = terms.total(places)
    return PairOutcome(places, objective, min(bound, objective), _local_prices(terms, places))


def _relaxed(problem: AllocationProblem, terms: Terms, stop: Limits) -> tuple[int, tuple[int, ...] | None]:
    """A bound without products, and the assignment that has it, if it meets the budgets with them."""
    relaxed = without_pairs(problem, terms)
    reduced = reduce_problem(relaxed)
    found: Outcome = minimise([layer.options for layer in reduced.layers], reduced.limits, stop)
    precision, guard = scale_of(problem)
    finer = precision + guard - reduced.precision - reduced.guard
    if found.picks is None:
        least = sum(min(row) for row in terms.loss) + terms.smallest_pairs(terms.pair_loss)
        return least, None
    bound = (found.bound << finer) + terms.smallest_pairs(terms.pair_loss)
    chosen = {
        member: name
        for layer, pick in zip(reduced.layers, found.picks, strict=True)
        for member, name in zip(layer.members, layer.options[pick].names, strict=True)
    }
    places = tuple(terms.place(layer.name, chosen[layer.name]) for layer in problem.layers)
    return bound, places if terms.fits(places) else None


def _improved(problem: AllocationProblem, terms: Terms, places: tuple[int, ...]) -> tuple[int, ...]:
    """Change one layer at a time while that helps; tied layers stay as they are."""
    held = {name for rule in restrictions(problem) for name in rule}
    free = [i for i, layer in enumerate(problem.layers) if layer.name not in held]
    best = terms.total(places)
    for _ in range(PASSES):
        before = best
        for i in free:
            for place in terms.allowed[i]:
                tried = (*places[:i], place, *places[i + 1 :])
                if terms.fits(tried) and terms.total(tried) < best:
                    places, best = tried, terms.total(tried)
        if best == before:
            break
    return places


def _local_prices(terms: Terms, places: tuple[int, ...]) -> tuple[Fraction, ...]:
    """Prices of the relaxation in which every layer sees the others as they were chosen."""
    if not terms.limits:
        return ()
    loss, costs = terms.seen_from(places)
    layers = [
        [Option((), loss[i][p] - min(loss[i]), costs[i][p]) for p in range(len(loss[i])) if p in terms.allowed[i]]
        for i in range(len(loss))
    ]
    base = [sum(costs[i][p][b] for i, p in enumerate(places)) for b in range(len(terms.limits))]
    used = terms.used(places)
    limits = [limit + seen - real for limit, seen, real in zip(terms.limits, base, used, strict=True)]
    table = tabulate(layers, limits)
    prices = dual_prices(replace(table, room=np.maximum(table.room, 0)))
    return tuple(Fraction(float(price)) * (1 << table.shift) for price in prices)


class Model:
    """One literal per choice and per product of what acts alike."""

    def __init__(self, problem: AllocationProblem, terms: Terms) -> None:
        self._problem, self._terms = problem, terms

    def minimise(
        self,
        values: Sequence[Sequence[int]],
        pairs: Mapping[tuple[int, int, int, int], int],
        held: Sequence[int],
        stop: Limits,
        hint: tuple[int, ...] | None,
    ) -> PairOutcome:
        """The least sum of the values over the assignments that meet the held budgets."""
        model = cp_model.CpModel()
        literals = [{place: model.new_bool_var("") for place in row} for row in self._terms.allowed]
        for row in literals:
            model.add_exactly_one(row.values())
        self._add_restrictions(model, literals)
        blocks = blocks_of(pairs, self._terms.pair_costs, [tuple(row) for row in literals], len(self._terms.limits))
        products = _add_products(model, literals, blocks)
        for budget in held:
            self._add_budget(model, literals, list(zip(blocks, products, strict=True)), budget)
        base = sum(
            min(row[place] for place in allowed) for row, allowed in zip(values, self._terms.allowed, strict=True)
        )
        terms = [
            (literal, values[i][place] - min(values[i][p] for p in row))
            for i, row in enumerate(literals)
            for place, literal in row.items()
        ]
        terms += [(z, block.value) for block, z in zip(blocks, products, strict=True) if block.value]
        unit = _unit([value for _, value in terms])
        model.minimize(cp_model.LinearExpr.weighted_sum([z for z, _ in terms], [value // unit for _, value in terms]))
        for i, row in enumerate(literals if hint is not None else []):
            for place, literal in row.items():
                model.add_hint(literal, place == (hint or ())[i])
        return self._solve(model, literals, base, unit, [(z, value // unit) for z, value in terms], stop)

    def _solve(
        self,
        model: cp_model.CpModel,
        literals: Sequence[Mapping[int, cp_model.IntVar]],
        base: int,
        unit: int,
        terms: Sequence[tuple[cp_model.IntVar, int]],
        stop: Limits,
    ) -> PairOutcome:
        solver = configured(Effort(stop.remaining_s(), stop.work, stop.seed, stop.workers))
        solver.parameters.relative_gap_limit = stop.relative_gap
        status = solver.solve(model)
        least = sum(min(value, 0) for _, value in terms)
        if status == cp_model.INFEASIBLE:
            return PairOutcome(None, 0, 0, (), infeasible=True)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return PairOutcome(None, 0, base + least * unit, ())
        places = tuple(next(p for p, z in row.items() if solver.boolean_value(z)) for row in literals)
        total = sum(value for z, value in terms if solver.boolean_value(z))
        reported = math.floor(solver.best_objective_bound) - (1 << REPORTED_BITS)
        proven = status == cp_model.OPTIMAL and not stop.relative_gap
        bound = total if proven else max(least, min(reported, total))
        return PairOutcome(places, total, base + bound * unit, ())

    def _add_restrictions(self, model: cp_model.CpModel, literals: Sequence[Mapping[int, cp_model.IntVar]]) -> None:
        """One literal per class: in every layer, exactly the choices of the class make it up."""
        position = {layer.name: i for i, layer in enumerate(self._problem.layers)}
        for rule in restrictions(self._problem):
            names = sorted({name for classes in rule.values() for name in classes})
            taken = {name: model.new_bool_var("") for name in names}
            for layer, classes in rule.items():
                row = literals[position[layer]]
                for name, literal in taken.items():
                    model.add(sum(z for place, z in row.items() if classes[place] == name) == literal)

    def _add_budget(
        self,
        model: cp_model.CpModel,
        literals: Sequence[Mapping[int, cp_model.IntVar]],
        products: Sequence[tuple[Block, cp_model.IntVar]],
        budget: int,
    ) -> None:
        least = [min(self._terms.costs[i][place][budget] for place in row) for i, row in enumerate(literals)]
        costs = [
            (z, self._terms.costs[i][place][budget] - least[i])
            for i, row in enumerate(literals)
            for place, z in row.items()
        ]
        costs += [(z, block.costs[budget]) for block, z in products if block.costs[budget]]
        room = self._terms.limits[budget] - sum(least)
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
