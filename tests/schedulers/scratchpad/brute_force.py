"""Every schedule of a small network at its own order, judged by the checker alone: the oracle of the range solver."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, product
from typing import TypeVar

from instar.schedulers.scratchpad.bands import extent_of
from instar.schedulers.scratchpad.checker import Machine
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.rows import overwritable, parts
from instar.schedulers.scratchpad.schedule import AXES, Band, Range, Schedule

Item = TypeVar("Item")

State = tuple[frozenset[int], frozenset[int]]
"""Tensors on chip and those with a copy off-chip."""


def cheapest(problem: Problem, options: Options, below: int) -> int | None:
    """The least avoidable bytes of all schedules at the problem's order that move fewer than ``below``; ``None``: none.

    All cuts into ranges, all stripe heights, all tensors that may be kept, stored, fetched or overwritten, all sets of
    resident weights. Only what is worse by the meaning of the words is left out: tensors that nobody needs later are
    neither kept whole nor stored nor fetched.
    """
    count = len(problem.operators)
    schedule = Schedule(
        "feasible",
        options.budget_bytes,
        order=tuple(range(count)),
        min_rows=options.min_rows,
        no_spill=options.no_spill,
        stream_buffer_bytes=options.stream_buffer_bytes,
    )
    first = Machine(problem, schedule)
    borders: list[dict[State, Machine]] = [{} for _ in range(count + 1)]
    borders[0][_state(first)] = first
    for start, stop in combinations(range(count + 1), 2):
        for machine in borders[start].values():
            for after in _ways(problem, options, machine, start, stop, below):
                known = borders[stop].get(_state(after))
                if known is None or _cost(after) < _cost(known):
                    borders[stop][_state(after)] = after
    ends = [_cost(machine) for machine in borders[count].values() if not machine.unfinished()]
    return min(ends, default=None)


def _state(machine: Machine) -> State:
    return frozenset(machine.whole), frozenset(machine.copies)


def _cost(machine: Machine) -> int:
    return machine.traffic().total_bytes


def _ways(problem: Problem, options: Options, machine: Machine, start: int, stop: int, below: int) -> Iterator[Machine]:
    for piece in _pieces(problem, options, machine, start, stop):
        lean = _after(machine, piece)
        if lean is None or lean.peak > options.budget_bytes:
            continue  # resident weights only take more room
        again = lean.bytes["weight_reread"] > machine.bytes["weight_reread"]
        weighted = [p for p in range(start, stop) if again and problem.operators[p].weight_bytes]
        for resident in _subsets(weighted):
            after = _after(machine, replace(piece, resident_weights=resident)) if resident else lean
            if after is not None and after.peak <= options.budget_bytes and _cost(after) < below:
                yield after


def _after(machine: Machine, piece: Range) -> Machine | None:
    after = copy.copy(machine)
    after.whole, after.copies, after.bytes = set(machine.whole), set(machine.copies), dict(machine.bytes)
    after.fetched, after.line_rows, after.range_bytes = set(machine.fetched), [], []
    return None if after.run(piece) else after


def _pieces(problem: Problem, options: Options, machine: Machine, start: int, stop: int) -> Iterator[Range]:
    made = [problem.operators[position].output for position in range(start, stop)]
    later = [t for t in range(len(problem.tensors)) if machine.needed_after(t, stop)]
    outputs = [t for t in made if problem.tensors[t].role == "output"]
    keepable = [t for t in machine.whole if t in machine.copies] + [t for t in made if t in later]
    pinned = [t for t in machine.whole if t not in machine.copies]
    read = {t for position in range(start, stop) for t in problem.operators[position].inputs}
    again = options.tiles == "always"  # what bands would read more than once may be fetched for them alone
    away = (t for t in read if (again or t in later) and t in machine.copies and t not in machine.whole)
    fetchable = [t for t in away if problem.tensors[t].role != "input"]
    bands = [None, *(_bands(problem, made[-1]) if options.tiles == "always" else ())]
    storable = [] if options.no_spill else [t for t in made if t in later and t not in outputs]
    rows = problem.tensors[made[-1]].rows
    for height, pairs in product(range(min(options.min_rows, rows), rows + 1), _pairs(problem, start, stop)):
        for kept, fetched, stored in product(_subsets(keepable), _subsets(fetchable), _subsets(storable)):
            lost = set(made) & set(later) - {*kept, *stored, *outputs}
            if lost or any(t in kept and t in stored and len(problem.consumers[t]) == 1 for t in stored):
                continue  # needed later and nowhere, or in both places for one reader
            delivered = () if options.no_spill else outputs
            whole = (*pinned, *kept, *fetched)
            for band in bands:
                yield Range(start, stop, height, whole, fetched, (*stored, *delivered), (), pairs, band)


def _bands(problem: Problem, last: int) -> Iterator[Band]:
    for axis in AXES:
        yield from (Band(axis, size) for size in range(1, extent_of(problem.tensors[last], axis)))


def _pairs(problem: Problem, start: int, stop: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """All ways to overwrite one operand of a result and to leave parts of a concatenation in place."""
    choices: list[list[tuple[tuple[int, int], ...]]] = []
    for operator in problem.operators[start:stop]:
        joined = _subsets([(part, operator.output) for part in parts(problem, operator)])
        over = (((operand, operator.output),) for operand in overwritable(problem, operator))
        choices.append(list(dict.fromkeys(chain(joined, over))))
    for chosen in product(*choices):
        pairs = tuple(chain.from_iterable(chosen))
        if len({guest for guest, _ in pairs}) == len(pairs):
            yield pairs


def _subsets(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))
