"""The fixed-order optimum: dynamic programming over the borders between ranges.

At a border every live tensor is on chip, off chip, or both. A *label* is such a state with the cheapest way to reach
it. From each border all candidate ranges lead on; tensors that a range reads from off-chip, makes and stores, or
fetches whole are charged, and the memory that is left decides how many weights are read again. With all labels kept
the result is the optimum of the model; with at most ``width`` of them per border it is a good schedule (a restricted
decision diagram: Bergman, Cire, van Hoeve, Hooker, Decision Diagrams for Optimization, 2016).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidate
from .options import Options
from .stripes import Sequenced, Vector

Flags = NDArray[np.bool_]

MAX_EXPORTS = 7
"""Ranges that leave more tensors to later ranges are not tried: 2^n ways to keep them."""


@dataclass(frozen=True)
class Step:
    """One range as the search left it: what is whole, stored and fetched, and which frontier entry pays for it."""

    candidate: Candidate
    layout: int
    point: int
    whole: tuple[int, ...]
    stored: tuple[int, ...]
    fetched: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """Steps that cover the order, and the avoidable bytes that they move."""

    steps: tuple[Step, ...]
    cost_bytes: int


@dataclass(frozen=True)
class Outcome:
    """Result of a search: what it found below its ceiling, if anything, and whether nothing was left out."""

    found: Found | None
    complete: bool


@dataclass(frozen=True)
class Move:
    """One way to run a range for all labels of one state of its external tensors.

    Attributes:
        cost_bytes: reads and writes of activations.
        whole: flags of the choice tensors.
        on_chip: per exported and per surviving external tensor whether it is on chip after.
        copied: the same for the copy off-chip.
        fetched: external tensors that are read whole.
        stored: exported tensors of which a copy is written.
    """

    cost_bytes: int
    whole: tuple[bool, ...]
    on_chip: Mapping[int, bool]
    copied: Mapping[int, bool]
    fetched: tuple[int, ...]
    stored: tuple[int, ...]


@dataclass
class Labels:
    """All labels at one border as arrays; columns are the live tensors."""

    live: tuple[int, ...]
    on_chip: Flags
    copied: Flags
    cost: Vector
    back: NDArray[np.int64]
    """Per label: previous border, label there, index in the list of uses."""


class Search:
    """One search over one order with one budget."""

    def __init__(
        self, net: Sequenced, found: Sequence[Candidate], options: Options, width: int, deadline: float
    ) -> None:
        self._net, self._options, self._width, self._deadline = net, options, width, deadline
        self._sizes = np.asarray([tensor.size_bytes for tensor in net.problem.tensors], dtype=np.int64)
        self._by_start: list[list[Candidate]] = [[] for _ in range(net.count)]
        for candidate in found:
            self._by_start[candidate.start].append(candidate)
        self._live = [self._live_at(border) for border in range(net.count + 1)]
        self._blocks: list[list[tuple[Flags, Flags, Vector, NDArray[np.int64]]]] = [[] for _ in range(net.count + 1)]
        self._uses: list[tuple[Candidate, Move, int]] = []
        self._kept: list[Labels] = []
        self._complete = True

    def run(self, ceiling_bytes: int | None = None) -> Outcome:
        """The cheapest way through that costs less than the ceiling."""
        width = len(self._live[0])
        start = np.ones((1, width), dtype=np.bool_)
        self._blocks[0].append((start, ~start, np.zeros(1, np.int64), np.full((1, 3), -1, dtype=np.int64)))
        for border in range(self._net.count + 1):
            labels = self._gather(border, ceiling_bytes)
            self._kept.append(labels)
            if border < self._net.count and len(labels.cost):
                self._expand(border, labels)
            if time.perf_counter() > self._deadline:
                return Outcome(None, complete=False)
        final = self._kept[-1]
        if not len(final.cost):
            return Outcome(None, self._complete)
        return Outcome(self._trace(int(np.argmin(final.cost)), int(final.cost.min())), self._complete)

    def _live_at(self, border: int) -> tuple[int, ...]:
        """Tensors whose place matters at the border: made before it, needed after it."""
        net, options = self._net, self._options
        live: list[int] = []
        for tensor, made in enumerate(net.made_at):
            role = net.problem.tensors[tensor].role
            if made >= border or (role == "input" and not options.no_spill):
                continue
            to_the_end = role == "output" and options.no_spill
            readers = net.read_at[tensor]
            if (made >= 0 or readers) and (to_the_end or (readers and readers[-1] >= border)):
                live.append(tensor)
        return tuple(live)

    def _gather(self, border: int, ceiling_bytes: int | None) -> Labels:
        live = self._live[border]
        blocks = self._blocks[border]
        self._blocks[border] = []
        if not blocks:
            empty = np.zeros((0, len(live)), dtype=np.bool_)
            return Labels(live, empty, empty, np.zeros(0, np.int64), np.zeros((0, 3), np.int64))
        on_chip, copied, cost, back = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
        promised = cost + self._future_reads(border, on_chip)
        order = np.lexsort((cost, promised))
        if ceiling_bytes is not None:
            order = order[promised[order] < ceiling_bytes]
        order = order[_first_of_each(on_chip[order], copied[order])]
        order = order[_undominated(on_chip[order], copied[order], cost[order])]
        if len(order) > self._width:
            self._complete = False
            order = order[: self._width]
        return Labels(live, on_chip[order], copied[order], cost[order], back[order])

    def _future_reads(self, border: int, on_chip: Flags) -> Vector:
        """What is off-chip must be read once more, unless a concatenation takes it from there."""
        weight = np.asarray(
            [0 if self._joins_later(t, border) else self._least_read(t, border) for t in self._live[border]],
            dtype=np.int64,
        )
        return (~on_chip).astype(np.int64) @ weight

    def _least_read(self, tensor: int, border: int) -> int:
        readers = (position for position in self._net.read_at[tensor] if position >= border)
        return min((self._read_bytes(tensor, position, position) for position in readers), default=0)

    def _joins_later(self, tensor: int, border: int) -> bool:
        readers = [position for position in self._net.read_at[tensor] if position >= border]
        return all(tensor in self._net.parts[position] for position in readers)

    def _expand(self, border: int, labels: Labels) -> None:
        chip, copied, source = _with_drops(labels)
        memory = chip.astype(np.int64) @ self._sizes[list(labels.live)]
        column = {tensor: place for place, tensor in enumerate(labels.live)}
        for candidate in self._by_start[border]:
            if len(candidate.choices) - candidate.external > MAX_EXPORTS:
                self._complete = False
                continue
            outside = candidate.choices[: candidate.external]
            columns = [column[tensor] for tensor in outside]
            states = np.concatenate([chip[:, columns], copied[:, columns]], axis=1)
            for state, rows in _groups(states):
                flags = {t: (state[k], state[k + len(outside)]) for k, t in enumerate(outside)}
                rest = memory[rows] - sum(self._sizes[t] for t in outside if flags[t][0])
                for move in self._moves(candidate, flags):
                    self._apply(border, labels, candidate, move, (chip, copied, source), rows, rest)

    def _apply(
        self,
        border: int,
        labels: Labels,
        candidate: Candidate,
        move: Move,
        states: tuple[Flags, Flags, Vector],
        rows: Vector,
        rest: Vector,
    ) -> None:
        frontier = candidate.frontier(move.whole)
        entry = np.searchsorted(frontier.memory, self._options.budget_bytes - rest, side="right") - 1
        fits = entry >= 0
        if not fits.any():
            return
        rows, entry = rows[fits], entry[fits]
        chip, copied, source = states
        after = self._live[candidate.end + 1]
        column = {tensor: place for place, tensor in enumerate(labels.live)}
        new_chip = np.empty((len(rows), len(after)), dtype=np.bool_)
        new_copied = np.empty_like(new_chip)
        for place, tensor in enumerate(after):
            if tensor in move.on_chip:
                new_chip[:, place], new_copied[:, place] = move.on_chip[tensor], move.copied[tensor]
            else:
                new_chip[:, place], new_copied[:, place] = chip[rows, column[tensor]], copied[rows, column[tensor]]
        cost = labels.cost[source[rows]] + move.cost_bytes + frontier.reread[entry]
        back = np.empty((len(rows), 3), dtype=np.int64)
        back[:, 0], back[:, 1] = border, source[rows]
        used, inverse = np.unique(entry, return_inverse=True)
        back[:, 2] = len(self._uses) + inverse
        self._uses.extend((candidate, move, int(index)) for index in used)
        self._blocks[candidate.end + 1].append((new_chip, new_copied, cost, back))

    def _moves(self, candidate: Candidate, outside: Mapping[int, tuple[bool, bool]]) -> Iterator[Move]:
        """Every sensible combination of: external tensors fetched whole, exported tensors kept and stored."""
        net = self._net
        fetchable = [
            tensor
            for tensor, (on_chip, _) in outside.items()
            if not on_chip and net.last_read(tensor) > candidate.end and not self._options.no_spill
        ]
        exported = candidate.choices[candidate.external :]
        for fetch in product((False, True), repeat=len(fetchable)):
            fetched = tuple(tensor for tensor, flag in zip(fetchable, fetch, strict=True) if flag)
            for fates in product(*(self._fates(tensor, candidate.end) for tensor in exported)):
                yield self._move(candidate, outside, fetched, dict(zip(exported, fates, strict=True)))

    def _fates(self, tensor: int, end: int) -> tuple[tuple[bool, bool], ...]:
        """(on chip, copy off-chip) that make sense for a tensor that is made here and needed later."""
        if self._options.no_spill:
            return ((True, False),)
        if self._net.problem.tensors[tensor].role == "output":
            return ((True, True), (False, True))
        later = sum(position > end for position in self._net.read_at[tensor])
        return ((True, False), (False, True), (True, True)) if later > 1 else ((True, False), (False, True))

    def _move(
        self,
        candidate: Candidate,
        outside: Mapping[int, tuple[bool, bool]],
        fetched: tuple[int, ...],
        fates: Mapping[int, tuple[bool, bool]],
    ) -> Move:
        on_chip = {tensor: flags[0] or tensor in fetched for tensor, flags in outside.items()}
        copied = {tensor: flags[1] for tensor, flags in outside.items()}
        cost = sum(
            int(self._sizes[t]) if t in fetched else self._read_bytes(t, candidate.start, candidate.end)
            for t, flags in outside.items()
            if not flags[0]
        )
        on_chip |= {tensor: fate[0] for tensor, fate in fates.items()}
        copied |= {tensor: fate[1] for tensor, fate in fates.items()}
        cost += sum(self._write_bytes(t, copied) for t, fate in fates.items() if fate[1])
        cost -= self._left_off_chip(candidate, outside, on_chip, copied)
        whole = tuple(on_chip[tensor] for tensor in candidate.choices)
        stored = tuple(tensor for tensor, fate in fates.items() if fate[1])
        return Move(cost, whole, on_chip, copied, fetched, stored)

    def _write_bytes(self, tensor: int, copied: Mapping[int, bool]) -> int:
        """Bytes written for a copy: parts of a concatenation that are off-chip already are in their place."""
        net = self._net
        if net.problem.tensors[tensor].role == "output":
            return 0
        there = sum(int(self._sizes[part]) for part in net.parts[net.made_at[tensor]] if copied.get(part))
        return max(int(self._sizes[tensor]) - there, 0)

    def _left_off_chip(
        self,
        candidate: Candidate,
        outside: Mapping[int, tuple[bool, bool]],
        on_chip: Mapping[int, bool],
        copied: Mapping[int, bool],
    ) -> int:
        """Bytes of parts that need not be read: nobody in the range wants their concatenation on chip."""
        net, saved = self._net, 0
        for tensor, flags in outside.items():
            readers = [p for p in net.read_at[tensor] if candidate.start <= p <= candidate.end]
            joined = net.output(readers[0])
            alone = len(readers) == 1 and tensor in net.parts[readers[0]] and not flags[0] and not on_chip[tensor]
            stays_off = copied.get(joined, net.problem.tensors[joined].role == "output") and not on_chip.get(joined)
            read_here = any(candidate.start <= p <= candidate.end for p in net.read_at[joined])
            if alone and stays_off and not read_here:
                saved += self._read_bytes(tensor, candidate.start, candidate.end)
        return saved

    def _read_bytes(self, tensor: int, start: int, end: int) -> int:
        """Bytes of the rows that readers in ``start .. end`` need; strides skip rows at the end."""
        net = self._net
        ends = [
            rows.needed(rows.rows_out)
            for rows in (net.maps[p][tensor] for p in net.read_at[tensor] if start <= p <= end)
        ]
        rows, source = max(ends), net.problem.tensors[tensor]
        return source.size_bytes if rows == source.rows else rows * source.row_bytes

    def _trace(self, label: int, cost: int) -> Found:
        steps: list[Step] = []
        border = self._net.count
        while border > 0:
            previous, source, use = (int(value) for value in self._kept[border].back[label])
            candidate, move, entry = self._uses[use]
            before = self._kept[previous]
            arrived = self._kept[border]
            layout, point = candidate.frontier(move.whole).choice[entry]
            touched = dict(zip(candidate.choices, move.whole, strict=True))
            passing = [
                t
                for place, t in enumerate(arrived.live)
                if t not in touched and t in before.live and arrived.on_chip[label, place]
            ]
            whole = sorted([*(t for t, flag in touched.items() if flag), *passing])
            steps.append(Step(candidate, layout, point, tuple(whole), move.stored, move.fetched))
            border, label = previous, source
        return Found(tuple(reversed(steps)), cost)


def _with_drops(labels: Labels) -> tuple[Flags, Flags, Vector]:
    """The labels, and again without tensors on chip of which there is a copy off-chip; with the label each is from."""
    chip, copied, source = labels.on_chip, labels.copied, np.arange(len(labels.cost), dtype=np.int64)
    for place in range(chip.shape[1]):
        both = chip[:, place] & copied[:, place]
        if both.any():
            dropped = chip[both].copy()
            dropped[:, place] = False
            chip = np.concatenate([chip, dropped])
            copied, source = np.concatenate([copied, copied[both]]), np.concatenate([source, source[both]])
    return chip, copied, source


def _groups(states: Flags) -> Iterator[tuple[list[bool], Vector]]:
    """Distinct rows with the indices at which they occur."""
    if not states.shape[1]:
        yield [], np.arange(len(states), dtype=np.int64)
        return
    packed = np.packbits(states, axis=1)
    _, first, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    for group, row in enumerate(first):
        yield [bool(flag) for flag in states[row]], np.flatnonzero(inverse == group)


def _first_of_each(on_chip: Flags, copied: Flags) -> Vector:
    """Indices of the first row of every distinct state, ascending."""
    if not on_chip.shape[1]:
        return np.arange(min(len(on_chip), 1), dtype=np.int64)
    packed = np.packbits(np.concatenate([on_chip, copied], axis=1), axis=1)
    _, first = np.unique(packed, axis=0, return_index=True)
    return np.sort(first)


def _undominated(on_chip: Flags, copied: Flags, cost: Vector) -> Vector:
    """Indices of labels that no cheaper one can replace: equal, except for tensors it has in both places."""
    both = on_chip & copied
    if not both.any():
        return np.arange(len(cost), dtype=np.int64)
    one = (on_chip & ~copied).astype(np.int32), (~on_chip).astype(np.int32)
    lacking = np.zeros((len(cost), len(cost)), dtype=np.int32)
    lacking += one[0] @ copied.T.astype(np.int32)
    lacking += one[1] @ on_chip.T.astype(np.int32)
    better = (lacking == 0) & (cost[:, None] <= cost[None, :])
    np.fill_diagonal(better, val=False)
    return np.flatnonzero(~better.any(axis=0))
