"""Small placement problems, random ones, and brute force as the oracle."""

from __future__ import annotations

import random
from itertools import permutations

from hypothesis import strategies as st

from instar.schedulers.placement import Buffer, PlacementProblem
from instar.schedulers.placement.baselines import first_fit, height, neighbours


def buffers(*rows: tuple[int, int, int]) -> tuple[Buffer, ...]:
    """Buffers b0, b1, ... from (lower, upper, size)."""
    return tuple(Buffer(f"b{place}", *row) for place, row in enumerate(rows))


def example() -> PlacementProblem:
    """The example of google/minimalloc's readme: five buffers, capacity 12."""
    rows = ((0, 3, 4), (3, 9, 4), (0, 9, 4), (9, 21, 4), (0, 21, 4))
    return PlacementProblem(buffers(*rows), 12)


def lowest_height(items: tuple[Buffer, ...]) -> int:
    """The lowest height of all: some order of first fit reaches it, because a lowest placement can be pushed down."""
    met = neighbours(items)
    return min(height(items, first_fit(items, order, met)) for order in permutations(range(len(items))))


@st.composite
def problems(draw: st.DrawFn, most: int = 6, *, aligned: bool = False) -> tuple[Buffer, ...]:
    rows = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=most))
    steps = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=len(rows), max_size=len(rows)))
    return tuple(
        Buffer(f"b{place}", lower, lower + width, size, steps[place] if aligned else 1)
        for place, (lower, width, size) in enumerate(rows)
    )


def cut_memory(seed: int, count: int, capacity: int, steps: int) -> tuple[Buffer, ...]:
    """A full memory cut into rectangles at random: fits its capacity exactly, and leaves no byte free at any time."""
    chance = random.Random(seed)
    boxes = [(0, steps, 0, capacity)]
    while len(boxes) < count:
        lower, upper, low, high = boxes.pop(max(range(len(boxes)), key=lambda place: _area(boxes[place])))
        if chance.random() < 0.5 and upper - lower > 1:
            cut = chance.randint(lower + 1, upper - 1)
            boxes += [(lower, cut, low, high), (cut, upper, low, high)]
        else:
            cut = chance.randint(low + 1, high - 1)
            boxes += [(lower, upper, low, cut), (lower, upper, cut, high)]
    return buffers(*((lower, upper, high - low) for lower, upper, low, high in boxes))


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])
