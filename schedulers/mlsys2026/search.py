"""A schedule for a contest instance: the best cut of the given order into subgraphs, then what to retain.

Cuts are chosen by dynamic programming over runs of at most ``longest`` operations, each with the best of a few tile
sizes, so the result is optimal for those runs and tiles without retention; retention is added where it helps, one
tensor at a time. A bound that holds for every schedule is beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...ir.errors import ScheduleError
from .evaluator import DEFAULT_RULES, Rules, Run, evaluate
from .problem import Instance, Subgraph

TRIES = 3
"""Largest tiles that fit and are evaluated per subgraph."""


@dataclass(frozen=True)
class Found:
    """A valid schedule.

    Attributes:
        schedule: its subgraphs.
        latencies: of each.
        bound: no valid schedule has a smaller total.
    """

    schedule: tuple[Subgraph, ...]
    latencies: tuple[float, ...]
    bound: float

    @property
    def total(self) -> float:
        """Latency of all."""
        return sum(self.latencies)


def bound(instance: Instance, rules: Rules = DEFAULT_RULES) -> float:
    """All operations once at full efficiency, or inputs and results once over the bus, whichever takes longer."""
    moved = sum(math.prod(instance.sizes[tensor]) for tensor in instance.graph_inputs & _read(instance))
    moved += sum(math.prod(instance.sizes[tensor]) for tensor in instance.graph_outputs)
    compute = 0.0
    for op in instance.ops:
        blocks = math.prod(
            size / native for size, native in zip(instance.sizes[op.output], instance.native, strict=True)
        )
        deep = op.type == "MatMul" and rules.depth == "native"
        depth = instance.sizes[op.inputs[0]][0] / instance.native[0] if deep else 1.0
        compute += op.base_cost * blocks * depth
    return max(compute, moved / instance.bandwidth)


def _read(instance: Instance) -> frozenset[int]:
    return frozenset(tensor for op in instance.ops for tensor in op.inputs)


def alone(instance: Instance, rules: Rules = DEFAULT_RULES) -> Found:
    """Every operation on its own, nothing retained: what a schedule is compared with."""
    return search(instance, rules, longest=1, retain=False)


def search(instance: Instance, rules: Rules = DEFAULT_RULES, *, longest: int = 4, retain: bool = True) -> Found:
    """The schedule described above.

    Raises:
        ScheduleError: an operation fits with none of the tile sizes.
    """
    order = _executable(instance)
    best: list[tuple[float, tuple[Subgraph, ...]]] = [(0.0, ())]
    for stop in range(1, len(order) + 1):
        options: list[tuple[float, tuple[Subgraph, ...]]] = []
        for start in range(max(0, stop - longest), stop):
            found = _best_tiles(instance, rules, tuple(order[start:stop]), set(order[stop:]))
            if found is not None and best[start][0] < math.inf:
                options.append((best[start][0] + found[0], (*best[start][1], found[1])))
        best.append(min(options, key=lambda option: option[0]) if options else (math.inf, ()))
    if best[-1][0] == math.inf:
        raise ScheduleError(
            f"schedule: expected tiles that fit {instance.capacity}, found none; the capacity is too small"
        )
    schedule = _retained(instance, rules, best[-1][1]) if retain else best[-1][1]
    return Found(schedule, evaluate(instance, schedule, rules), bound(instance, rules))


def _executable(instance: Instance) -> list[int]:
    """Operations in an order in which inputs are made before they are read, close to the given one."""
    order: list[int] = []
    made = set(instance.graph_inputs)
    left = list(range(len(instance.ops)))
    while left:
        ready = next((op for op in left if set(instance.ops[op].inputs) <= made), None)
        if ready is None:
            raise ScheduleError(f"instance: expected a graph without cycles, found one through operation {left[0]}")
        left.remove(ready)
        order.append(ready)
        made.add(instance.ops[ready].output)
    return order


def _best_tiles(
    instance: Instance, rules: Rules, ops: tuple[int, ...], later: set[int]
) -> tuple[float, Subgraph] | None:
    """The best of the largest tiles that fit, or ``None``: nothing fits, or what is made inside is read later."""
    try:
        whole = Run(instance, Subgraph(ops, (1, 1, 1)), rules, frozenset(), "candidate")
    except ScheduleError:
        return None  # results of different sizes
    read_later = {tensor for op in later for tensor in instance.ops[op].inputs}
    if read_later & (set(whole.made) - whole.outputs):
        return None
    fitting = (
        run
        for tile in _tiles(instance, rules, whole)
        if (run := Run(instance, Subgraph(ops, tile, traversal=_snake(whole, tile)), rules, frozenset(), "run")).fits()
    )
    found = [(run.latency(), run.subgraph) for run in itertools.islice(fitting, TRIES)]
    return min(found, key=lambda option: option[0]) if found else None


def _tiles(instance: Instance, rules: Rules, run: Run) -> Iterator[tuple[int, int, int]]:
    """Tiles from large to small: native sizes times and divided by powers of two."""
    most = 1 if rules.above_native == "refused" else 16
    widths, heights = (
        sorted({min(end, max(1, native * most >> shift)) for shift in range(10)}, reverse=True)
        for end, native in zip((run.width, run.height), instance.native, strict=True)
    )
    sums = [instance.sizes[op.inputs[0]][0] for op in run.made.values() if op.type == "MatMul"]
    deepest = max(sums, default=1)
    depths = sorted({max(1, deepest >> shift) for shift in range(8)}, reverse=True)
    tiles = itertools.product(widths, heights, depths)
    yield from sorted(tiles, key=lambda tile: (-tile[0] * tile[1], -tile[2], abs(tile[0] - tile[1])))


def _snake(run: Run, tile: tuple[int, int, int]) -> tuple[int, ...]:
    """Tiles row by row, every other row backwards, so that neighbours share a factor."""
    columns, rows = math.ceil(run.width / tile[0]), math.ceil(run.height / tile[1])
    order: list[int] = []
    for row in range(rows):
        places = range(row * columns, (row + 1) * columns)
        order += places if row % 2 == 0 else reversed(places)
    return tuple(order)


def _retained(instance: Instance, rules: Rules, schedule: tuple[Subgraph, ...]) -> tuple[Subgraph, ...]:
    """Adds tensors to what a subgraph retains for the next one while the total falls."""
    total = sum(evaluate(instance, schedule, rules))
    for place in range(len(schedule) - 1):
        for tensor in sorted({tensor for op in schedule[place + 1].ops for tensor in instance.ops[op].inputs}):
            kept = replace(schedule[place], retain=schedule[place].retain | {tensor})
            changed = (*schedule[:place], kept, *schedule[place + 1 :])
            try:
                now = sum(evaluate(instance, changed, rules))
            except ScheduleError:
                continue  # does not fit, or is read again later
            if now < total:
                schedule, total = changed, now
    return schedule
