"""Small graphs of operators that run whole, and brute force as the oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from hypothesis import strategies as st

from instar.schedulers.scratchpad.atomic.fixed_order import traffic_bytes
from instar.schedulers.scratchpad.atomic.flow import Flow, Gap, gaps
from instar.schedulers.scratchpad.atomic.schedule import on_chip_bytes, stays_of
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor


def graph(reads: Sequence[Sequence[int]], sizes: Sequence[int], *, inputs: Sequence[int] = ()) -> Problem:
    """Operator ``i`` makes tensor ``len(inputs) + i`` of ``sizes[i]`` bytes; ``reads`` are positions of tensors."""
    read = {tensor for row in reads for tensor in row}
    shift = len(inputs)
    tensors = [Tensor(f"x{place}", size, role="input") for place, size in enumerate(inputs)]
    tensors += [
        Tensor(f"t{place}", size, role="activation" if place + shift in read else "output")
        for place, size in enumerate(sizes)
    ]
    operators = [Operator(f"o{place}", "op", tuple(row), place + shift) for place, row in enumerate(reads)]
    return Problem("graph", tuple(tensors), tuple(operators))


@st.composite
def graphs(draw: st.DrawFn, most: int = 6) -> Problem:
    """Random graphs with up to two inputs of the network; operators may read nothing."""
    count = draw(st.integers(1, most))
    inputs = draw(st.lists(st.integers(1, 6), max_size=2))
    sizes = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    reads = [
        sorted(draw(st.sets(st.integers(0, len(inputs) + place - 1), max_size=3))) if len(inputs) + place else []
        for place in range(count)
    ]
    return graph(reads, sizes, inputs=inputs)


def orders(flow: Flow) -> Iterator[tuple[int, ...]]:
    """All executable orders."""
    stack: list[tuple[int, ...]] = [()]
    while stack:
        done = stack.pop()
        if len(done) == flow.steps:
            yield done
        waiting = (operator for operator in range(flow.steps) if operator not in done)
        stack += [(*done, o) for o in waiting if all(before in done for before in flow.predecessors(o))]


def cheapest_replacement(flow: Flow, order: Sequence[int], budget: int) -> int:
    """Least traffic of all sets of gaps, each judged by what is on chip in every step."""
    every = gaps(flow, order)
    costs = [
        traffic_bytes(flow, dropped)
        for count in range(len(every) + 1)
        for dropped in combinations(every, count)
        if _fits(flow, order, dropped, budget)
    ]
    return min(costs)


def _fits(flow: Flow, order: Sequence[int], dropped: Sequence[Gap], budget: int) -> bool:
    return max(on_chip_bytes(flow, order, stays_of(flow, order, dropped))) <= budget
