"""What a range can do with tensors that outlive it: keep, store, fetch; and what that costs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from .bands import Cut, cell_bytes, covered
from .candidates import Candidate
from .options import Options
from .schedule import Band
from .sequenced import Sequenced

MAX_EXPORTS = 6
"""Of more tensors that a range leaves to later ones, all are kept or all are stored."""


@dataclass
class Move:
    """One way to run a range for all labels of one state of its external tensors. Bit sets are of tensors.

    Attributes:
        candidate: the range.
        cost_bytes: reads and writes of activations.
        whole: flags of the choice tensors.
        on_chip: exported and surviving external tensors that are on chip after.
        copied: those of which there is a copy off-chip after.
        chip_bytes: size of ``on_chip``.
        fetched: external tensors that are read whole.
        stored: exported tensors of which a copy is written.
        known: memory and repeated bytes of the frontier under ``whole``, made when first asked for.
    """

    candidate: Candidate
    cost_bytes: int
    whole: tuple[bool, ...]
    on_chip: int
    copied: int
    chip_bytes: int
    fetched: tuple[int, ...]
    stored: tuple[int, ...]
    known: tuple[list[int], list[int]] | None = None

    @property
    def whole_bits(self) -> int:
        """The choice tensors that are whole."""
        return sum(1 << tensor for tensor, flag in zip(self.candidate.choices, self.whole, strict=True) if flag)

    def frontier(self) -> tuple[list[int], list[int]]:
        """Memory and repeated bytes of the ways to run the range."""
        if self.known is None:
            found = self.candidate.frontier(self.whole)
            self.known = ([int(value) for value in found.memory], [int(value) for value in found.reread])
        return self.known


@dataclass(frozen=True)
class _Outer:
    """A choice tensor of a range: its bit, its bytes, what reading it and all its other rows costs, whether it lasts.

    Where operators run whole, inputs of the network are read for nothing once, since that is compulsory.
    """

    tensor: int
    bit: int
    size_bytes: int
    read_bytes: int
    more_bytes: int
    lasting: bool
    fates: tuple[tuple[bool, bool], ...] = ()


_Choices = tuple[tuple[_Outer, ...], tuple[_Outer, ...], bool, int]


class Moves:
    """Moves of all ranges of an order, made when first asked for.

    Attributes:
        at_start: network inputs that are on chip before the first range.
        copied_at_start: network inputs that are off-chip before it and cost when they are read again.
        least_reads: per border (bit, bytes) of live tensors that must be read once more if they are off-chip.
        complete: whether every sensible move of the ranges that were asked for was among them.
    """

    def __init__(self, net: Sequenced, options: Options, *, both: bool) -> None:
        """``both`` also tries tensors on chip with a copy off-chip: rarely worth it, and many more moves."""
        self._net, self._options, self._both = net, options, both
        self._sizes = [tensor.size_bytes for tensor in net.problem.tensors]
        self._known: dict[tuple[int, int, Band | None, int, int], list[Move]] = {}
        self._outer: dict[tuple[int, int, Band | None], _Choices] = {}
        inputs = (t for t, tensor in enumerate(net.problem.tensors) if tensor.role == "input" and net.read_at[t])
        given = sum(1 << tensor for tensor in inputs)
        self.at_start = given if options.no_spill else 0
        self.copied_at_start = given if options.atomic and not options.no_spill else 0
        self.least_reads = self._least_reads()
        self.complete = True

    def of(self, candidate: Candidate, inside: int, copied: int) -> list[Move]:
        """Moves, cheapest first, where these external tensors are on chip and of these there is a copy."""
        key = (candidate.start, candidate.end, candidate.band, inside, copied)
        known = self._known.get(key)
        if known is None:
            moves = self._moves(candidate, inside, copied)
            known = self._known[key] = sorted(moves, key=lambda move: move.cost_bytes)
        return known

    def _least_reads(self) -> list[tuple[tuple[int, int], ...]]:
        """Per border (bit, bytes) of every live tensor that must be read once more if it is off-chip."""
        net = self._net
        found: list[list[tuple[int, int]]] = [[] for _ in range(net.count + 1)]
        for tensor, made in enumerate(net.made_at):
            if (made < 0 and not self.copied_at_start >> tensor & 1) or not net.read_at[tensor]:
                continue
            least, joined = 1 << 120, True
            for before, reader in zip((made, *net.read_at[tensor][:-1])[::-1], net.read_at[tensor][::-1], strict=True):
                least = min(least, self._read_bytes(tensor, reader, reader))
                joined = joined and tensor in net.parts[reader]
                if not joined and before >= 0:
                    for border in range(before + 1, reader + 1):
                        found[border].append((1 << tensor, least))
        return [tuple(row) for row in found]

    def _moves(self, candidate: Candidate, inside: int, copied: int) -> Iterator[Move]:
        """Every sensible combination of: external tensors fetched whole, exported tensors kept and stored."""
        external, exported, joins, halos = self._choices(candidate)
        again = candidate.band is not None
        fetchable = [o for o in external if self._both and (o.lasting or again) and not inside & o.bit]
        fates = [o.fates for o in exported]
        self.complete = self.complete and (self._options.no_spill or len(exported) <= MAX_EXPORTS)
        combined = product(*fates) if len(exported) <= MAX_EXPORTS else zip(*(fate[:2] for fate in fates), strict=False)
        base = halos + sum(o.read_bytes for o in external if not inside & o.bit)
        lasting = sum(o.bit for o in external if o.lasting)
        held = sum(o.size_bytes for o in external if o.lasting and inside & o.bit)
        for fate in combined:
            for fetch in product((False, True), repeat=len(fetchable)):
                fetched = [o for o, flag in zip(fetchable, fetch, strict=True) if flag]
                chip = inside | sum(o.bit for o in fetched)
                kept = [o for o, (on_chip, _) in zip(exported, fate, strict=True) if on_chip]
                stored = [o for o, (_, copy) in zip(exported, fate, strict=True) if copy]
                cost = base + sum(o.more_bytes for o in fetched)
                cost += sum(o.size_bytes for o in stored if self._net.problem.tensors[o.tensor].role != "output")
                after, copies = chip | sum(o.bit for o in kept), copied | sum(o.bit for o in stored)
                if joins:
                    cost -= self._in_place_off_chip(candidate, external, stored, after, copies)
                yield Move(
                    candidate,
                    cost,
                    tuple(bool(after & o.bit) for o in (*external, *exported)),
                    (chip & lasting) | sum(o.bit for o in kept),
                    (copied & lasting) | sum(o.bit for o in stored),
                    held + sum(o.size_bytes for o in (*(o for o in fetched if o.lasting), *kept)),
                    tuple(o.tensor for o in fetched),
                    tuple(o.tensor for o in stored),
                )

    def _choices(self, candidate: Candidate) -> _Choices:
        """External and exported tensors, whether concatenations may find parts off-chip, halos of network inputs."""
        key = (candidate.start, candidate.end, candidate.band)
        known = self._outer.get(key)
        if known is None:
            outer = tuple(self._outer_of(t, candidate) for t in candidate.choices)
            joins = any(self._net.parts[position] for position in range(candidate.start, candidate.end + 1))
            halos = self._halos(candidate)
            known = self._outer[key] = (outer[: candidate.external], outer[candidate.external :], joins, halos)
        return known

    def _halos(self, candidate: Candidate) -> int:
        """Bytes of network inputs that bands read again."""
        cut, found = candidate.stripes.cut, 0
        if cut is None or self._options.no_spill:
            return 0
        for tensor in candidate.stripes.external:
            if self._net.problem.tensors[tensor].role == "input":
                again = cut.read(tensor) - covered(cut.windows[tensor])
                found += self._rows_read(tensor, candidate) * again * self._cell(tensor, cut)
        return found

    def _cell(self, tensor: int, cut: Cut) -> int:
        return cell_bytes(self._net.problem.tensors[tensor], cut.band.axis) or 0

    def _outer_of(self, tensor: int, candidate: Candidate) -> _Outer:
        net, size = self._net, self._sizes[tensor]
        ends = net.problem.tensors[tensor].role == "output" and self._options.no_spill
        lasting = ends or (bool(net.read_at[tensor]) and net.read_at[tensor][-1] > candidate.end)
        if net.made_at[tensor] >= candidate.start:
            return _Outer(tensor, 1 << tensor, size, 0, size, lasting, self._fates(tensor, candidate.end))
        if self.copied_at_start >> tensor & 1 and net.read_at[tensor][0] >= candidate.start:
            return _Outer(tensor, 1 << tensor, size, 0, 0, lasting)
        read = self._read_in(tensor, candidate)
        return _Outer(tensor, 1 << tensor, size, read, size - read, lasting)

    def _read_in(self, tensor: int, candidate: Candidate) -> int:
        """Bytes of a tensor that a range reads from off-chip; bands read what their windows share again."""
        cut = candidate.stripes.cut
        if cut is None:
            return self._read_bytes(tensor, candidate.start, candidate.end)
        return self._rows_read(tensor, candidate) * cut.read(tensor) * self._cell(tensor, cut)

    def _rows_read(self, tensor: int, candidate: Candidate) -> int:
        return self._last_row(tensor, candidate.start, candidate.end)

    def _fates(self, tensor: int, end: int) -> tuple[tuple[bool, bool], ...]:
        """(on chip, copy off-chip) that make sense for a tensor that is made here and needed later."""
        if self._options.no_spill:
            return ((True, False),)
        if self._net.problem.tensors[tensor].role == "output":
            return ((True, True), (False, True))
        later = sum(position > end for position in self._net.read_at[tensor])
        once = ((True, False), (False, True))
        return (*once, (True, True)) if later > 1 and self._both else once

    def _in_place_off_chip(
        self, candidate: Candidate, external: tuple[_Outer, ...], stored: list[_Outer], chip: int, copies: int
    ) -> int:
        """Bytes saved by concatenations off-chip: parts that are there already are neither written nor read."""
        net, saved = self._net, 0
        for host in stored:
            there = sum(self._sizes[part] for part in net.parts[net.made_at[host.tensor]] if copies >> part & 1)
            if net.problem.tensors[host.tensor].role != "output":
                saved += min(there, host.size_bytes)
        delivered: Mapping[int, bool] = {host.tensor: True for host in stored}
        for part in external:
            if not chip & part.bit and self._is_left(part.tensor, candidate, delivered, chip):
                saved += part.read_bytes
        return saved

    def _is_left(self, part: int, candidate: Candidate, stored: Mapping[int, bool], chip: int) -> bool:
        """Whether a part off-chip need not be read: nobody in the range wants its concatenation on chip."""
        net, start, end = self._net, candidate.start, candidate.end
        readers = [p for p in net.read_at[part] if start <= p <= end]
        if len(readers) != 1 or part not in net.parts[readers[0]]:
            return False
        joined = net.output(readers[0])
        written = joined in stored or net.problem.tensors[joined].role == "output"
        return written and not chip >> joined & 1 and not any(start <= p <= end for p in net.read_at[joined])

    def _read_bytes(self, tensor: int, start: int, end: int) -> int:
        """Bytes of the rows that readers in ``start .. end`` need; strides skip rows at the end."""
        net, rows = self._net, self._last_row(tensor, start, end)
        source = net.problem.tensors[tensor]
        return source.size_bytes if rows == net.rows[tensor] else rows * net.row_bytes[tensor]

    def _last_row(self, tensor: int, start: int, end: int) -> int:
        """Rows, from the first, that readers in ``start .. end`` need."""
        net = self._net
        readers = net.read_at[tensor]
        inside = readers[bisect_left(readers, start) : bisect_right(readers, end)]
        maps = (net.maps[position][tensor] for position in inside)
        return max(row_map.needed(row_map.rows_out) for row_map in maps)
