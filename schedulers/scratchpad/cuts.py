"""Ranges of the search, cut along columns or channels: their line buffers, their weights, what no longer one fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .bands import Cut, Growing, extent_of, extents, weight_blocks
from .options import Options
from .rows import Vector
from .schedule import AXES, Band
from .sequenced import Sequenced
from .stripes import Extender, Lane, Layout, Stripes
from .weights import WeightSets

IMPOSSIBLE = 1 << 52
"""Bytes of memory that nothing has: in bands, what is whole shares its memory with nothing."""


def cuts_ending(net: Sequenced, extender: Extender, end: int, options: Options, *, few: bool) -> Iterator[GrowingCut]:
    """Every way to cut the ranges that end at one position; ``few`` for long networks."""
    last = net.problem.tensors[net.output(end)]
    for axis in AXES:
        for extent in extents(extent_of(last, axis), few=few):
            yield GrowingCut(net, extender, end, Band(axis, extent), options)


class GrowingCut:
    """All ranges with one end, cut in one way, from the shortest to the longest.

    Attributes:
        weights: sets that stay.
    """

    def __init__(self, net: Sequenced, extender: Extender, end: int, band: Band, options: Options) -> None:
        self._net, self._extender, self._end, self._budget = net, extender, end, options.budget_bytes
        self._growing = Growing(net.problem, band, net.problem.operators[net.order[end]])
        self.weights = WeightSets(extender.heights, options.budget_bytes, options.stream_buffer_bytes)
        self._own: dict[int, Vector] = {}
        self._least: Vector = np.zeros(1, dtype=np.int64)

    def extend(self, position: int, visits: Vector) -> bool:
        """One more operator in front; ``False`` where neither this range nor a longer one can be cut or fits."""
        operator = self._net.problem.operators[self._net.order[position]]
        if not self._growing.extend(operator):
            return False
        cut = Cut(self._growing.band, self._growing.windows)
        for tensor in {*operator.inputs, operator.output}:
            line = self._extender.own_lines(tensor)
            if line is not None:
                extent = extent_of(self._net.problem.tensors[tensor], cut.band.axis)
                line = line * cut.width((tensor,)) // extent
                self._least = self._least + line - self._own.get(tensor, 0)
                self._own[tensor] = line
        if int(self._least.min()) > self._budget:
            return False
        blocks = weight_blocks(operator, self._net.problem.tensors[operator.output], cut.band.axis)
        if blocks > 1:
            block = operator.weight_bytes // blocks
            kept = block * cut.width((operator.output,))
            self.weights.add(self._end - position, kept, visits, operator.weight_bytes)
        else:
            self.weights.add(self._end - position, operator.weight_bytes, visits * self._growing.count)
        return True

    def applied(self, stripes: Stripes | None) -> Stripes | None:
        """A range with the line buffers that it has in bands."""
        if stripes is None:
            return None
        cut = Cut(self._growing.band, dict(self._growing.windows))
        layouts = tuple(self._narrower(layout, cut) for layout in stripes.layouts)
        return replace(stripes, layouts=layouts, cut=cut)

    def _narrower(self, layout: Layout, cut: Cut) -> Layout:
        return replace(layout, lanes=tuple(self._lane(lane, cut) for lane in layout.lanes))

    def _lane(self, lane: Lane, cut: Cut) -> Lane:
        extent = extent_of(self._net.problem.tensors[lane.members[0]], cut.band.axis)
        row_bytes = cut.width(lane.members) * (lane.row_bytes // extent)
        whole = lane.whole_bytes if len(lane.members) == 1 else IMPOSSIBLE
        return replace(lane, line_bytes=lane.line_rows * row_bytes, whole_bytes=whole)
