"""Seeded allocation instances over the whole range that a compilation can ask for.

What varies: layers, choices per layer, budgets, decades of the losses, how tight the limits are, side conditions.

* ``formats``: sizes of real layers, a loss of ``sensitivity * 4^-bits`` with a sensitivity that is uniform over the
  decades, optionally a rank; bytes, a latency with a random efficiency per width, bit operations.
* ``random``: uniformly random losses (times a sensitivity over the decades) and costs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from instar.schedulers.allocation import AllocationBudget, AllocationProblem, Choice, LayerChoices

CHANNELS = (16, 24, 40, 48, 96, 120, 144, 240, 288, 576)
FEW_FORMATS = ((32, 8, 4), (8, 4))
BUDGETS = (("size", "bytes"), ("latency", "ns"), ("ops", "MBOPS"))


@dataclass(frozen=True)
class Grid:
    """One instance: what it varies, and whether layers are tied, and choices forced and forbidden."""

    family: str
    layers: int
    options: int
    budgets: int
    decades: int
    share: float
    sides: bool = False
    seed: int = 0

    def build(self) -> AllocationProblem:
        """The problem; limits are ``share`` of the way from the least to the largest sum of costs."""
        rng = random.Random(f"{self}")
        layer = format_layer if self.family == "formats" else random_layer
        rows = [layer(rng, self.options, self.budgets, self.decades) for _ in range(self.layers)]
        limits: list[AllocationBudget] = []
        for position, (name, unit) in enumerate(BUDGETS[: self.budgets]):
            costs = [[choice.costs[position] for choice in row] for row in rows]
            low, high = sum(map(min, costs)), sum(map(max, costs))
            limits.append(AllocationBudget(name, int(low + self.share * (high - low)), unit))
        named = tuple(LayerChoices(f"layer{i}", tuple(row)) for i, row in enumerate(rows))
        made = AllocationProblem(named, tuple(limits))
        return with_sides(made) if self.sides else made


def with_sides(problem: AllocationProblem) -> AllocationProblem:
    """Every fifth pair of neighbours tied, every seventh layer forbids a choice, every eleventh is forced."""
    names = [layer.name for layer in problem.layers]
    tied = tuple((names[i], names[i + 1]) for i in range(0, len(names) - 1, 5))
    held = {name for tie in tied for name in tie}
    free = [layer for layer in problem.layers if layer.name not in held]
    forced = tuple((layer.name, layer.choices[-1].name) for layer in free[::11])
    forbidden = tuple((layer.name, layer.choices[0].name) for layer in free[1::11])
    return replace(problem, ties=tied, forced=forced, forbidden=forbidden)


def format_layer(rng: random.Random, options: int, budgets: int, decades: int) -> list[Choice]:
    """Formats of one layer, widest first."""
    channels = rng.choice(CHANNELS)
    weights, sensitivity = channels * rng.choice((9, 16, 24, 40, 96, 144)), 10.0 ** rng.uniform(-decades, 0)
    efficiency = [rng.uniform(0.8, 1.25) for _ in range(9)]
    choices: list[Choice] = []
    for number in range(options):
        few = next((bits for bits in FEW_FORMATS if len(bits) == options), None)
        bits, rank = (few[number], 0) if few else (2 + number * 7 // options, rng.randrange(64))
        loss = 0.0 if bits == 32 else sensitivity * 4.0**-bits * rng.uniform(0.6, 1.5) * math.exp(-rank / 40)
        size = weights * bits // 8 + 4 * channels + rank * channels
        latency = int(weights * efficiency[bits % 9] * (0.4 + bits / 12) + 2 * rank * channels)
        costs = (size, latency, weights * bits * bits // 8 + 5 * rank * channels)
        choices.append(Choice(f"c{number}", loss, costs[:budgets]))
    return choices


def random_layer(rng: random.Random, options: int, budgets: int, decades: int) -> list[Choice]:
    """Everything uniformly random."""
    sensitivity = 10.0 ** rng.uniform(-decades, 0)
    return [
        Choice(f"c{j}", sensitivity * rng.random(), tuple(rng.randint(1, 10**7) for _ in range(budgets)))
        for j in range(options)
    ]


SIZES = ((10, 2), (10, 24), (40, 2), (40, 3), (40, 24), (200, 3), (200, 24), (200, 400), (1000, 2), (1000, 24))
LARGEST = (1000, 400)


def grid() -> Iterator[Grid]:
    """All instances; the largest, and those with side conditions, in fewer variations."""
    for budgets, (layers, options), decades, family in product((1, 2, 3), SIZES, (2, 6, 9), ("formats", "random")):
        share = 0.1 if family == "formats" else 0.3
        yield Grid(family, layers, options, budgets, decades, share)
        if budgets < 3:
            yield Grid(family, layers, options, budgets, decades, 0.45)
    for budgets, family in product((1, 2), ("formats", "random")):
        yield Grid(family, *LARGEST, budgets, 6, 0.3)
    for budgets, family, seed in product((1, 2), ("formats", "random"), range(3)):
        yield Grid(family, 200, 24, budgets, 6, 0.4, sides=True, seed=seed)
