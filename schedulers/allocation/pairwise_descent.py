"""A better assignment from a given one: one layer at a time, each seeing the others as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from .pairwise_terms import Entry, Terms

PASSES = 20
"""Rounds over all layers at most."""

Links = dict[int, dict[int, list[tuple[int, int, Entry]]]]
"""Layer -> place -> another layer, its place, and what both add."""


class Descent:
    """Changes one layer at a time while that lowers the loss within the budgets.

    Args:
        terms: losses and costs.
        free: the layers that may change by themselves.
    """

    def __init__(self, terms: Terms, free: Iterable[int]) -> None:
        self._terms, self._free, self._links = terms, [*free], _links(terms)

    def improved(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """What it leads to from an assignment that meets the budgets."""
        now, used = [*places], self._terms.used(places)
        for _ in range(PASSES):
            before = [*now]
            for i in self._free:
                used = self._move(now, used, i)
            if now == before:
                break
        return tuple(now)

    def _move(self, now: list[int], used: Sequence[int], layer: int) -> Sequence[int]:
        """Take the best choice of a layer that fits; what is used then."""
        loss, cost = self._beside(now, layer, now[layer])
        rest = [a - b for a, b in zip(used, cost, strict=True)]
        for place in self._terms.allowed[layer]:
            other, taken = self._beside(now, layer, place)
            total = [a + b for a, b in zip(rest, taken, strict=True)]
            if other < loss and all(a <= b for a, b in zip(total, self._terms.limits, strict=True)):
                now[layer], loss, used = place, other, total
        return used

    def _beside(self, now: Sequence[int], layer: int, place: int) -> tuple[int, list[int]]:
        """What a choice loses and costs, its pairs with the other layers' choices included."""
        loss, cost = self._terms.loss[layer][place], [*self._terms.costs[layer][place]]
        for other, wanted, (more, costs) in self._links[layer][place]:
            if now[other] == wanted:
                loss += more
                cost = [a + b for a, b in zip(cost, costs, strict=True)]
        return loss, cost


def _links(terms: Terms) -> Links:
    found: Links = defaultdict(lambda: defaultdict(list))
    for key, loss in terms.pair_loss.items():
        i, j, first, second = key
        entry = loss, terms.pair_costs[key]
        found[i][first].append((j, second, entry))
        found[j][second].append((i, first, entry))
    return found
