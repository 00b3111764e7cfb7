"""Choices of many layers at once: which of them can be in no best assignment, decided on their floats, exactly.

A choice is dominated where another of its layer loses no more and costs no more. Losses decide, and preferences between
equal ones; floats, preferences and costs are compared as they are, so nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from .problem import Choice

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

CROWDED = 12
"""Choices a layer on average from which it pays to drop first what a few good ones beat."""

SHARES = (1.0, 1 / 8, 8.0, 1 / 64, 64.0, 1 / 512)
"""How the loss is weighed against the costs to find these good ones."""


@dataclass(frozen=True)
class _Columns:
    """Choices side by side: ``place`` among those of all layers, ``owner`` the layer, ``cost`` ``[costs, choices]``."""

    place: Integers
    owner: Integers
    loss: Floats
    preference: Integers
    cost: Integers

    def __getitem__(self, which: Integers | NDArray[np.bool_]) -> _Columns:
        """Some of the choices."""
        place, owner, loss, preference = self.place, self.owner, self.loss, self.preference
        return _Columns(place[which], owner[which], loss[which], preference[which], self.cost[:, which])


def undominated(rows: Sequence[Sequence[Choice]]) -> list[list[Choice]]:
    """The undominated choices of every layer by rising loss, preference and costs; of equal ones the first by name.

    Args:
        rows: choices per layer, at least one each, all with the same number of costs.
    """
    flat = [choice for row in rows for choice in row]
    if not flat:
        return []
    found = _columns(rows, flat)
    for share in SHARES:
        if len(found.place) < CROWDED * len(rows):
            break
        found = _without_beaten(found, share)
    found = found[np.lexsort((*found.cost[::-1], found.preference, found.loss, found.owner))]
    kept = found[_falling(found) if len(found.cost) < 2 else _near(found)]
    first = _first_by_name(found, flat)
    made: list[list[Choice]] = [[] for _ in rows]
    owners: list[int] = kept.owner.tolist()
    places: list[int] = kept.place.tolist()
    for owner, place in zip(owners, places, strict=True):
        made[owner].append(flat[first.get(place, place)])
    return made


def _columns(rows: Sequence[Sequence[Choice]], flat: Sequence[Choice]) -> _Columns:
    number = len(flat)
    return _Columns(
        np.arange(number),
        np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
        np.fromiter(map(attrgetter("loss"), flat), np.float64, number),
        np.fromiter(map(attrgetter("preference"), flat), np.int64, number),
        np.fromiter(chain.from_iterable(map(attrgetter("costs"), flat)), np.int64).reshape(number, -1).T.copy(),
    )


def _without_beaten(found: _Columns, share: float) -> _Columns:
    """Without what loses more and costs no less than the choice of its layer that is best at a share of the loss."""
    first = np.flatnonzero(np.concatenate(([True], found.owner[1:] != found.owner[:-1])))
    sizes = np.diff(np.append(first, len(found.owner)))

    def level(column: Floats | Integers) -> Floats:
        """The column in widths of its layer; what all choices of a layer share does not matter."""
        width = (np.maximum.reduceat(column, first) - np.minimum.reduceat(column, first)).astype(np.float64)
        return column * np.repeat(1.0 / np.where(width > 1e-300, width, 1.0), sizes)

    value = share * level(found.loss) + sum(map(level, found.cost))
    equal = np.flatnonzero(value == np.repeat(np.minimum.reduceat(value, first), sizes))
    owner = found.owner[equal]
    best = np.repeat(equal[np.concatenate(([True], owner[1:] != owner[:-1]))], sizes)
    beaten = found.loss > found.loss[best]
    for row in found.cost:
        beaten &= row >= row[best]
    return found[~beaten]


def _falling(found: _Columns) -> NDArray[np.bool_]:
    """At most one cost: in the order of loss it must fall."""
    number, owner = len(found.place), found.owner
    rank = np.zeros(number, np.int64) if not len(found.cost) else np.unique(found.cost[0], return_inverse=True)[1]
    level = rank - owner * number  # every layer's are below those of the layer before
    kept = np.ones(number, dtype=bool)
    kept[1:] = level[1:] < np.minimum.accumulate(level)[:-1]
    return kept


def _near(found: _Columns) -> NDArray[np.bool_]:
    """Several costs: compared with all predecessors in the order of loss."""
    owner, cost = found.owner, found.cost
    kept = np.ones(len(owner), dtype=bool)
    for distance in range(1, int(np.bincount(owner).max())):
        beaten = owner[distance:] == owner[:-distance]
        for row in cost:
            beaten &= row[:-distance] <= row[distance:]
        kept[distance:] &= ~beaten
    return kept


def _first_by_name(found: _Columns, flat: Sequence[Choice]) -> dict[int, int]:
    """Of choices that are equal in everything but their names: the first in the order of ``found`` -> that by name."""
    same = found.owner[1:] == found.owner[:-1]
    for column in (found.loss, found.preference, *found.cost):
        same &= column[1:] == column[:-1]
    starts = np.flatnonzero(np.concatenate(([True], ~same)))
    ends = np.append(starts[1:], len(found.place))
    longer = ends - starts > 1
    spans = zip(starts[longer].tolist(), ends[longer].tolist(), strict=True)
    runs = [found.place[start:end].tolist() for start, end in spans]
    return {run[0]: min(run, key=lambda place: flat[place].name) for run in runs}
