"""Depth-first ranges that end at one operator: how much line buffer they need, for every start and stripe height.

Demand driven: in stripe ``q`` the last operator makes its next ``h`` rows, and every other operator of the range as
many rows as its readers in the range need for that. A line buffer holds, in the worst stripe, all rows from the first
that a reader still needs to the last that was made. Nothing is computed twice. Ranges with the same end share the
demand of their operators, so that a range is extended at its front in constant time; stripe heights are handled
together as one vector of all their stripes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from .bands import Cut
from .rows import Vector, first_rows, needed_rows
from .sequenced import Sequenced
from .sharing import held, share

Flags = NDArray[np.bool_]

Pairs = tuple[tuple[int, int], ...]
"""Tensors with the hosts in whose memory they live."""

MOST_STRIPES = 1 << 16
"""Into which a range is cut: thinner stripes of very long tensors are not tried."""

MAX_LINES = 3
"""Operands that later ranges read too, for which every choice of those that are overwritten is tried."""


@dataclass(frozen=True)
class Lane:
    """Memory that one or more tensors of a range use one after the other, row by row.

    Attributes:
        members: tensors, the first is the one that fills it.
        whole_bytes: its size if one of the members is on chip whole.
        line_bytes: per stripe height its size otherwise.
        line_rows: per stripe height the rows that it holds at most.
        row_bytes: of one row.
    """

    members: tuple[int, ...]
    whole_bytes: int
    line_bytes: Vector
    line_rows: Vector
    row_bytes: int


@dataclass(frozen=True)
class Layout:
    """One way to share the memory of a range.

    Attributes:
        lanes: all pieces of memory.
        pairs: (tensor, host): the first lives in the memory of the second from here on.
        lines: tensors that are overwritten although later ranges read them: right only where they are not whole.
        heights: stripe heights at which every reader is done with a row before it is overwritten.
    """

    lanes: tuple[Lane, ...]
    pairs: tuple[tuple[int, int], ...]
    lines: frozenset[int]
    heights: Flags


@dataclass(frozen=True)
class Stripes:
    """One range ``start .. end`` (both included) with everything that does not depend on what stays on chip.

    Attributes:
        start: first position.
        end: last position.
        heights: stripe heights; all arrays follow their order.
        external: tensors that are made before the range and read in it.
        exported: tensors that are made in the range and read after it.
        layouts: alternative ways to share memory.
        cut: how it is cut along a second axis, if it is.
    """

    start: int
    end: int
    heights: tuple[int, ...]
    external: tuple[int, ...]
    exported: tuple[int, ...]
    layouts: tuple[Layout, ...]
    cut: Cut | None = None


def stripe_heights(rows: int, least: int) -> tuple[int, ...]:
    """Heights worth trying: the smallest for each of a geometric choice of stripe counts, and all rows."""
    thinnest = -(-rows // MOST_STRIPES)
    least = max(least, thinnest)
    if rows <= least:
        return (rows,)
    counts = {rows // step for step in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if rows // step} | {2, 3}
    heights = {-(-rows // count) for count in counts}
    kept = {height for height in heights if height >= least} | ({least} if thinnest > 1 else set[int]())
    return tuple(sorted(kept | {rows}))


class Extender:
    """All ranges that end at one position, from the shortest to the longest."""

    def __init__(self, net: Sequenced, end: int, min_rows: int, *, no_spill: bool, thorough: bool) -> None:
        self._thorough = thorough
        self._net = net
        self._no_spill = no_spill
        self._end = end
        rows = net.rows[net.output(end)]
        self._all = stripe_heights(rows, min_rows)
        counts = [-(-rows // height) for height in self._all]
        self._starts = np.cumsum([0, *counts[:-1]])
        self._stripe = np.concatenate([np.arange(1, count + 1, dtype=np.int64) for count in counts])
        self._counts = np.repeat(np.asarray(counts, dtype=np.int64), counts)
        self._driver = np.minimum(rows, self._stripe * np.repeat(np.asarray(self._all, dtype=np.int64), counts))
        self._made: dict[int, Vector] = {}
        self._before: dict[int, Vector] = {}
        self._low: dict[int, Vector] = {}
        self._high: dict[int, Vector] = {}
        self._readers: dict[int, list[int]] = {}
        self._lanes: dict[tuple[tuple[int, int, bool], ...], Vector] = {}
        self._finished: dict[tuple[int, int, int], Flags] = {}
        self._own: dict[int, Vector] = {}
        self._least = np.zeros(len(counts), dtype=np.int64)

    @property
    def heights(self) -> int:
        """Number of stripe heights."""
        return len(self._all)

    @property
    def least_bytes(self) -> int:
        """Memory that neither the range so far nor a longer one can do without."""
        return int(self._least.min())

    def own_lines(self, tensor: int) -> Vector | None:
        """What the line buffer of a tensor that shares no memory takes in every stripe of every height."""
        return self._own.get(tensor)

    def lines(self) -> Iterator[tuple[int, Vector, Vector]]:
        """As :meth:`ranges`, without sharing memory: start, stripes of its first operator, and least line buffers.

        Those of what the range makes itself and what cannot come to lie in another's memory, per stripe height.
        """
        inside = np.zeros(len(self._all), dtype=np.int64)
        for start in range(self._end, -1, -1):
            self._extend(start)
            inside = inside + self._own.get(self._net.output(start), 0)
            working = self._made[start] > self._before[start]
            yield start, np.add.reduceat(working.astype(np.int64), self._starts), inside

    def ranges(self, most_exports: int) -> Iterator[tuple[int, Stripes | None, Vector]]:
        """Start, range, and the stripes per height in which its first operator works; from the shortest range on.

        ``None`` where more than ``most_exports`` tensors are left to later ranges.
        """
        for start in range(self._end, -1, -1):
            self._extend(start)
            working = self._made[start] > self._before[start]
            yield start, self._stripes(start, most_exports), np.add.reduceat(working.astype(np.int64), self._starts)

    def _extend(self, position: int) -> None:
        net = self._net
        tensor = net.output(position)
        made = self._demand(position, tensor)
        before = np.concatenate([[0], made[:-1]])
        before[self._starts] = 0
        self._made[position], self._before[position] = made, before
        for source, rows in net.maps[position].items():
            low, high = first_rows(rows, before), needed_rows(rows, made)
            if source in self._low:
                low, high = np.minimum(low, self._low[source]), np.maximum(high, self._high[source])
            self._low[source], self._high[source] = low, high
            self._readers.setdefault(source, []).append(position)
        self._high[tensor] = made
        if tensor not in self._low:
            self._low[tensor] = before
        for touched in (*net.maps[position], tensor):
            self._count(touched)

    def _count(self, tensor: int) -> None:
        """Line buffers that no longer range can do without: of tensors that never come to lie in another's memory.

        They never get smaller as the range grows at its front, since readers join and none goes.
        """
        made = self._net.made_at[tensor]
        if made >= 0 and (self._net.overwritable[made] or self._net.parts[made]):
            return
        size = self._net.problem.tensors[tensor].size_bytes
        line = np.minimum(self._line_rows((tensor,)) * self._net.row_bytes[tensor], size)
        self._least = self._least + line - self._own.get(tensor, 0)
        self._own[tensor] = line

    def _demand(self, position: int, tensor: int) -> Vector:
        rows = self._net.rows[tensor]
        if position == self._end:
            return self._driver
        made = self._high[tensor].copy() if tensor in self._high else -(-rows * self._stripe // self._counts)
        made[self._stripe == self._counts] = rows
        return made

    def _stripes(self, start: int, most_exports: int) -> Stripes | None:
        net = self._net
        outputs = [net.output(position) for position in range(start, self._end + 1)]
        exported = tuple(t for t in outputs if net.read_at[t] and net.read_at[t][-1] > self._end)
        if len(exported) > most_exports and start < self._end:
            return None
        touched = dict.fromkeys(t for position in range(start, self._end + 1) for t in net.maps[position])
        external = tuple(tensor for tensor in touched if net.made_at[tensor] < start)
        layouts = tuple(self._layouts(start))
        return Stripes(start, self._end, self._all, external, exported, layouts)

    def _layouts(self, start: int) -> Iterator[Layout]:
        """Ways to share memory: which operand goes first, and which tensors are gone although they are read later."""
        known: set[Pairs] = set()
        for lines in self._line_sets(start):
            for pairs in self._sharings(start, lines):
                if pairs in known:
                    continue
                known.add(pairs)
                used = frozenset(guest for guest, _ in pairs if guest in lines)
                yield Layout(self._shared(start, pairs), pairs, used, self._valid(pairs))

    def _sharings(self, start: int, lines: frozenset[int]) -> Iterator[Pairs]:
        """What may be overwritten at all heights, and, where some allow more than others, at each of them."""
        for outside_first, joined in product(
            (True, False), (True, False) if self._thorough and self._joins(start) else (True,)
        ):
            always = self._in_place(start, lines, lambda done: bool(done.all()), outside_first, joined)
            yield always
            if not self._thorough:
                continue
            if self._in_place(start, lines, lambda done: bool(done.any()), outside_first, joined) != always:
                for height in range(len(self._all)):
                    one = partial(_at, height)
                    yield self._in_place(start, lines, one, outside_first, joined)

    def _joins(self, start: int) -> bool:
        """Whether a result may overwrite a concatenation, which parts that stay in their place may not allow."""
        net, inside = self._net, range(start, self._end + 1)
        joined = {net.output(position) for position in inside if net.parts[position]}
        return any(tensor in joined for position in inside for tensor in net.overwritable[position])

    def _valid(self, pairs: Pairs) -> Flags:
        """Heights at which all that is overwritten is not needed any more."""
        valid = np.ones(len(self._all), dtype=np.bool_)
        for guest, host in pairs:
            position = self._net.made_at[host]
            if guest not in self._net.parts[position]:
                for member in held(self._net, guest, pairs):
                    valid &= self._done(member, position)
        return valid

    def _line_sets(self, start: int) -> list[frozenset[int]]:
        """Sets of operands that may be overwritten although later ranges read them: they have a copy off-chip then."""
        if self._no_spill:
            return [frozenset()]
        net = self._net
        guests = dict.fromkeys(
            tensor
            for position in range(start, self._end + 1)
            for tensor in (*net.overwritable[position], *net.parts[position])
            if net.last_read(tensor) > self._end
        )
        free = [tensor for tensor in guests if net.problem.tensors[tensor].role == "input"]
        kept = [tensor for tensor in guests if net.problem.tensors[tensor].role != "input"]
        few = self._thorough and len(kept) <= MAX_LINES
        sizes = range(len(kept) + 1) if few else (0, len(kept))
        return [frozenset((*free, *chosen)) for size in sizes for chosen in combinations(kept, size)]

    def _in_place(
        self, start: int, lines: frozenset[int], enough: Callable[[Flags], bool], outside_first: bool, joined: bool
    ) -> Pairs:
        """Pairs (tensor, host) of the range: operands that a result overwrites, parts of concatenations."""
        net, pairs, taken = self._net, list[tuple[int, int]](), set[int]()
        for position in range(start, self._end + 1):
            result = net.output(position)
            for part in net.parts[position] if joined else ():
                if part not in taken and self._ends_here(part, lines):
                    pairs.append((part, result))
                    taken.add(part)
            operands = [tensor for tensor in net.overwritable[position] if tensor not in taken]
            free = [
                tensor
                for tensor in operands
                if all(
                    self._ends_here(member, lines) and enough(self._done(member, position))
                    for member in held(net, tensor, pairs)
                )
            ]
            if free:
                free.sort(key=lambda t: (net.made_at[t] < start) != outside_first)
                pairs.append((free[0], result))
                taken.add(free[0])
        return tuple(pairs)

    def _ends_here(self, tensor: int, lines: frozenset[int]) -> bool:
        kept = self._no_spill and self._net.problem.tensors[tensor].role == "output"
        return tensor in lines or (self._net.last_read(tensor) <= self._end and not kept)

    def _done(self, tensor: int, position: int) -> Flags:
        """Per height, whether all other readers are done with a row when the result's row takes its place."""
        readers = self._readers[tensor]
        key = (tensor, position, len(readers))
        known = self._finished.get(key)
        if known is None:
            known = np.full(len(self._all), all(reader <= position for reader in readers))
            for reader in readers:
                if reader < position:
                    free = first_rows(self._net.maps[reader][tensor], self._made[reader]) >= self._made[position]
                    known &= np.logical_and.reduceat(free, self._starts)
            self._finished[key] = known
        return known

    def _shared(self, start: int, pairs: Sequence[tuple[int, int]]) -> tuple[Lane, ...]:
        lanes = share(self._net, start, self._end, pairs)
        return tuple(
            Lane(tuple(members), size, np.minimum(rows * row_bytes, size), rows, row_bytes)
            for members, row_bytes, size in lanes
            for rows in (self._line_rows(members),)
        )

    def _span(self, tensor: int) -> tuple[Vector, Vector]:
        """First and last row per stripe: what is still needed, and all that arrives even if strides skip it."""
        high = self._high[tensor]
        arrived = np.concatenate([[0], high[:-1]])
        arrived[self._starts] = 0
        return np.minimum(self._low[tensor], arrived), high

    def _line_rows(self, members: Sequence[int]) -> Vector:
        """Most rows at a time, per height, of a lane with these members."""
        made_at = self._net.made_at
        key = tuple((tensor, len(self._readers.get(tensor, ())), made_at[tensor] in self._made) for tensor in members)
        known = self._lanes.get(key)
        if known is None:
            low, high = self._span(members[0])
            for tensor in members[1:]:
                lower, higher = self._span(tensor)
                low, high = np.minimum(low, lower), np.maximum(high, higher)
            known = np.maximum.reduceat(np.maximum(high - low, 0), self._starts)
            self._lanes[key] = known
        return known


def _at(height: int, done: Flags) -> bool:
    return bool(done[height])
