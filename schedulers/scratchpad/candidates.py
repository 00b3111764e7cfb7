"""Candidate ranges of a search: depth-first ranges with the memory that each way of keeping tensors and weights takes.

A range has *choice tensors*: those that it reads from before and those that later ranges read. For every pattern that
says which of them are on chip whole, the candidate answers with a frontier: the more memory is left, the fewer weight
bytes are read again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .cuts import cuts_ending
from .options import Options
from .rows import Vector
from .schedule import Band
from .sequenced import Sequenced
from .stripes import Extender, Lane, Layout, Stripes
from .weights import WeightPoint, WeightSets

NEVER = 1 << 61
"""Bytes of what cannot be."""


@dataclass(frozen=True)
class Frontier:
    """Ways to run a range under one pattern, by rising memory and falling repeated reads.

    Attributes:
        memory: bytes that the range takes, tensors that it does not touch left out.
        reread: bytes of weights that are read again.
        choice: (layout, point) of every entry.
    """

    memory: Vector
    reread: Vector
    choice: tuple[tuple[int, int], ...]


@dataclass
class Candidate:
    """A range that fits, ready to be asked. Tensors are those of the problem, positions those of the order.

    Attributes:
        stripes: geometry.
        points: stripe heights with resident weights.
        choices: external tensors that may be on chip, then exported ones.
        external: how many of ``choices`` are external.
    """

    stripes: Stripes
    points: tuple[WeightPoint, ...]
    choices: tuple[int, ...]
    external: int
    frontiers: dict[tuple[bool, ...], Frontier] = field(default_factory=dict[tuple[bool, ...], Frontier])
    external_bits: int = field(init=False)
    _heights: Vector = field(init=False)
    _reread: Vector = field(init=False)
    _rows: list[Vector] = field(init=False)
    _kept: list[dict[int, list[Lane]]] = field(init=False)

    def __post_init__(self) -> None:
        self.external_bits = sum(1 << tensor for tensor in self.choices[: self.external])
        self._heights = np.asarray([point.height for point in self.points], dtype=np.int64)
        weights = np.asarray([point.memory_bytes for point in self.points], dtype=np.int64)
        self._reread = np.asarray([point.reread_bytes for point in self.points], dtype=np.int64)
        self._rows = [
            np.where(
                layout.heights[self._heights],
                weights + sum((lane.line_bytes for lane in layout.lanes), self._none())[self._heights],
                NEVER,
            )
            for layout in self.layouts
        ]
        self._kept = [_by_member(layout.lanes, self.choices) for layout in self.layouts]

    def _none(self) -> Vector:
        return np.zeros(len(self.stripes.heights), dtype=np.int64)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Ways to share memory."""
        return self.stripes.layouts

    @property
    def start(self) -> int:
        """First position."""
        return self.stripes.start

    @property
    def end(self) -> int:
        """Last position."""
        return self.stripes.end

    @property
    def band(self) -> Band | None:
        """How the range is cut, if it is."""
        return None if self.stripes.cut is None else self.stripes.cut.band

    def least_bytes(self) -> int:
        """Memory that it takes at least, with nothing kept whole."""
        frontier = self.frontier((False,) * len(self.choices))
        return int(frontier.memory[0]) if len(frontier.memory) else NEVER

    def frontier(self, whole: tuple[bool, ...]) -> Frontier:
        """The frontier if exactly the flagged choice tensors are on chip whole."""
        known = self.frontiers.get(whole)
        if known is None:
            known = self.frontiers[whole] = self._frontier(whole)
        return known

    def _frontier(self, whole: tuple[bool, ...]) -> Frontier:
        kept = [tensor for tensor, flag in zip(self.choices, whole, strict=True) if flag]
        rows = [self._memory(layout, kept) for layout in range(len(self._rows))]
        memory = np.concatenate(rows) if len(rows) > 1 else rows[0]
        reread = np.tile(self._reread, len(rows)) if len(rows) > 1 else self._reread
        return _pareto(memory, reread, len(self.points))

    def _memory(self, layout: int, kept: Sequence[int]) -> Vector:
        """Bytes of every point if these tensors are whole: their lanes have all rows instead of a few."""
        if not self.layouts[layout].lines.isdisjoint(kept):
            return np.full(len(self.points), NEVER, dtype=np.int64)
        lanes = {id(lane): lane for tensor in kept for lane in self._kept[layout].get(tensor, ())}
        if not lanes:
            return self._rows[layout]
        more = sum((lane.whole_bytes - lane.line_bytes for lane in lanes.values()), self._none())
        return np.minimum(self._rows[layout] + more[self._heights], NEVER)


def _by_member(lanes: Sequence[Lane], choices: Sequence[int]) -> dict[int, list[Lane]]:
    found: dict[int, list[Lane]] = {}
    chosen = set(choices)
    for lane in lanes:
        for tensor in lane.members:
            if tensor in chosen:
                found.setdefault(tensor, []).append(lane)
    return found


def _pareto(memory: Vector, reread: Vector, points: int) -> Frontier:
    if not len(memory):
        return Frontier(memory, reread, ())
    order = np.lexsort((reread, memory))
    best = np.minimum.accumulate(reread[order])
    keep = np.concatenate([[True], best[1:] < best[:-1]]) & (memory[order] < NEVER)
    chosen = order[keep]
    return Frontier(memory[chosen], reread[chosen], tuple(divmod(int(index), points) for index in chosen))


ANY = 1 << 30
"""More than there are."""


MANY = 160
"""Operators up to which every way to share memory is tried."""


FEW = 12
"""Operators up to which every useful number of bands is tried."""


@dataclass(frozen=True)
class Reach:
    """Which ranges a search looks at.

    Attributes:
        longest: operators in a range at most.
        exports: tensors that a range may leave to later ones.
        bands: whether ranges are also cut along columns and channels.
    """

    longest: int
    exports: int
    bands: bool = False


ALONE = Reach(1, ANY)
"""Operators one by one."""


class OutOfTimeError(Exception):
    """The time for a step of a search is over; never leaves the solver."""


def candidates(net: Sequenced, options: Options, reach: Reach, deadline: float = math.inf) -> Iterator[Candidate]:
    """All ranges within reach that fit into the budget if nothing else is on chip.

    Raises:
        OutOfTimeError: ``time.perf_counter()`` has passed the deadline.
    """
    for end in range(net.count):
        yield from ending(net, end, options, reach, deadline)


def ending(net: Sequenced, end: int, options: Options, reach: Reach, deadline: float = math.inf) -> Iterator[Candidate]:
    """Those of :func:`candidates` whose last operator is at position ``end``, the shortest first."""
    thorough = net.count <= MANY
    extender = Extender(net, end, options.min_rows, no_spill=options.no_spill, thorough=thorough)
    weights = WeightSets(extender.heights, options.budget_bytes, options.stream_buffer_bytes)
    cuts = list(cuts_ending(net, extender, end, options, few=net.count > FEW)) if reach.bands else []
    for start, stripes, visits in extender.ranges(reach.exports):
        if time.perf_counter() > deadline:
            raise OutOfTimeError
        weights.add(end - start, net.problem.operators[net.order[start]].weight_bytes, visits)
        cuts = [cut for cut in cuts if cut.extend(start, visits)]
        plain = extender.least_bytes <= options.budget_bytes
        if not plain and not cuts:
            return
        ways = [(stripes, weights)] if plain else []
        ways += [(cut.applied(stripes), cut.weights) for cut in cuts]
        for way, sets in ways:
            if way is not None:
                candidate = _candidate(net, way, sets.points(), options)
                if candidate.least_bytes() <= options.budget_bytes:
                    yield candidate
        if end - start + 1 >= reach.longest:
            return


def _candidate(net: Sequenced, stripes: Stripes, points: tuple[WeightPoint, ...], options: Options) -> Candidate:
    tensors = net.problem.tensors
    if not options.no_spill:
        external = tuple(t for t in stripes.external if options.atomic or tensors[t].role != "input")
        return Candidate(stripes, points, (*external, *stripes.exported), len(external))
    outputs = [net.output(position) for position in range(stripes.start, stripes.end + 1)]
    ends = (t for t in outputs if tensors[t].role == "output" and t not in stripes.exported)
    return Candidate(stripes, points, (*stripes.external, *stripes.exported, *ends), len(stripes.external))
