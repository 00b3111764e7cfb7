"""The fixed-order optimum: dynamic programming over the borders between ranges.

At a border every live tensor is on chip, off chip, or both. A *label* is such a state with the cheapest way to reach
it. From each border all candidate ranges lead on; tensors that a range reads from off-chip, makes and stores, or
fetches whole are charged, and the memory that is left decides how many weights are read again. With all labels kept the
result is the optimum of the model; with at most ``width`` of them per border it is a good schedule (a restricted
decision diagram: Bergman, Cire, van Hoeve, Hooker, Decision Diagrams for Optimization, 2016).
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .candidates import Candidate
from .moves import Move, Moves
from .options import Options
from .refusals import Refusals
from .schedule import Refused
from .sequenced import Sequenced

DOMINANCE_LABELS = 600
"""Borders with more labels are not searched for dominated ones, which would take longer than it saves."""


State = tuple[int, int, int]
"""Live tensors on chip, those with a copy off-chip, and refused sequences that have begun, as bit sets."""


@dataclass(frozen=True)
class Step:
    """One range as the search left it: what is whole, stored and fetched, and which frontier entry pays for it.

    ``before`` is the state in which it starts, and ``cost_bytes`` the avoidable bytes that it moves itself.
    """

    candidate: Candidate
    layout: int
    point: int
    whole: tuple[int, ...]
    stored: tuple[int, ...]
    fetched: tuple[int, ...]
    before: State
    cost_bytes: int


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
class Span:
    """The part of an order between two borders, and the states there; any state at the end where that is ``None``."""

    first: int
    last: int
    begin: State
    end: State | None


@dataclass
class Label:
    """The cheapest known way to a state.

    Attributes:
        cost_bytes: avoidable bytes so far.
        chip_bytes: size of the tensors on chip.
        border: where the last range started.
        before: state there, after drops.
        candidate: the last range.
        move: how it was run.
        entry: of the frontier of the move.
        origin: the label at ``border``.
        promised_bytes: what the way will have cost at least in the end.
    """

    cost_bytes: int
    chip_bytes: int
    border: int
    before: State
    candidate: Candidate | None
    move: Move | None
    entry: int
    origin: Label | None
    promised_bytes: int = 0


class Search:
    """One search over one order with one budget."""

    def __init__(
        self,
        net: Sequenced,
        found: Sequence[Candidate],
        moves: Moves,
        options: Options,
        width: int,
        deadline: float,
        refused: Sequence[Sequence[Refused]] = (),
        span: Span | None = None,
        *,
        spilled: bool = False,
    ) -> None:
        """A search of one order.

        ``refused`` are sequences of successive ranges that must not run one after the other; ``span`` a part; with
        ``spilled`` nothing stays on chip from one range to the next, which always leads to the end.
        """
        self._spilled = spilled
        self._net, self._options, self._width, self._deadline = net, options, width, deadline
        self._moves = moves
        self._sizes = [tensor.size_bytes for tensor in net.problem.tensors]
        self._span = span or Span(0, net.count, (moves.at_start, moves.copied_at_start, 0), None)
        self._by_start: dict[int, list[Candidate]] = defaultdict(list)
        for candidate in found:
            if candidate.end < self._span.last:
                self._by_start[candidate.start].append(candidate)
        self._labels: dict[int, dict[State, Label]] = defaultdict(dict)
        self._limits: dict[int, int] = {}
        self._complete = True
        self._refusals = Refusals(refused)

    def run(self, ceiling_bytes: int | None = None) -> Outcome:
        """The cheapest way through that costs less than the ceiling."""
        span = self._span
        ceiling = 1 << 120 if ceiling_bytes is None else ceiling_bytes
        if span.end is not None:
            ceiling += self._reads(span.last, span.end)
        self._limits = dict.fromkeys(range(span.first, span.last + 1), ceiling)
        chip = self._size(span.begin[0])
        self._labels[span.first][span.begin] = Label(0, chip, span.first, span.begin, None, None, 0, None)
        for border in range(span.first, span.last):
            for state, label in self._gather(border):
                self._expand(border, state, label)
                if time.perf_counter() > self._deadline:
                    return Outcome(None, complete=False)
        final = min(self._labels[span.last].values(), key=lambda label: label.cost_bytes, default=None)
        return Outcome(None if final is None else self._trace(final), self._complete and self._moves.complete)

    def _size(self, tensors: int) -> int:
        total = 0
        while tensors:
            low = tensors & -tensors
            total += self._sizes[low.bit_length() - 1]
            tensors ^= low
        return total

    def _reads(self, border: int, state: State) -> int:
        """Bytes that must be read once more from a border on: what is off-chip."""
        chip = state[0]
        return sum(size for bit, size in self._moves.least_reads[border] if not chip & bit)

    def _ends_otherwise(self, end: int, state: State) -> bool:
        """Whether the state is at the end of the span and not the one that is wanted, dropped tensors apart."""
        wanted = self._span.end
        if wanted is None or end != self._span.last:
            return False
        chip, copied, begun = state
        return bool(wanted[0] & ~chip or chip & ~wanted[0] & ~copied) or (copied, begun) != wanted[1:]

    def _gather(self, border: int) -> list[tuple[State, Label]]:
        """The labels that go on, those that promise least first, each also without what it can drop."""
        self._shrink(border, self._width)
        labels = self._labels[border]
        self._labels[border] = {}
        return [pair for state, label in labels.items() for pair in self._with_drops(state, label)]

    def _shrink(self, border: int, width: int) -> None:
        """Leaves the best labels of a border and notes what the last of them promises."""
        labels = self._labels[border]
        order = sorted(labels.items(), key=lambda item: (item[1].promised_bytes, item[1].chip_bytes))
        kept = _undominated(order)
        if len(kept) > width:
            self._complete = False
            self._limits[border] = kept[width - 1][1].promised_bytes
        self._labels[border] = dict(kept[:width])

    def _with_drops(self, state: State, label: Label) -> list[tuple[State, Label]]:
        """The label, and the same without any of the tensors that are on chip and off-chip."""
        found = [(state, label)]
        both = state[0] & state[1]
        while both:
            low = both & -both
            both ^= low
            size = self._sizes[low.bit_length() - 1]
            for (chip, copied, begun), known in tuple(found):
                dropped = replace(known, chip_bytes=known.chip_bytes - size)
                found.append(((chip & ~low, copied, begun), dropped))
        return found

    def _expand(self, border: int, state: State, label: Label) -> None:
        chip, copied, begun = state
        room = self._options.budget_bytes - label.chip_bytes
        for candidate in self._by_start[border]:
            end = candidate.end + 1
            target, ceiling = self._labels[end], self._limits[end]
            outside = candidate.external_bits
            inside = chip & outside
            free = room + self._size(inside) if inside else room
            for move in self._moves.of(candidate, inside, copied & outside):
                cost = label.cost_bytes + move.cost_bytes
                if cost >= ceiling:
                    break
                memory, reread = move.frontier()
                passing = chip & ~outside
                if self._spilled and passing | move.on_chip:
                    continue
                entry, going = bisect_right(memory, free) - 1, 0
                if self._refusals.any:
                    beside = label.chip_bytes - (free - room)
                    entry, going = self._refusals.step(
                        begun, candidate, passing | move.whole_bits, memory, entry, beside
                    )
                if entry < 0:
                    continue
                cost += reread[entry]
                after = (passing | move.on_chip, (copied & ~outside) | move.copied, going)
                known = target.get(after)
                if known is not None and known.cost_bytes <= cost:
                    continue
                size = label.chip_bytes - (free - room) + move.chip_bytes
                fresh = Label(cost, size, border, state, candidate, move, entry, label)
                fresh.promised_bytes = cost + self._reads(end, after)
                if fresh.promised_bytes < ceiling and not self._ends_otherwise(end, after):
                    target[after] = fresh
            if len(target) > 4 * self._width:
                self._shrink(end, self._width)

    def _trace(self, label: Label) -> Found:
        steps: list[Step] = []
        cost = label.cost_bytes
        while label.candidate is not None and label.move is not None and label.origin is not None:
            candidate, move = label.candidate, label.move
            layout, point = candidate.frontier(move.whole).choice[label.entry]
            passing = label.before[0] & ~candidate.external_bits
            whole = {t for t, flag in zip(candidate.choices, move.whole, strict=True) if flag}
            whole |= {t for t in range(passing.bit_length()) if passing >> t & 1}
            own = label.cost_bytes - label.origin.cost_bytes
            kept = tuple(sorted(whole))
            steps.append(Step(candidate, layout, point, kept, move.stored, move.fetched, label.before, own))
            label = label.origin
        return Found(tuple(reversed(steps)), cost)


def _undominated(labels: list[tuple[State, Label]]) -> list[tuple[State, Label]]:
    """Without labels that no dearer one can replace: equal, except for tensors it has in both places."""
    richer = [(state, label) for state, label in labels if state[0] & state[1]]
    if not richer or len(labels) > DOMINANCE_LABELS:
        return labels
    return [
        (state, label)
        for state, label in labels
        if not any(
            label is not other
            and other.cost_bytes <= label.cost_bytes
            and not (state[0] & ~chip or state[1] & ~copied or begun & ~state[2])
            for (chip, copied, begun), other in richer
        )
    ]
