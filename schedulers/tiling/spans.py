"""Sums over the tiles of one axis, for every tile size at once: what all formulas of traffic are made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .problem import Axis, Dim

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Of one axis, an entry per tile size. A *length* is how much of the axis a tile covers.

    Attributes:
        longest: the largest length of a tile, which is what memory must hold.
        total: lengths of all tiles together.
        first: length of the first tile.
        later: lengths of all tiles but the first.
        shared: overlaps of each tile with the one before it, together.
        wrapped: overlap of the first tile with the last, which is before it when an outer loop moves on.
    """

    longest: Ints
    total: Ints
    first: Ints
    later: Ints
    shared: Ints
    wrapped: Ints


def spans(axis: Axis, extent: int, tiles: Sequence[int]) -> Spans:
    """The sums for a dimension of ``extent`` iterations cut into tiles of each size."""
    rows = [_one_size(axis, extent, tile) for tile in tiles]
    columns = [np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)]
    return Spans(*columns)


def _one_size(axis: Axis, extent: int, tile: int) -> tuple[int, int, int, int, int, int]:
    if not axis.windowed:
        return tile, extent, tile, extent - tile, 0, tile if tile == extent else 0
    intervals = [axis.interval(start, min(start + tile, extent)) for start in range(0, extent, tile)]
    lengths = [high - low for low, high in intervals]
    shared = sum(_overlap(before, after) for before, after in itertools.pairwise(intervals))
    wrapped = _overlap(intervals[-1], intervals[0])
    return max(lengths), sum(lengths), lengths[0], sum(lengths[1:]), shared, wrapped


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


def tile_sizes(dim: Dim) -> list[int]:
    """All tile sizes that a dimension allows, ascending."""
    if dim.whole:
        return [dim.extent]
    return [*range(dim.multiple, dim.extent, dim.multiple), dim.extent]


def useful_sizes(dim: Dim) -> list[int]:
    """For every number of tiles the smallest size that gives it: larger ones take memory and save nothing."""
    sizes = [] if dim.whole else [dim.multiple]
    while sizes and sizes[-1] < dim.extent:
        fewer = -(-dim.extent // sizes[-1]) - 1
        size = -(-dim.extent // fewer)
        sizes.append(-(-size // dim.multiple) * dim.multiple)
    return [*(size for size in sizes if size < dim.extent), dim.extent]
