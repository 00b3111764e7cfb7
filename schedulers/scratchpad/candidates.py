"""Candidate ranges of a search: depth-first ranges with the memory that each way of keeping tensors and weights takes.

A range has *choice tensors*: those that it reads from before and those that later ranges read. For every pattern that
says which of them are on chip whole, the candidate answers with a frontier: the more memory is left, the fewer weight
bytes are read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .options import Options
from .stripes import Extender, Sequenced, Stripes, Vector
from .weights import WeightPoint, WeightSets

PATIENCE = 8
"""Longer ranges are not tried when this many in a row do not fit into the budget."""


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

    @property
    def start(self) -> int:
        """First position."""
        return self.stripes.start

    @property
    def end(self) -> int:
        """Last position."""
        return self.stripes.end

    def least_bytes(self) -> int:
        """Memory that it takes at least, with nothing kept whole."""
        frontier = self.frontier((False,) * len(self.choices))
        return int(frontier.memory[0]) if len(frontier.memory) else 1 << 62

    def frontier(self, whole: tuple[bool, ...]) -> Frontier:
        """The frontier if exactly the flagged choice tensors are on chip whole."""
        known = self.frontiers.get(whole)
        if known is None:
            known = self.frontiers[whole] = self._frontier(whole)
        return known

    def _frontier(self, whole: tuple[bool, ...]) -> Frontier:
        kept = {tensor for tensor, flag in zip(self.choices, whole, strict=True) if flag}
        heights = np.asarray([point.height for point in self.points], dtype=np.int64)
        weights = np.asarray([point.memory_bytes for point in self.points], dtype=np.int64)
        reread = np.asarray([point.reread_bytes for point in self.points], dtype=np.int64)
        rows = [weights + self._layout_bytes(layout, kept)[heights] for layout in range(len(self.stripes.layouts))]
        memory = np.concatenate(rows)
        return _pareto(memory, np.tile(reread, len(rows)), len(self.points))

    def _layout_bytes(self, layout: int, kept: set[int]) -> Vector:
        total = np.zeros(len(self.stripes.heights), dtype=np.int64)
        for lane in self.stripes.layouts[layout][0]:
            total = total + (lane.line_bytes if kept.isdisjoint(lane.members) else lane.whole_bytes)
        return total


def _pareto(memory: Vector, reread: Vector, points: int) -> Frontier:
    if not len(memory):
        return Frontier(memory, reread, ())
    order = np.lexsort((reread, memory))
    best = np.minimum.accumulate(reread[order])
    keep = np.concatenate([[True], best[1:] < best[:-1]])
    chosen = order[keep]
    return Frontier(memory[chosen], reread[chosen], tuple(divmod(int(index), points) for index in chosen))


def candidates(net: Sequenced, options: Options, longest: int) -> Iterator[Candidate]:
    """All ranges of at most ``longest`` operators that fit into the budget if nothing else is on chip."""
    for end in range(net.count):
        misses = 0
        extender = Extender(net, end, options.min_rows)
        weights = WeightSets(extender.heights, options.budget_bytes, options.stream_buffer_bytes)
        for start, stripes, visits in extender.ranges():
            weights.add(end - start, net.problem.operators[net.order[start]].weight_bytes, visits)
            if stripes is None:
                continue
            candidate = _candidate(net, stripes, weights.points(len(stripes.heights)), options)
            least = candidate.least_bytes()
            misses = misses + 1 if least > options.budget_bytes else 0
            if not misses:
                yield candidate
            if end - start + 1 >= longest or misses >= PATIENCE:
                break


def _candidate(net: Sequenced, stripes: Stripes, points: tuple[WeightPoint, ...], options: Options) -> Candidate:
    tensors = net.problem.tensors
    if not options.no_spill:
        external = tuple(tensor for tensor in stripes.external if tensors[tensor].role != "input")
        return Candidate(stripes, points, (*external, *stripes.exported), len(external))
    outputs = [net.output(position) for position in range(stripes.start, stripes.end + 1)]
    ends = (t for t in outputs if tensors[t].role == "output" and t not in stripes.exported)
    return Candidate(stripes, points, (*stripes.external, *stripes.exported, *ends), len(stripes.external))
