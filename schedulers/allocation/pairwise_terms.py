"""A problem with pairs in whole numbers: what every choice and every pair of choices adds."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from .dominance import loss_scale, scaled_loss
from .problem import AllocationProblem
from .ties import groups

PairKey = tuple[int, int, int, int]
"""Two layers, the earlier one first, and the places of their choices."""


@dataclass(frozen=True)
class Terms:
    """Sums over an assignment, which is a place per layer.

    Attributes:
        loss: per layer and place, in whole units; the preference is in the lowest bits.
        costs: per layer and place.
        pair_loss: what a pair adds to the loss, of any sign.
        pair_costs: what it adds to the costs, of any sign.
        limits: of the budgets.
        allowed: per layer the places that forced and forbidden choices leave.
        names: layer -> name of a choice -> place.
    """

    loss: tuple[tuple[int, ...], ...]
    costs: tuple[tuple[tuple[int, ...], ...], ...]
    pair_loss: Mapping[PairKey, int]
    pair_costs: Mapping[PairKey, tuple[int, ...]]
    limits: tuple[int, ...]
    allowed: tuple[tuple[int, ...], ...]
    names: Mapping[str, Mapping[str, int]]

    def place(self, layer: str, choice: str) -> int:
        """The place of a choice by name."""
        return self.names[layer][choice]

    def about(self, budgets: Sequence[int]) -> Terms:
        """The same with some of the budgets alone."""
        costs = tuple(tuple(tuple(cost[b] for b in budgets) for cost in row) for row in self.costs)
        pair_costs = {key: tuple(cost[b] for b in budgets) for key, cost in self.pair_costs.items()}
        return replace(self, costs=costs, pair_costs=pair_costs, limits=tuple(self.limits[b] for b in budgets))

    def of_budget(self, budget: int, held: Sequence[int]) -> Terms:
        """What a budget takes as the loss, under some others."""
        loss = tuple(tuple(cost[budget] for cost in row) for row in self.costs)
        return replace(
            self.about(held), loss=loss, pair_loss={key: cost[budget] for key, cost in self.pair_costs.items()}
        )

    def active(self) -> list[int]:
        """The budgets that some assignment may exceed."""
        found: list[int] = []
        for budget, limit in enumerate(self.limits):
            own = sum(max(row[p][budget] for p in left) for row, left in zip(self.costs, self.allowed, strict=True))
            saved = self.smallest_pairs({key: -cost[budget] for key, cost in self.pair_costs.items()})
            if own - saved > limit:
                found.append(budget)
        return found

    def least(self) -> int:
        """No assignment loses less, whatever it costs."""
        own = (min(row[place] for place in left) for row, left in zip(self.loss, self.allowed, strict=True))
        return sum(own) + self.smallest_pairs(self.pair_loss)

    def taken(self, key: PairKey, places: tuple[int, ...]) -> bool:
        """Whether both choices of a pair are taken."""
        return places[key[0]] == key[2] and places[key[1]] == key[3]

    def total(self, places: tuple[int, ...]) -> int:
        """Loss of an assignment."""
        alone = sum(row[place] for row, place in zip(self.loss, places, strict=True))
        return alone + sum(loss for key, loss in self.pair_loss.items() if self.taken(key, places))

    def used(self, places: tuple[int, ...]) -> list[int]:
        """Costs of an assignment."""
        taken = [cost for key, cost in self.pair_costs.items() if self.taken(key, places)]
        alone = [row[place] for row, place in zip(self.costs, places, strict=True)]
        return [sum(cost[b] for cost in (*alone, *taken)) for b in range(len(self.limits))]

    def fits(self, places: tuple[int, ...]) -> bool:
        """Whether an assignment meets all budgets."""
        return all(used <= limit for used, limit in zip(self.used(places), self.limits, strict=True))

    def smallest_pairs(self, values: Mapping[PairKey, int]) -> int:
        """No assignment's pairs sum to less: every two layers contribute at most one entry, or nothing."""
        least: dict[tuple[int, int], int] = defaultdict(int)
        for (i, j, _, _), value in values.items():
            least[i, j] = min(least[i, j], value)
        return sum(least.values())

    def seen_from(self, places: tuple[int, ...]) -> tuple[list[list[int]], list[list[tuple[int, ...]]]]:
        """Losses and costs of every choice with the other layers as given."""
        loss = [list(row) for row in self.loss]
        costs = [[list(cost) for cost in row] for row in self.costs]
        for (i, j, first, second), value in self.pair_loss.items():
            for layer, place, other, wanted in ((i, first, j, second), (j, second, i, first)):
                if places[other] == wanted:
                    loss[layer][place] += value
                    added = self.pair_costs[i, j, first, second]
                    costs[layer][place] = [a + b for a, b in zip(costs[layer][place], added, strict=True)]
        return loss, [[tuple(cost) for cost in row] for row in costs]


@dataclass(frozen=True)
class Found:
    """Layer -> place of its choice (``None`` without an assignment), and a bound for its loss in whole units."""

    places: tuple[int, ...] | None
    bound: int
    infeasible: bool = False


Entry = tuple[int, tuple[int, ...]]
"""What a pair adds to what is minimised, and to the costs."""


@dataclass(frozen=True)
class Block:
    """What any choice of one set adds with any choice of another.

    Attributes:
        i: the earlier layer.
        firsts: places of its choices.
        j: the other layer.
        seconds: places of its choices.
        value: added to what is minimised.
        costs: added to the costs.
    """

    i: int
    firsts: tuple[int, ...]
    j: int
    seconds: tuple[int, ...]
    value: int
    costs: tuple[int, ...]


def blocks_of(
    values: Mapping[PairKey, int],
    costs: Mapping[PairKey, tuple[int, ...]],
    allowed: Sequence[Sequence[int]],
    budgets: int,
) -> list[Block]:
    """All pairs, choices that add the same everywhere taken together; what adds nothing is left out.

    Args:
        values: what pairs add to what is minimised.
        costs: what they add to the costs.
        allowed: per layer the places that may be taken.
        budgets: how many costs there are.
    """
    nothing: Entry = (0, (0,) * budgets)
    added: dict[tuple[int, int], dict[tuple[int, int], Entry]] = defaultdict(dict)
    for i, j, first, second in dict.fromkeys([*costs, *values]):
        key = i, j, first, second
        entry = values.get(key, 0), costs.get(key, nothing[1])
        if entry != nothing:
            added[i, j][first, second] = entry
    return [
        Block(i, some, j, others, *entry)
        for (i, j), table in added.items()
        for (some, others), entry in _blocks_between(table, allowed[i], allowed[j], nothing).items()
        if entry != nothing
    ]


def _blocks_between(
    table: Mapping[tuple[int, int], Entry], firsts: Sequence[int], seconds: Sequence[int], nothing: Entry
) -> dict[tuple[tuple[int, ...], tuple[int, ...]], Entry]:
    """Sets of choices of two layers -> what any of the ones adds with any of the others."""
    rows = _alike(firsts, lambda a: tuple(table.get((a, b), nothing) for b in seconds))
    columns = _alike(seconds, lambda b: tuple(table.get((a, b), nothing) for a in firsts))
    return {(r, c): table.get((r[0], c[0]), nothing) for r, c in itertools.product(rows, columns)}


def _alike(places: Sequence[int], seen: Callable[[int], Hashable]) -> list[tuple[int, ...]]:
    """Places grouped by what is seen of them, in their order."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for place in places:
        found[seen(place)].append(place)
    return [tuple(group) for group in found.values()]


def scale_of(problem: AllocationProblem) -> tuple[int, int]:
    """Bits after the binary point for all losses, pairs included, and guard bits for the preferences."""
    precision, guard = loss_scale(problem)
    finest = max((pair.loss.as_integer_ratio()[1] for pair in problem.pairs), default=1)
    return max(precision, finest.bit_length() - 1), guard


def terms_of(problem: AllocationProblem) -> Terms:
    """The problem in whole numbers."""
    precision, guard = scale_of(problem)
    names = {layer.name: {choice.name: p for p, choice in enumerate(layer.choices)} for layer in problem.layers}
    position = {layer.name: i for i, layer in enumerate(problem.layers)}
    left = {m.name: {choice.name for choice, _ in m.choices} for group in groups(problem) for m in group}
    pair_loss: dict[PairKey, int] = {}
    pair_costs: dict[PairKey, tuple[int, ...]] = {}
    for pair in problem.pairs:
        ends = sorted((position[layer], names[layer][choice]) for layer, choice in (pair.first, pair.second))
        key = (ends[0][0], ends[1][0], ends[0][1], ends[1][1])
        pair_loss[key] = scaled_loss(pair.loss, precision) << guard
        pair_costs[key] = pair.costs or (0,) * len(problem.budgets)
    return Terms(
        tuple(
            tuple((scaled_loss(choice.loss, precision) << guard) + choice.preference for choice in layer.choices)
            for layer in problem.layers
        ),
        tuple(tuple(choice.costs for choice in layer.choices) for layer in problem.layers),
        pair_loss,
        pair_costs,
        tuple(budget.limit for budget in problem.budgets),
        tuple(tuple(p for n, p in names[layer.name].items() if n in left[layer.name]) for layer in problem.layers),
        names,
    )


def without_pairs(problem: AllocationProblem, terms: Terms) -> AllocationProblem:
    """The problem without pairs, its limits raised by the most that pairs can save: nothing feasible is lost."""
    budgets = tuple(
        replace(b, limit=b.limit - terms.smallest_pairs({key: cost[place] for key, cost in terms.pair_costs.items()}))
        for place, b in enumerate(problem.budgets)
    )
    return replace(problem, pairs=(), budgets=budgets)
