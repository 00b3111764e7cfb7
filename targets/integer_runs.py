"""What it costs to enter and to leave runs of layers between integers: terms of two layers that follow each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

Choice = tuple[str, str]
"""A layer and the name of an option."""


@dataclass(frozen=True)
class Crossing:
    """What two layers that follow each other add where one of them computes between integers and the other does not.

    Attributes:
        source: the layer before.
        reader: the layer behind.
        enter_ms: rounding to codes, where only the reader takes them.
        leave_ms: converting codes back, where only the source makes them.
    """

    source: str
    reader: str
    enter_ms: float
    leave_ms: float


@dataclass(frozen=True)
class IntegerRuns:
    """All crossings of a network; a layer that is not known to be between integers is in float.

    Attributes:
        crossings: at most one for two layers in this order.
        static: layer -> names of its options that compute between integers.
    """

    crossings: tuple[Crossing, ...] = ()
    static: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def milliseconds(self, chosen: Mapping[str, str]) -> float:
        """What all crossings cost with these options, layer -> name."""
        return math.fsum(self._cost(c, chosen.get(c.source, ""), chosen.get(c.reader, "")) for c in self.crossings)

    def pairs(self, options: Mapping[str, Sequence[str]]) -> Iterator[tuple[Choice, Choice, float]]:
        """Every two options that cost something together, with the milliseconds; layer -> names of its options."""
        for crossing in self.crossings:
            for before in options[crossing.source]:
                for behind in options[crossing.reader]:
                    cost = self._cost(crossing, before, behind)
                    if cost:
                        yield (crossing.source, before), (crossing.reader, behind), cost

    def times(self, share: float) -> IntegerRuns:
        """The same with all costs multiplied."""
        scaled = (replace(c, enter_ms=share * c.enter_ms, leave_ms=share * c.leave_ms) for c in self.crossings)
        return replace(self, crossings=tuple(scaled))

    def plus(self, other: IntegerRuns) -> IntegerRuns:
        """The costs of both together."""
        merged: dict[tuple[str, str], Crossing] = {}
        for c in (*self.crossings, *other.crossings):
            old = merged.get((c.source, c.reader), replace(c, enter_ms=0.0, leave_ms=0.0))
            enter, leave = old.enter_ms + c.enter_ms, old.leave_ms + c.leave_ms
            merged[c.source, c.reader] = replace(c, enter_ms=enter, leave_ms=leave)
        return IntegerRuns(tuple(merged.values()), {**self.static, **other.static})

    def _cost(self, crossing: Crossing, before: str, behind: str) -> float:
        made = before in self.static.get(crossing.source, ())
        read = behind in self.static.get(crossing.reader, ())
        if made == read:
            return 0.0
        return crossing.leave_ms if made else crossing.enter_ms


NO_RUNS = IntegerRuns()
