"""The tiling that moves the fewest bytes, proven: all tile sizes and orders of loops but those that cannot win.

For a fixed order traffic never falls when a dimension is cut into more tiles. So of all sizes with the same number of
tiles only the smallest matters, and of all tilings only those of which no tile can grow to the next size and still fit.
What is left is counted for every order at once. ``exhaustive.py`` does the same without leaving anything out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..status import Status
from .bounds import Bounds, bounds
from .problem import Cost, Limits, Tiling, TilingProblem
from .spans import useful_sizes
from .traffic import Grid, all_choices, check_range, choices, cost, grid, memory_bytes, total_bits

CHUNK = 1 << 20
"""Tilings that are held in memory at the same time."""


@dataclass(frozen=True)
class TilingSolution:
    """What the search returns.

    Attributes:
        status: ``optimal`` in the mapspace, or ``infeasible``.
        tiling: the best one, or ``None``.
        cost: of the best one, or ``None``.
        bounds: below which no tiling can go.
        smallest_budget_bytes: with less fast memory there is no tiling.
        tilings: how many tile choices were counted in every order.
    """

    status: Status
    tiling: Tiling | None
    cost: Cost | None
    bounds: Bounds
    smallest_budget_bytes: int
    tilings: int


def solve(problem: TilingProblem, limits: Limits) -> TilingSolution:
    """The tiling with the least traffic, then the fewest steps, then the least memory.

    >>> from instar.schedulers.tiling.operators import linear
    >>> solution = solve(linear(128, 384, 384), Limits(32768))
    >>> solution.cost.traffic_bytes, solution.bounds.compulsory_bytes
    (393216, 245760)

    Raises:
        ScheduleError: traffic could exceed 2^62 bits.
    """
    check_range(problem)
    best: tuple[tuple[int, int, int], Tiling] | None = None
    counted = 0
    for tilings in maximal_tilings(problem, limits):
        counted += len(tilings)
        for order in loop_orders(problem):
            found = _best(tilings, order, limits)
            if best is None or found[0] < best[0]:
                best = found
    smallest = smallest_budget(problem, limits)
    limit = bounds(problem, limits)
    if best is None:
        return TilingSolution("infeasible", None, None, limit, smallest, counted)
    return TilingSolution("optimal", best[1], cost(problem, best[1], limits), limit, smallest, counted)


def _best(tilings: Grid, order: Sequence[str], limits: Limits) -> tuple[tuple[int, int, int], Tiling]:
    traffic = total_bits(tilings, order)
    steps = np.ones_like(traffic)
    for count in tilings.counts.values():
        steps = steps * count
    memory = memory_bytes(tilings, limits)
    place = int(np.lexsort((memory, steps, traffic))[0])
    return (
        (int(traffic[place]), int(steps[place]), int(memory[place])),
        Tiling(tilings.tiles(place), tuple(order)),
    )


def loop_orders(problem: TilingProblem) -> list[tuple[str, ...]]:
    """Every order of the loops that can take more than one step; the others are put outside."""
    fixed = tuple(dim.name for dim in problem.dims if dim.extent == 1 or dim.whole)
    free = [dim.name for dim in problem.dims if dim.name not in fixed]
    return [fixed + order for order in itertools.permutations(free)]


def maximal_tilings(problem: TilingProblem, limits: Limits) -> Iterator[Grid]:
    """Tilings within the budget of which no tile can take the next size, in chunks; chunks may be missing if empty."""
    sizes = {dim.name: useful_sizes(dim) for dim in problem.dims}
    for tilings in choices(problem, sizes, CHUNK):
        fits = memory_bytes(tilings, limits) <= limits.budget_bytes
        if not fits.any():
            continue
        beatable = np.zeros_like(fits)
        for name, options in sizes.items():
            pick, length = tilings.picks[name], len(options)
            larger = np.minimum(pick + 1, length - 1)
            grown = grid(problem, tilings.sizes, {**tilings.picks, name: larger}, tilings.spans)
            beatable |= (pick + 1 < length) & (memory_bytes(grown, limits) <= limits.budget_bytes)
        yield tilings.subset(np.flatnonzero(fits & ~beatable))


def smallest_budget(problem: TilingProblem, limits: Limits) -> int:
    """Bytes of fast memory below which no tiling exists."""
    ends: dict[str, list[int]] = {}
    for dim in problem.dims:
        sizes = useful_sizes(dim)
        ends[dim.name] = sorted({sizes[0], sizes[-1]})
    # A dimension in one tile needs one buffer and may spare incomplete sums, so the least is not always the smallest.
    return int(memory_bytes(all_choices(problem, ends), limits).min())
