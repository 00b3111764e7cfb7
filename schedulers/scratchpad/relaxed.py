"""What no schedule of an order can be below: the search over borders with labels merged where there are too many.

A merged label stands for several. It costs what the cheapest of them costs, takes the memory of the smallest, and of
every tensor it knows whether all, some or none of them have it on chip. A range that reads a tensor that some have is
run both ways. No way through that a label of the search has is lost, so the cheapest way to the last border is a lower
bound (relaxed decision diagrams: Andersen, Hadzic, Hooker, Tiedemann, CP 2007; Bergman, Cire, van Hoeve, Hooker,
Decision Diagrams for Optimization, 2016). With nothing merged it is the optimum.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .candidates import Candidate, OutOfTimeError
from .moves import MAX_EXPORTS, Moves
from .options import Options
from .sequenced import Sequenced

MAX_DROPS = 4
"""Tensors with a copy off-chip that are dropped one by one; of further ones it stays open whether they are dropped."""


@dataclass(frozen=True)
class Merged:
    """Where the live tensors of all labels that are merged are, as bit sets.

    Attributes:
        sure: on chip in every label.
        maybe: on chip in some label.
        copied: off-chip in some label.
    """

    sure: int
    maybe: int
    copied: int


@dataclass(frozen=True)
class Least:
    """What every one of the merged labels has at least.

    Attributes:
        promised_bytes: avoidable bytes to here and of reads that must follow; what labels are sorted by.
        cost_bytes: avoidable bytes to here.
        chip_bytes: of tensors on chip.
    """

    promised_bytes: int
    cost_bytes: int
    chip_bytes: int

    def meet(self, other: Least) -> Least:
        """What both have at least."""
        return Least(
            min(self.promised_bytes, other.promised_bytes),
            min(self.cost_bytes, other.cost_bytes),
            min(self.chip_bytes, other.chip_bytes),
        )


@dataclass(frozen=True)
class Way:
    """One way to run a range: avoidable bytes, tensors on chip after it for sure and perhaps, copies, their bytes."""

    cost_bytes: int
    sure: int
    maybe: int
    copied: int
    chip_bytes: int


class Relaxation:
    """Lower bounds for one order and one budget."""

    def __init__(self, net: Sequenced, found: Sequence[Candidate], options: Options, deadline: float) -> None:
        """``found`` must be all ranges that fit."""
        self._net, self._options, self._deadline = net, options, deadline
        self._moves = Moves(net, options, both=True)
        self._sizes = [tensor.size_bytes for tensor in net.problem.tensors]
        self._by_start: dict[int, list[Candidate]] = defaultdict(list)
        for candidate in found:
            self._by_start[candidate.start].append(candidate)
        self._labels: dict[int, dict[Merged, Least]] = defaultdict(dict)
        self._ceiling = 0

    def bound(self, width: int, ceiling_bytes: int) -> int:
        """No schedule moves fewer avoidable bytes than this, which is at most the ceiling.

        Args:
            width: labels per border that are not merged further.
            ceiling_bytes: what is known to be possible.

        Raises:
            OutOfTimeError: the deadline has passed.
        """
        first = self._moves.at_start
        self._labels.clear()
        self._ceiling = ceiling_bytes
        self._labels[0][Merged(first, first, self._moves.copied_at_start)] = Least(0, 0, self._size(first))
        for border in range(self._net.count):
            for state, least in self._merged(self._labels.pop(border, {}), width).items():
                for dropped, left in self._drops(state, least):
                    self._expand(border, dropped, left)
                    if time.perf_counter() > self._deadline:
                        raise OutOfTimeError
            for end, reached in self._labels.items():
                if len(reached) > 4 * width:
                    self._labels[end] = self._merged(reached, width)
        return min((least.cost_bytes for least in self._labels[self._net.count].values()), default=ceiling_bytes)

    def _size(self, tensors: int) -> int:
        total = 0
        while tensors:
            low = tensors & -tensors
            total += self._sizes[low.bit_length() - 1]
            tensors ^= low
        return total

    def _merged(self, labels: dict[Merged, Least], width: int) -> dict[Merged, Least]:
        """At most so many labels: those that promise least as they are, the others in groups that look alike."""
        if len(labels) <= width:
            return labels
        order = sorted(labels.items(), key=lambda item: (item[1].promised_bytes, item[1].chip_bytes))
        kept = dict(order[: width // 2])
        rest = sorted(order[width // 2 :], key=lambda item: (item[0].sure, item[0].maybe, item[0].copied))
        groups = max(width - len(kept), 1)
        for group in range(groups):
            part = rest[group * len(rest) // groups : (group + 1) * len(rest) // groups]
            if part:
                self._put(kept, *_joined(part))
        return kept

    def _drops(self, state: Merged, least: Least) -> Iterator[tuple[Merged, Least]]:
        """The label, and without the tensors on chip of which there are copies: all sets of a few, the rest open."""
        both = self._bits(state.maybe & state.copied)
        several, others = both[:MAX_DROPS], sum(both[MAX_DROPS:])
        state, least = self._less(state, least, state.sure & ~others, state.maybe, others)
        for pattern in range(1 << len(several)):
            gone = sum(bit for place, bit in enumerate(several) if pattern >> place & 1)
            yield self._less(state, least, state.sure & ~gone, state.maybe & ~gone, gone)

    def _less(self, state: Merged, least: Least, sure: int, maybe: int, gone: int) -> tuple[Merged, Least]:
        if not gone:
            return state, least
        chip = max(self._size(sure), least.chip_bytes - self._size(gone))
        return Merged(sure, maybe, state.copied), Least(least.promised_bytes, least.cost_bytes, chip)

    def _bits(self, tensors: int) -> list[int]:
        found: list[int] = []
        while tensors:
            found.append(tensors & -tensors)
            tensors &= tensors - 1
        return found

    def _expand(self, border: int, state: Merged, least: Least) -> None:
        for candidate in self._by_start[border]:
            outside = candidate.external_bits
            unsure = self._bits(state.maybe & ~state.sure & outside)
            for pattern in range(1 << len(unsure)):
                more = sum(bit for place, bit in enumerate(unsure) if pattern >> place & 1)
                inside = state.sure & outside | more
                beside = max(self._size(state.sure & ~outside), least.chip_bytes - self._size(inside))
                room = self._options.budget_bytes - beside
                below = self._ceiling - least.cost_bytes
                for way in self._ways(candidate, inside, state.copied & outside, room, below):
                    passing = Merged(state.sure & ~outside, state.maybe & ~outside, state.copied & ~outside)
                    self._reach(candidate.end + 1, passing, way, least.cost_bytes + way.cost_bytes, beside)

    def _reach(self, end: int, passing: Merged, way: Way, cost: int, beside: int) -> None:
        after = Merged(passing.sure | way.sure, passing.maybe | way.maybe, passing.copied | way.copied)
        promised = cost + sum(size for bit, size in self._moves.least_reads[end] if not after.maybe & bit)
        if promised < self._ceiling:
            self._put(self._labels[end], after, Least(promised, cost, beside + way.chip_bytes))

    def _put(self, labels: dict[Merged, Least], state: Merged, least: Least) -> None:
        known = labels.get(state)
        labels[state] = least if known is None else known.meet(least)

    def _ways(self, candidate: Candidate, inside: int, copied: int, room: int, below: int) -> Iterator[Way]:
        """How a range can run: as the search does, or with all that it leaves behind open where that is too much."""
        if not self._options.no_spill and len(candidate.choices) - candidate.external > MAX_EXPORTS:
            yield from self._open(candidate, inside, room)
            return
        for move in self._moves.of(candidate, inside, copied):
            if move.cost_bytes >= below:
                return
            memory, reread = move.frontier()
            entry = bisect_right(memory, room) - 1
            if entry >= 0:
                cost = move.cost_bytes + reread[entry]
                yield Way(cost, move.on_chip, move.on_chip, move.copied, move.chip_bytes)

    def _open(self, candidate: Candidate, inside: int, room: int) -> Iterator[Way]:
        """Whatever is read or left may be anywhere; what cannot be on chip all at once is written at least."""
        frontier = candidate.frontier(tuple(bool(inside >> tensor & 1) for tensor in candidate.choices))
        entry = bisect_right(frontier.memory, room) - 1
        if entry < 0:
            return
        exported = candidate.choices[candidate.external :]
        roles = self._net.problem.tensors
        inner = [tensor for tensor in exported if roles[tensor].role != "output"]
        joins = any(self._net.parts[position] for position in range(candidate.start, candidate.end + 1))
        written = 0 if joins else max(0, sum(self._sizes[tensor] for tensor in inner) - self._options.budget_bytes)
        lasting = [t for t in candidate.choices[: candidate.external] if self._net.last_read(t) > candidate.end]
        stay = sum(1 << tensor for tensor in lasting)
        left = stay | sum(1 << tensor for tensor in exported)
        sure = inside & stay
        yield Way(written + int(frontier.reread[entry]), sure, left, left, self._size(sure))


def _joined(labels: Sequence[tuple[Merged, Least]]) -> tuple[Merged, Least]:
    state, least = labels[0]
    for other, known in labels[1:]:
        state = Merged(state.sure & other.sure, state.maybe | other.maybe, state.copied | other.copied)
        least = least.meet(known)
    return state, least
