"""The oracle: every tile size in every order of all loops, nothing left out; and the curve of what tilings reach."""

from __future__ import annotations

import itertools

import numpy as np

from .problem import Cost, Limits, Tiling, TilingProblem
from .search import loop_orders
from .spans import tile_sizes, useful_sizes
from .traffic import Grid, all_choices, cost, memory_bytes, total_bits


def least_traffic(problem: TilingProblem, limits: Limits) -> tuple[Tiling, Cost] | None:
    """The tiling with the least traffic within the budget, or ``None`` if none fits.

    The mapspace grows with the product of all extents times the number of orders: for small operators only.
    """
    tilings = all_choices(problem, {dim.name: tile_sizes(dim) for dim in problem.dims})
    fitting = tilings.subset(np.flatnonzero(memory_bytes(tilings, limits) <= limits.budget_bytes))
    if not len(fitting):
        return None
    best: tuple[int, Tiling] | None = None
    for order in itertools.permutations([dim.name for dim in problem.dims]):
        traffic = total_bits(fitting, order)
        place = int(np.argmin(traffic))
        if best is None or traffic[place] < best[0]:
            best = (int(traffic[place]), Tiling(fitting.tiles(place), order))
    return None if best is None else (best[1], cost(problem, best[1], limits))


def traffic_curve(problem: TilingProblem, alignment_bytes: int = 1, buffers: int = 1) -> list[tuple[int, int]]:
    """Orojenesis' curve: (bytes of fast memory, least bytes moved with that many), ascending, only where it falls.

    No tiling of the mapspace lies below the curve, and each of its points is reached by one.
    """
    tilings: Grid = all_choices(problem, {dim.name: useful_sizes(dim) for dim in problem.dims})
    memory = memory_bytes(tilings, Limits(0, alignment_bytes, buffers))
    traffic = np.min([total_bits(tilings, order) for order in loop_orders(problem)], axis=0)
    curve: list[tuple[int, int]] = []
    for place in np.lexsort((traffic, memory)):
        moved = -(-int(traffic[place]) // 8)
        if not curve or moved < curve[-1][1]:
            curve.append((int(memory[place]), moved))
    return curve
