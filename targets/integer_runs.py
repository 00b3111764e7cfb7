"""What runs of layers between integers cost where they begin, end and meet sums: terms of layers that share a value.

A value is stored as codes where the layer or the sum that makes it computes with integers, or where a layer that reads
it does; it is in float otherwise. Whoever reads codes in float reads them converted back, once for all of them. A sum
is one of codes where both of its parts are codes, and in float otherwise: beside a part that was codes it is a kernel
of its own, where it is none behind a convolution in float.

The states of values and sums follow from the layers' options (:meth:`IntegerRuns.milliseconds`). For an allocation
they are choices of their own, with terms of two that leave only what can be (:meth:`IntegerRuns.pairs`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

Choice = tuple[str, str]
"""A layer, value or sum, and the name of an option or state."""

FLOAT, MADE, ROUNDED, COPY = "float", "made as codes", "rounded for", "and in float"
"""States of a value: which of them have the last one's words at their end are converted back as well."""

CODES = "codes"
"""The other state of a sum."""


@dataclass(frozen=True)
class Value:
    """What lies between layers.

    Attributes:
        name: unlike that of any layer.
        source: the layer or sum that makes it; empty where nothing does that could make codes.
        readers: layers and sums that read it.
        floats: whether something reads it in float, whatever is chosen.
        enter_ms: rounding it to codes.
        leave_ms: converting codes back.
    """

    name: str
    source: str
    readers: tuple[str, ...]
    floats: bool
    enter_ms: float
    leave_ms: float


@dataclass(frozen=True)
class Sum:
    """A residual sum.

    Attributes:
        name: unlike that of any layer.
        parts: the values among what it adds that may be codes.
        exact: whether it can be one of codes.
        codes_ms: as a sum of codes.
        beside_ms: as a sum in float, where one part was codes, beyond converting that back.
    """

    name: str
    parts: tuple[str, ...]
    exact: bool
    codes_ms: float
    beside_ms: float


@dataclass(frozen=True)
class IntegerRuns:
    """All values and sums of a network; a layer that is not known to be between integers is in float.

    Attributes:
        values: sources before what is made of them.
        sums: in the same order.
        static: layer -> names of its options that compute between integers.
    """

    values: tuple[Value, ...] = ()
    sums: tuple[Sum, ...] = ()
    static: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def milliseconds(self, chosen: Mapping[str, str]) -> float:
        """What all values and sums cost with these options, layer -> name."""
        integers = {name for name, options in self.static.items() if chosen.get(name, "") in options}
        codes = self._codes(integers)
        exact = {s.name for s in self.sums if self._adds_codes(s, codes)}
        made = integers | exact
        costs = [s.codes_ms if s.name in exact else s.beside_ms * len(codes.intersection(s.parts)) for s in self.sums]
        for value in self.values:
            if value.name in codes:
                costs.append(0.0 if value.source in made else value.enter_ms)
                costs.append(value.leave_ms if value.floats or not made.issuperset(value.readers) else 0.0)
        return math.fsum(costs)

    def _codes(self, integers: set[str]) -> set[str]:
        """The values that are codes where these layers compute with integers."""
        sums = {s.name: s for s in self.sums}
        codes: set[str] = set()
        for value in self.values:
            before = sums.get(value.source)
            made = value.source in integers if before is None else self._adds_codes(before, codes)
            if made or not integers.isdisjoint(value.readers):
                codes.add(value.name)
        return codes

    @staticmethod
    def _adds_codes(total: Sum, codes: set[str]) -> bool:
        return total.exact and codes.issuperset(total.parts)

    def states(self) -> dict[str, dict[str, float]]:
        """Value or sum -> state -> its milliseconds beside those of pairs."""
        found: dict[str, dict[str, float]] = {}
        for value in self.values:
            rounding = [f"{ROUNDED} {r}" for r in value.readers if r in self.static]
            codes = ([MADE] if value.source else []) + rounding
            enter = 0.0 if value.source else value.enter_ms
            found[value.name] = {
                FLOAT: 0.0,
                **({} if value.floats else dict.fromkeys(codes, enter)),
                **{f"{state} {COPY}": enter + value.leave_ms for state in codes},
            }
        for total in self.sums:
            found[total.name] = {FLOAT: 0.0, **({CODES: total.codes_ms} if total.exact else {})}
        return found

    def pairs(self, options: Mapping[str, Sequence[str]]) -> Iterator[tuple[Choice, Choice, float | None]]:
        """Every two choices that cost something together, with the milliseconds, or ``None`` where they cannot be.

        The cheapest states that can be are those that follow from the options, as long as adding codes costs no more
        than adding two values that are converted back.

        Args:
            options: layer -> names of its options.
        """
        states = self.states()
        for value in self.values:
            for neighbour in dict.fromkeys((value.source, *value.readers)):
                if neighbour:
                    theirs = states.get(neighbour) or options[neighbour]
                    for state, other in itertools.product(states[value.name], theirs):
                        cost = self._together(value, state, neighbour, other)
                        if cost != 0.0:
                            yield (value.name, state), (neighbour, other), cost

    def _together(self, value: Value, state: str, neighbour: str, other: str) -> float | None:
        """What a value in a state costs with its source or reader; ``None`` where that cannot be."""
        integers = other in self.static[neighbour] if neighbour in self.static else other == CODES
        cost = 0.0
        if neighbour == value.source:
            if integers != state.startswith(MADE):
                return None
            if not integers and state != FLOAT:
                cost += value.enter_ms
        if neighbour in value.readers:
            if state == FLOAT if integers else state != FLOAT and not state.endswith(COPY):
                return None
            if not integers and state in (f"{ROUNDED} {neighbour}", f"{ROUNDED} {neighbour} {COPY}"):
                return None
            if not integers and state != FLOAT:
                cost += next((s.beside_ms for s in self.sums if s.name == neighbour), 0.0)
        return cost

    def times(self, share: float) -> IntegerRuns:
        """The same with all costs multiplied."""
        values = (replace(v, enter_ms=share * v.enter_ms, leave_ms=share * v.leave_ms) for v in self.values)
        sums = (replace(s, codes_ms=share * s.codes_ms, beside_ms=share * s.beside_ms) for s in self.sums)
        return replace(self, values=tuple(values), sums=tuple(sums))

    def plus(self, other: IntegerRuns) -> IntegerRuns:
        """The costs of both together, of one network at two shapes."""
        values, sums = {v.name: v for v in self.values}, {s.name: s for s in self.sums}
        for v in other.values:
            old = values.get(v.name, replace(v, enter_ms=0.0, leave_ms=0.0))
            values[v.name] = replace(v, enter_ms=old.enter_ms + v.enter_ms, leave_ms=old.leave_ms + v.leave_ms)
        for s in other.sums:
            before = sums.get(s.name, replace(s, codes_ms=0.0, beside_ms=0.0))
            codes, beside = before.codes_ms + s.codes_ms, before.beside_ms + s.beside_ms
            sums[s.name] = replace(s, codes_ms=codes, beside_ms=beside)
        return IntegerRuns(tuple(values.values()), tuple(sums.values()), {**self.static, **other.static})


NO_RUNS = IntegerRuns()
"""Nothing between integers."""
