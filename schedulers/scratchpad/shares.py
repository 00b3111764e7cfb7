"""Lower bounds for long orders: a tensor off-chip pays for it along the order, a share at every operator it lives by.

A tensor that is off-chip at any border between ranges was written once, and one that is off-chip at a border between
two of its readers is read by the next. These bytes are split among the positions where the tensor lives. A range pays
the shares at its own positions of what is off-chip where it starts, and of what it leaves off-chip: however the order
is cut into ranges, they pay no more than the schedule moves. What must be off-chip for a range is a knapsack: its line
buffers, its weights and what is on chip at its ends fit into the budget. Two relaxations bound it from below, and the
larger counts: fractions of tensors, and as many whole tensors as the largest of them take, at the prices of the
cheapest. The cheapest cuts are a shortest path. Any split gives a lower bound; multiplicative updates look for a good
one (Lagrangian decomposition with exponentiated gradients: Arora, Hazan, Kale, The Multiplicative Weights Update
Method, 2012).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from .excess import Ending, Way
from .lives import Lives, Reals, lives_of
from .options import Options
from .rows import Vector
from .sequenced import Sequenced

ROUNDS = 400
"""Splits that are tried at most."""

STEP = 4.0
"""Of the first update; later ones are shorter."""

PATIENCE = 60
"""Splits without a better bound after which the search for one ends."""

MOST_ITEMS = 48
"""Ranges with more tensors at their ends cost nothing here."""


def shares_bound(net: Sequenced, options: Options, ceiling_bytes: int, deadline: float) -> int:
    """Avoidable bytes that every schedule in this order moves at least.

    Args:
        net: problem and order.
        options: budget, least rows, whether activations may leave the chip.
        ceiling_bytes: the search ends where the bound reaches it.
        deadline: of ``time.perf_counter()``; a bound that was found before is kept.

    Raises:
        OutOfTimeError: the deadline passed before the first bound.
    """
    splits = Splits(net, options, deadline)
    best, since, rounds = 0.0, 0, 0
    while since < PATIENCE and rounds < ROUNDS and best < ceiling_bytes and time.perf_counter() < deadline:
        bound = splits.round(STEP / math.sqrt(1 + rounds / 4))
        if math.isinf(bound):
            break
        since = since + 1 if bound < best * 1.0005 else 0
        best, rounds = max(best, bound), rounds + 1
    return min(ceiling_bytes, max(0, math.ceil(best * (1 - 1e-9) - 1e-3)))


@dataclass(frozen=True)
class Items:
    """Tensors that may be off-chip for a range, one row per range, padded with empty ones.

    Attributes:
        size_bytes: of the tensor, 0 for padding.
        write: first and stop of the entries whose shares of the write are paid.
        read: the same for the next read.
    """

    size_bytes: Vector
    write: tuple[Vector, Vector]
    read: tuple[Vector, Vector]


class Splits:
    """Splits of the costs among positions, each better than the one before if all goes well."""

    def __init__(self, net: Sequenced, options: Options, deadline: float) -> None:
        """Makes all ranges.

        Raises:
            OutOfTimeError: the deadline passed.
        """
        self._count, self._lives = net.count, lives_of(net)
        self._sizes = np.asarray([tensor.size_bytes for tensor in net.problem.tensors], dtype=np.int64)
        self._at_border = _at_borders(net, self._lives)
        alive = np.asarray([int(self._sizes[here].sum()) for here in self._at_border], dtype=np.int64)
        found = [way for end in range(net.count) for way in Ending(net, end, options, alive).ways(deadline)]
        found.sort(key=lambda way: (way.start, way.stop))
        counts = [len(way.excess) for way in found]
        self._range = np.repeat(np.arange(len(found)), counts)
        self._start, self._stop = (np.asarray([way[k] for way in ((w.start, w.stop) for w in found)]) for k in (0, 1))
        self._weights = np.repeat(np.asarray([way.weights for way in found], dtype=np.float64), counts)
        self._excess = np.maximum(np.concatenate([way.excess for way in found]), 0).astype(np.float64)
        self._again = np.concatenate([way.again for way in found]).astype(np.float64)
        self._at = np.searchsorted(self._start, np.arange(net.count + 1))
        self._first_way = np.concatenate([[0], np.cumsum(counts)])
        self._select(net, found, options)
        largest = -np.sort(-self._items.size_bytes, axis=1)
        self._most_off = np.concatenate([np.zeros((len(largest), 1)), np.cumsum(largest, axis=1)], axis=1)
        entries = len(self._lives.gap_start)
        self._asked = np.zeros((2, entries))

    def _select(self, net: Sequenced, found: list[Way], options: Options) -> None:
        """Ranges of which every way costs something, and the tensors at their ends."""
        ending = self._first_way[:-1]
        dear = np.minimum.reduceat(np.where(self._again > 0, self._excess, self._excess - self._weights), ending) > 0
        few = np.asarray([len(way.left) + len(self._at_border[way.start]) <= MOST_ITEMS for way in found])
        self._free = ~few
        self._dear = np.flatnonzero(dear & few)
        self._row = np.full(len(found), -1, dtype=np.int64)
        self._row[self._dear] = np.arange(len(self._dear))
        self._items = self._make_items(net, [found[place] for place in self._dear], may_leave=not options.no_spill)

    def _make_items(self, net: Sequenced, found: list[Way], *, may_leave: bool) -> Items:
        lives, made = self._lives, np.asarray(net.made_at, dtype=np.int64)
        last = np.asarray([net.last_read(tensor) for tensor in range(len(net.made_at))], dtype=np.int64)
        rows = [(*self._at_border[way.start], *way.left) if may_leave else () for way in found]
        table = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, dtype=np.int64)
        for place, row in enumerate(rows):
            table[place, : len(row)] = row
        start = np.asarray([way.start for way in found], dtype=np.int64)[:, None]
        stop = np.asarray([way.stop for way in found], dtype=np.int64)[:, None]
        there, offset = table >= 0, lives.first[table] - made[table]
        left = there & (made[table] >= start)
        low, high = np.maximum(start, made[table]) + offset, np.minimum(stop, last[table] + 1) + offset
        inner = np.where(there, np.where(left, stop + offset, low), 0)
        read_low = np.where(left, lives.gap_start[inner], low) if len(lives.gap_start) else low
        read_high = np.where(left, high, np.minimum(high, lives.gap_stop[inner])) if len(lives.gap_start) else high
        clear = [np.where(there, bound, 0) for bound in (low, high, read_low, read_high)]
        sizes = np.where(there, self._sizes[table], 0)
        return Items(sizes, (clear[0], clear[1]), (clear[2], clear[3]))

    def round(self, step: float) -> float:
        """The bound of this split; the next one asks more of tensors where they must be off-chip."""
        lives, items = self._lives, self._items
        writes, reads = (
            np.concatenate([[0.0], np.cumsum(pool.split(asked))])
            for pool, asked in zip((lives.writes, lives.reads), self._asked, strict=True)
        )
        price = writes[items.write[1]] - writes[items.write[0]] + reads[items.read[1]] - reads[items.read[0]]
        price = np.maximum(price, 0.0)
        slope = np.where(items.size_bytes > 0, price / np.maximum(items.size_bytes, 1), np.inf)
        order = np.argsort(slope, axis=1)
        slope = np.where(np.isinf(slope), 0.0, slope)
        slope, sizes = (np.take_along_axis(table, order, axis=1) for table in (slope, items.size_bytes.astype(float)))
        costs, tensors = self._costs(slope, sizes)
        self._count_whole(np.where(items.size_bytes > 0, price, np.inf), costs)
        bound, path = self._shortest(costs)
        for way in path:
            row = int(self._row[self._range[way]])
            if row >= 0 and tensors[way] > 0:
                self._ask(row, order[row], sizes[row], float(tensors[way]), step)
        return bound

    def _count_whole(self, price: Reals, costs: Reals) -> None:
        """Raises costs of ways to those of whole tensors, where these are more.

        So many tensors free no more than the largest, and cost no less than the cheapest. The next split follows the
        fractions all the same: asking for the tensors that are counted was better on ResNet-50 by half a per cent, and
        worse on NASNet-Mobile by a tenth.
        """
        ways = np.flatnonzero(self._row[self._range] >= 0)
        rows = self._row[self._range[ways]]
        least = np.concatenate([np.zeros((len(price), 1)), np.cumsum(np.sort(price, axis=1), axis=1)], axis=1)
        rest = np.maximum(self._excess[ways, None] - self._most_off[rows], 0.0)
        total = np.where(rest > self._weights[ways, None], np.inf, least[rows] + rest * self._again[ways, None])
        costs[ways] = np.maximum(costs[ways], total.min(axis=1))

    def _costs(self, slope: Reals, sizes: Reals) -> tuple[Reals, Reals]:
        """Per way its least cost and the bytes of tensors that are off-chip."""
        ways = np.flatnonzero(self._row[self._range] >= 0)
        rows = self._row[self._range[ways]]
        slopes, own = slope[rows], sizes[rows]
        excess, again = self._excess[ways], self._again[ways]
        cheaper = np.where(slopes < again[:, None], own, 0.0).sum(axis=1)
        first = np.minimum(excess, cheaper)
        weights = np.minimum(excess - first, self._weights[ways])
        off = excess - weights
        before = np.cumsum(own, axis=1) - own
        taken = np.clip(off[:, None] - before, 0.0, own)
        lost = (taken * slopes).sum(axis=1) + weights * again
        costs, tensors = np.zeros(len(self._range)), np.zeros(len(self._range))
        costs[ways] = np.where(off > own.sum(axis=1) + 0.5, np.inf, lost)
        tensors[ways] = off
        return costs, tensors

    def _shortest(self, costs: Reals) -> tuple[float, list[int]]:
        """The cheapest cuts of the order, as ways."""
        least = np.minimum.reduceat(costs, self._first_way[:-1])
        reach, taken = np.full(self._count + 1, np.inf), [0] * self._count
        reach[self._count] = 0.0
        for border in range(self._count - 1, -1, -1):
            first, last = self._at[border], self._at[border + 1]
            if first < last:
                total = least[first:last] + reach[self._stop[first:last]]
                best = int(total.argmin())
                reach[border], taken[border] = total[best], first + best
        path: list[int] = []
        border = 0
        while border < self._count and math.isfinite(reach[0]):
            place = int(taken[border])
            here = costs[self._first_way[place] : self._first_way[place + 1]]
            path.append(int(self._first_way[place]) + int(here.argmin()))
            border = int(self._stop[place])
        return float(reach[0]), path

    def _ask(self, row: int, order: Vector, sizes: Reals, off: float, step: float) -> None:
        for item, size in zip(order, sizes, strict=True):
            if off <= 0:
                return
            share = step * min(1.0, off / size)
            for asked, (low, high) in zip(self._asked, (self._items.write, self._items.read), strict=True):
                asked[low[row, item] : high[row, item]] += share
            off -= size


def _at_borders(net: Sequenced, lives: Lives) -> list[Vector]:
    """Tensors that live at every border."""
    found: list[list[int]] = [[] for _ in range(net.count + 1)]
    for tensor, made in enumerate(net.made_at):
        if lives.first[tensor] >= 0:
            for border in range(made + 1, net.last_read(tensor) + 1):
                found[border].append(tensor)
    return [np.asarray(here, dtype=np.int64) for here in found]
