"""Depth-first ranges that end at one operator: how much line buffer they need, for every start and stripe height.

Demand driven: in stripe ``q`` the last operator makes its next ``h`` rows, and every other operator of the range as
many rows as its readers in the range need for that. A line buffer holds, in the worst stripe, all rows from the first
that a reader still needs to the last that was made. Nothing is computed twice. Ranges with the same end share the
demand of their operators, so that a range is extended at its front in constant time; stripe heights are handled
together as one vector of all their stripes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Problem
from .rows import RowMap, operand_maps, overwritable, parts

Vector = NDArray[np.int64]


@dataclass(frozen=True)
class Sequenced:
    """A problem with an order: what the search asks again and again, by position in the order.

    Attributes:
        problem: the network.
        order: positions in ``problem.operators``.
        maps: per position the row map of every tensor it reads.
        overwritable: per position the operands that its result may overwrite.
        parts: per position the operands that a concatenation may leave in place.
        made_at: per tensor the position that makes it, -1 for inputs of the network.
        read_at: per tensor the positions that read it, ascending.
        rows: per tensor its rows.
        row_bytes: per tensor the bytes of a row.
    """

    problem: Problem
    order: tuple[int, ...]
    maps: tuple[dict[int, RowMap], ...]
    overwritable: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[int, ...], ...]
    made_at: tuple[int, ...]
    read_at: tuple[tuple[int, ...], ...]

    rows: tuple[int, ...]
    row_bytes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Operators."""
        return len(self.order)

    def output(self, position: int) -> int:
        """The tensor that the operator at this position makes."""
        return self.problem.operators[self.order[position]].output

    def last_read(self, tensor: int) -> int:
        """Position of the last reader, or of the producer if there is none."""
        readers = self.read_at[tensor]
        return readers[-1] if readers else self.made_at[tensor]


def sequenced(problem: Problem, order: Sequence[int], *, atomic: bool = False) -> Sequenced:
    """The problem in this order; ``atomic`` leaves out rows and shared memory."""
    problem = problem.without_shapes() if atomic else problem
    operators = [problem.operators[index] for index in order]
    position = {index: place for place, index in enumerate(order)}
    return Sequenced(
        problem,
        tuple(order),
        tuple(operand_maps(problem, operator) for operator in operators),
        tuple(() if atomic else overwritable(problem, operator) for operator in operators),
        tuple(() if atomic else parts(problem, operator) for operator in operators),
        tuple(-1 if made is None else position[made] for made in problem.producer),
        tuple(tuple(sorted(position[reader] for reader in readers)) for readers in problem.consumers),
        tuple(tensor.rows for tensor in problem.tensors),
        tuple(tensor.row_bytes for tensor in problem.tensors),
    )


@dataclass(frozen=True)
class Lane:
    """Memory that one or more tensors of a range use one after the other, row by row.

    Attributes:
        members: tensors, the first is the one that fills it.
        whole_bytes: its size if one of the members is on chip whole.
        line_bytes: per stripe height its size otherwise.
    """

    members: tuple[int, ...]
    whole_bytes: int
    line_bytes: Vector


@dataclass(frozen=True)
class Stripes:
    """One range ``start .. end`` (both included) with everything that does not depend on what stays on chip.

    Attributes:
        start: first position.
        end: last position.
        heights: stripe heights; all arrays follow their order.
        external: tensors that are made before the range and read in it.
        exported: tensors that are made in the range and read after it.
        layouts: alternative ways to share memory: lanes and pairs (tensor, host).
    """

    start: int
    end: int
    heights: tuple[int, ...]
    external: tuple[int, ...]
    exported: tuple[int, ...]
    layouts: tuple[tuple[tuple[Lane, ...], tuple[tuple[int, int], ...]], ...]


def stripe_heights(rows: int, least: int, alone: bool) -> tuple[int, ...]:
    """Heights worth trying: the smallest for each of a geometric choice of stripe counts, all rows only where alone."""
    if rows <= least:
        return (rows,)
    counts = {rows // step for step in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if rows // step} | {2, 3}
    heights = {-(-rows // count) for count in counts}
    if alone:
        heights.add(rows)
    fitting = tuple(sorted(height for height in heights if height >= least and (alone or height < rows)))
    return fitting or (rows,)


class Extender:
    """All ranges that end at one position, from the shortest to the longest."""

    def __init__(self, net: Sequenced, end: int, min_rows: int) -> None:
        self._net = net
        self._end = end
        rows = net.rows[net.output(end)]
        self._alone = stripe_heights(rows, min_rows, alone=True)
        heights = stripe_heights(rows, min_rows, alone=False)
        self._many = tuple(height for height in heights if height < rows)
        counts = [-(-rows // height) for height in self._alone]
        self._starts = np.cumsum([0, *counts[:-1]])
        self._stripe = np.concatenate([np.arange(1, count + 1, dtype=np.int64) for count in counts])
        self._counts = np.repeat(np.asarray(counts, dtype=np.int64), counts)
        self._driver = np.minimum(rows, self._stripe * np.repeat(np.asarray(self._alone, dtype=np.int64), counts))
        self._made: dict[int, Vector] = {}
        self._before: dict[int, Vector] = {}
        self._low: dict[int, Vector] = {}
        self._high: dict[int, Vector] = {}
        self._readers: dict[int, list[int]] = {}
        self._lanes: dict[tuple[tuple[int, int, bool], ...], Vector] = {}

    @property
    def heights(self) -> int:
        """Number of stripe heights of the longest list; ranges of several operators use the first of them."""
        return len(self._alone)

    def ranges(self, most_exports: int) -> Iterator[tuple[int, Stripes | None, Vector]]:
        """Start, range, and the stripes per height in which its first operator works; from the shortest range on.

        Ranges of several operators have at least two stripes; ``None`` where there are none, or where more than
        ``most_exports`` tensors are left to later ranges.
        """
        for start in range(self._end, -1, -1):
            self._extend(start)
            working = self._made[start] > self._before[start]
            yield start, self._stripes(start, most_exports), np.add.reduceat(working.astype(np.int64), self._starts)
            if not self._many:
                return

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

    def _demand(self, position: int, tensor: int) -> Vector:
        rows = self._net.rows[tensor]
        if position == self._end:
            return self._driver
        made = self._high[tensor].copy() if tensor in self._high else -(-rows * self._stripe // self._counts)
        made[self._stripe == self._counts] = rows
        return made

    def _stripes(self, start: int, most_exports: int) -> Stripes | None:
        alone = start == self._end
        heights = self._alone if alone else self._many
        if not heights:
            return None
        net = self._net
        outputs = [net.output(position) for position in range(start, self._end + 1)]
        exported = tuple(t for t in outputs if net.read_at[t] and net.read_at[t][-1] > self._end)
        if len(exported) > most_exports and not alone:
            return None
        touched = dict.fromkeys(t for position in range(start, self._end + 1) for t in net.maps[position])
        external = tuple(tensor for tensor in touched if net.made_at[tensor] < start)
        layouts = tuple(self._layouts(start, len(heights)))
        return Stripes(start, self._end, heights, external, exported, layouts)

    def _layouts(self, start: int, count: int) -> Iterator[tuple[tuple[Lane, ...], tuple[tuple[int, int], ...]]]:
        both = dict.fromkeys(tuple(self._in_place(start, outside_first)) for outside_first in (True, False))
        for pairs in both:
            yield self._shared(start, pairs, count), pairs

    def _in_place(self, start: int, outside_first: bool) -> list[tuple[int, int]]:
        """Pairs (tensor, host) of the range: operands that a result overwrites, parts of concatenations."""
        net, pairs, taken = self._net, list[tuple[int, int]](), set[int]()
        for position in range(start, self._end + 1):
            result = net.output(position)
            for part in net.parts[position]:
                if part not in taken and self._ends_here(part):
                    pairs.append((part, result))
                    taken.add(part)
            operands = [tensor for tensor in net.overwritable[position] if tensor not in taken]
            free = [t for t in operands if all(self._may_overwrite(m, position) for m in held(net, t, pairs))]
            if free:
                free.sort(key=lambda t: (net.made_at[t] < start) != outside_first)
                pairs.append((free[0], result))
                taken.add(free[0])
        return pairs

    def _ends_here(self, tensor: int) -> bool:
        return self._net.last_read(tensor) <= self._end and self._net.problem.tensors[tensor].role == "activation"

    def _may_overwrite(self, tensor: int, position: int) -> bool:
        """Whether all other readers are done with a row of the tensor when the result's row takes its place."""
        if not self._ends_here(tensor):
            return False
        made = self._made[position]
        for reader in self._readers[tensor]:
            if reader > position:
                return False
            if reader < position:
                free_up_to = first_rows(self._net.maps[reader][tensor], self._made[reader])
                if bool((free_up_to < made).any()):
                    return False
        return True

    def _shared(self, start: int, pairs: Sequence[tuple[int, int]], count: int) -> tuple[Lane, ...]:
        lanes = share(self._net, start, self._end, pairs)
        return tuple(
            Lane(tuple(members), size, np.minimum(self._line_rows(members)[:count] * row_bytes, size))
            for members, row_bytes, size in lanes
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


def held(net: Sequenced, tensor: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The tensor and the parts that were left in place in it, directly or through another concatenation."""
    found = [tensor]
    for known in found:
        parts_of = net.parts[net.made_at[known]] if net.made_at[known] >= 0 else ()
        found.extend(guest for guest, host in pairs if host == known and guest in parts_of)
    return found


def share(net: Sequenced, start: int, end: int, pairs: Sequence[tuple[int, int]]) -> list[tuple[list[int], int, int]]:
    """Lanes of a range as (members, bytes per row, bytes of all rows).

    A tensor in place of another joins its lanes; a concatenation has the lanes of the parts that stay where they are
    and one for the rest.
    """
    tensors = net.problem.tensors
    guests: dict[int, list[int]] = {}
    for guest, host in pairs:
        guests.setdefault(host, []).append(guest)
    lanes: list[tuple[list[int], int, int]] = []
    of: dict[int, list[tuple[list[int], int, int]]] = {}

    def open_lanes(tensor: int) -> list[tuple[list[int], int, int]]:
        own = [lane for guest in guests.get(tensor, ()) for lane in of[guest]]
        for members, _, _ in own:
            members.append(tensor)
        rest = tensors[tensor].size_bytes - sum(size for _, _, size in own)
        if rest > 0 or not own:
            fresh = ([tensor], -(-max(rest, 0) // net.rows[tensor]), max(rest, 0))
            own.append(fresh)
            lanes.append(fresh)
        return own

    for position in range(start, end + 1):
        for tensor in net.maps[position]:
            if tensor not in of:
                of[tensor] = open_lanes(tensor)
        tensor = net.output(position)
        of[tensor] = open_lanes(tensor)
    return lanes


def needed_rows(rows: RowMap, made: Vector) -> Vector:
    """:meth:`RowMap.needed` of a vector."""
    if not rows.step:
        return np.where(made > 0, rows.rows_in, 0)
    last = (made - 1) * rows.numerator // rows.denominator * rows.step - rows.top + rows.extent
    return np.where(made > 0, np.clip(last, 0, rows.rows_in), 0)


def first_rows(rows: RowMap, made: Vector) -> Vector:
    """:meth:`RowMap.first` of a vector."""
    if not rows.step:
        return np.where(made >= rows.rows_out, rows.rows_in, 0)
    start = made * rows.numerator // rows.denominator * rows.step - rows.top
    return np.where(made >= rows.rows_out, rows.rows_in, np.clip(start, 0, rows.rows_in))
