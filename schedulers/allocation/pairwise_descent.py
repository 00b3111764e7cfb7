"""A better assignment from a given one: one layer at a time, each seeing the others as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from .pairwise_terms import Entry, Terms

PASSES = 20
"""Rounds over all layers at most."""

Links = dict[int, dict[int, list[tuple[int, int, Entry]]]]
"""Layer -> place -> another layer, its place, and what both add."""


def improved(terms: Terms, free: Iterable[int], places: tuple[int, ...]) -> tuple[int, ...]:
    """Change one layer at a time while that lowers the loss within the budgets.

    Args:
        terms: losses and costs.
        free: the layers that may change by themselves.
        places: an assignment that meets the budgets.
    """
    links, layers = _links(terms), [*free]
    now, used = [*places], terms.used(places)
    for _ in range(PASSES):
        before = [*now]
        for i in layers:
            loss, cost = _beside(terms, links, now, i, now[i])
            rest = [a - b for a, b in zip(used, cost, strict=True)]
            for place in terms.allowed[i]:
                other, taken = _beside(terms, links, now, i, place)
                total = [a + b for a, b in zip(rest, taken, strict=True)]
                if other < loss and all(a <= b for a, b in zip(total, terms.limits, strict=True)):
                    now[i], loss, used = place, other, total
        if now == before:
            break
    return tuple(now)


def _links(terms: Terms) -> Links:
    found: Links = defaultdict(lambda: defaultdict(list))
    for key, loss in terms.pair_loss.items():
        i, j, first, second = key
        entry = loss, terms.pair_costs[key]
        found[i][first].append((j, second, entry))
        found[j][second].append((i, first, entry))
    return found


def _beside(terms: Terms, links: Links, now: list[int], layer: int, place: int) -> tuple[int, list[int]]:
    """What a choice loses and costs, its pairs with the other layers' choices included."""
    loss, cost = terms.loss[layer][place], [*terms.costs[layer][place]]
    for other, wanted, (more, costs) in links[layer][place]:
        if now[other] == wanted:
            loss += more
            cost = [a + b for a, b in zip(cost, costs, strict=True)]
    return loss, cost
