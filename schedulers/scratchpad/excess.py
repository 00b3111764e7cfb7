"""By how much a range exceeds the budget at least: quickly, for all ranges of a long order.

Making a range with all its ways to share memory takes long; how many line buffers it needs at least, and how often its
weights pass, does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .candidates import OutOfTimeError
from .options import Options
from .rows import Vector
from .sequenced import Sequenced
from .stripes import Extender


@dataclass(frozen=True)
class Way:
    """A range: per stripe height its excess and how often weights are read again; tensors it leaves behind."""

    start: int
    stop: int
    weights: int
    left: tuple[int, ...]
    excess: Vector
    again: Vector


class Ending:
    """The ranges that end at one position, from the shortest on.

    A result may lie in the memory of what it overwrites, a concatenation in that of its parts. Two counts are
    therefore made: one leaves out what may lie elsewhere; the other counts it where the range leaves it behind, and
    leaves out everything in whose place it may have come to lie.
    """

    def __init__(self, net: Sequenced, end: int, options: Options, alive: Vector) -> None:
        self._net, self._end, self._options, self._alive = net, end, options, alive
        self._sizes = [tensor.size_bytes for tensor in net.problem.tensors]
        self._places: set[int] = set()
        self._left: dict[int, bool] = {}
        self._lines: dict[int, Vector] = {}

    def ways(self, deadline: float) -> Iterator[Way]:
        """All that may fit.

        Raises:
            OutOfTimeError: ``time.perf_counter()`` has passed the deadline.
        """
        net, end, options = self._net, self._end, self._options
        budget = options.budget_bytes
        extender = Extender(net, end, options.min_rows, no_spill=options.no_spill, thorough=False)
        weights, again = 0, np.full(extender.heights, np.iinfo(np.int64).max)
        before: Vector | int = 0
        for start, visits, lines in extender.lines():
            if extender.least_bytes > budget:
                return
            if time.perf_counter() > deadline:
                raise OutOfTimeError
            self._add(start, lines - before)
            before = lines
            own = net.problem.operators[net.order[start]].weight_bytes
            if own:
                weights, again = weights + own, np.minimum(again, np.maximum(visits - 1, 0))
            excess = self._excess(start, lines) + weights - budget
            repeats = again if weights else np.zeros_like(again)
            keep = _sensible(excess, repeats)
            yield Way(start, end + 1, weights, tuple(self._left), excess[keep], repeats[keep])

    def _add(self, start: int, line: Vector) -> None:
        tensor = self._net.output(start)
        joined = bool(self._net.overwritable[start] or self._net.parts[start])
        if self._net.read_at[tensor] and self._net.last_read(tensor) > self._end and self._sizes[tensor]:
            self._left[tensor] = joined
            if joined:
                self._places |= _places(self._net, tensor)
        self._lines[tensor] = line

    def _excess(self, start: int, lines: Vector) -> Vector:
        """What lives at the start, what is left at the end, and lines of the rest."""
        alive, sizes = int(self._alive[start]), self._sizes
        own = [tensor for tensor, joined in self._left.items() if not joined]
        plain = alive + lines + sum((sizes[t] - self._lines[t] for t in own), np.zeros_like(lines))
        if len(own) == len(self._left):
            return plain
        ending = sum(sizes[tensor] for tensor in self._places if self._ends(tensor, start))
        left = [tensor for tensor in self._left if tensor not in self._places]
        rest = (line for t, line in self._lines.items() if t not in self._places and t not in self._left)
        joined = alive - ending + sum(sizes[tensor] for tensor in left) + sum(rest, np.zeros_like(lines))
        return np.maximum(plain, joined)

    def _ends(self, tensor: int, start: int) -> bool:
        """Whether it is made before the range and read in it for the last time."""
        net = self._net
        return 0 <= net.made_at[tensor] < start <= net.last_read(tensor) <= self._end


def _places(net: Sequenced, tensor: int) -> set[int]:
    """Tensors in whose memory this one may come to lie, directly or through others."""
    found, waiting = set[int](), [tensor]
    while waiting:
        made = net.made_at[waiting.pop()]
        for other in (*net.overwritable[made], *net.parts[made]) if made >= 0 else ():
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def _sensible(lines: Vector, again: Vector) -> Vector:
    """Heights of which no other needs less memory and repeats less."""
    order = np.lexsort((again, lines))
    fewest = np.minimum.accumulate(again[order])
    return order[np.concatenate([[True], again[order][1:] < fewest[:-1]])]
