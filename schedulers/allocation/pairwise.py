"""Losses and costs of two layers' choices together: a quadratic multiple-choice knapsack.

A :class:`~.problem.Pair` adds to loss and costs where both of its choices are taken, which makes the problem
``min x^T G x`` over one choice per layer, as in CLADO (arXiv 2307.05657). CLADO projects the measured ``G`` to a
positive semidefinite matrix so that a quadratic solver accepts it. That is a trap: the projected problem is another
one, whose optimum need not be one of the measured losses, and even a semidefinite ``G`` has a weak continuous
relaxation, because a layer that is half this and half that escapes the products. Nothing is projected here, and entries
may have any sign.

Where pairs make a narrow graph, such as layers that follow each other, dynamic programming finds and proves the optimum
(``pairwise_minimise.py``). CP-SAT (``pairwise_model.py``) gets what that leaves open, and graphs that are too wide, as
far as they are small; there the bound is the better one of its own and of the problem without products, in which every
pair of layers contributes its smallest entry. The first assignment is then that problem's, improved layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from .dominance import Option, reduce_problem
from .infeasibility import Least, explain
from .minimise import Limits, Outcome, minimise
from .pairwise_descent import Descent
from .pairwise_graph import graph_of
from .pairwise_minimise import PairMinimiser
from .pairwise_terms import Found, Terms, scale_of, terms_of, without_pairs
from .prices import dual_prices
from .problem import AllocationProblem, Infeasibility
from .table import tabulate
from .ties import restrictions


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
    found = _narrow(problem, terms, stop) or _wide(problem, terms, stop)
    if found.places is None:
        return PairOutcome(None, 0, found.bound, (Fraction(0),) * len(terms.limits), found.infeasible)
    objective = terms.total(found.places)
    return PairOutcome(found.places, objective, min(found.bound, objective), _local_prices(terms, found.places))


def explain_pairs(problem: AllocationProblem, stop: Limits) -> tuple[Infeasibility, ...]:
    """The budgets that cannot be met, with pairs counted."""
    terms = terms_of(problem)
    exact = replace(stop, relative_gap=0.0)

    def least(budget: int, held: Sequence[int]) -> Least | None:
        own = terms.of_budget(budget, held)
        found = _narrow(problem, own, exact) or _modelled(problem, own, exact, Found(None, own.least()))
        if found.places is None:
            return None
        value = own.total(found.places)
        return Least(value, found.bound >= value)

    return explain(problem, least)


def _narrow(problem: AllocationProblem, terms: Terms, stop: Limits) -> Found | None:
    """By dynamic programming, and by CP-SAT for what that leaves open; ``None`` where the graph is too wide."""
    terms = terms.about(terms.active())
    graph = graph_of(problem, terms)
    if graph is None:
        return None
    search = PairMinimiser(terms, graph, _free(problem), stop)
    found = search.run()
    if found is None or found.infeasible or search.closed() or stop.remaining_s() <= 0:
        return found
    return _modelled(problem, search.remaining(), stop, found)


def _wide(problem: AllocationProblem, terms: Terms, stop: Limits) -> Found:
    bound, start = _relaxed(problem, terms, stop)
    known = None if start is None else Descent(terms, _free(problem)).improved(start)
    if known is not None and terms.total(known) <= bound + math.floor(abs(bound) * stop.relative_gap):
        return Found(known, bound)
    return _modelled(problem, terms, stop, Found(known, bound))


def _modelled(problem: AllocationProblem, terms: Terms, stop: Limits, known: Found) -> Found:
    """The better of what is known and what CP-SAT finds among the allowed choices."""
    from .pairwise_model import minimise_model  # CP-SAT takes half a second to load, and chains do not need it

    found = minimise_model(problem, terms, stop, known.places)
    if found.infeasible:
        return found if known.places is None else Found(known.places, terms.total(known.places))
    best = min((p for p in (known.places, found.places) if p is not None), key=terms.total, default=None)
    return Found(best, max(known.bound, found.bound))


def _free(problem: AllocationProblem) -> list[int]:
    """Layers that no tie and no trait is about."""
    held = {name for rule in restrictions(problem) for name in rule}
    return [i for i, layer in enumerate(problem.layers) if layer.name not in held]


def _relaxed(problem: AllocationProblem, terms: Terms, stop: Limits) -> tuple[int, tuple[int, ...] | None]:
    """A bound without products, and the assignment that has it, if it meets the budgets with them."""
    relaxed = without_pairs(problem, terms)
    reduced = reduce_problem(relaxed)
    found: Outcome = minimise([layer.options for layer in reduced.layers], reduced.limits, stop)
    precision, guard = scale_of(problem)
    finer = precision + guard - reduced.precision - reduced.guard
    if found.picks is None:
        return terms.least(), None
    bound = (found.bound << finer) + terms.smallest_pairs(terms.pair_loss)
    chosen = {
        member: name
        for layer, pick in zip(reduced.layers, found.picks, strict=True)
        for member, name in zip(layer.members, layer.options[pick].names, strict=True)
    }
    places = tuple(terms.place(layer.name, chosen[layer.name]) for layer in problem.layers)
    return bound, places if terms.fits(places) else None


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
