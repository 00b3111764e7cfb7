"""The least budget with which there is a schedule, and the operator that asks for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .candidates import ALONE, ANY, FEW, MANY, NEVER, Candidate, OutOfTimeError, Reach, candidates, ending
from .options import Options
from .orders import orders
from .problem import Problem
from .schedule import Infeasible
from .sequenced import Sequenced, sequenced

SHORT = Reach(8, 8)
"""Ranges of networks with many operators that are tried to get below what an operator needs alone."""


IN_FEW = Reach(4, 4)
"""Ranges that are tried in bands where there are more than a few operators."""


def one_by_one(net: Sequenced, options: Options, deadline: float = math.inf) -> list[Candidate]:
    """Every operator as a range of its own, whatever memory that takes.

    Raises:
        OutOfTimeError: ``time.perf_counter()`` has passed the deadline.
    """
    return list(candidates(net, replace(options, budget_bytes=NEVER), ALONE, deadline))


@dataclass(frozen=True)
class Start:
    """An order in which there is a schedule.

    Attributes:
        net: the network in this order.
        alone: the ranges of single operators that fit.
        cut: whether ranges are to be cut along columns or channels.
    """

    net: Sequenced
    alone: list[Candidate]
    cut: bool


def first_that_fits(problem: Problem, options: Options, deadline: float = math.inf) -> Start | Infeasible:
    """The first order in which the budget is enough, or what the order that needs least asks for.

    Raises:
        OutOfTimeError: ``time.perf_counter()`` has passed the deadline before anything was known about any order.
    """
    refused: list[Infeasible] = []
    for order in orders(problem, deadline):
        try:
            found = _start(sequenced(problem, order, atomic=options.atomic), options, deadline)
        except OutOfTimeError:
            if not refused:
                raise
            break
        if isinstance(found, Start):
            return found
        refused.append(found)
        if options.fixed_order or (options.atomic and not options.no_spill):
            break  # whole operators that may spill need what the largest of them needs, in any order
    return min(refused, key=lambda why: why.smallest_budget_bytes)


def _start(net: Sequenced, options: Options, deadline: float) -> Start | Infeasible:
    alone = one_by_one(net, options, deadline)
    cut = options.tiles == "always" and not options.atomic
    rows = smallest_budget(net, options, deadline, alone)
    if rows is not None:
        if options.tiles == "never" or options.atomic:
            return rows.needs
        bands = smallest_budget(net, options, deadline, alone, bands=True, before=rows)
        if bands is not None:
            return bands.needs
        cut = True
    return Start(net, [candidate for candidate in alone if candidate.least_bytes() <= options.budget_bytes], cut)


@dataclass(frozen=True)
class Least:
    """The least budget of an order, as far as ranges were tried.

    Attributes:
        needs: the operator that asks for it, and the bytes.
        found: the ranges that were made for it.
    """

    needs: Infeasible
    found: tuple[Candidate, ...]


def smallest_budget(
    net: Sequenced,
    options: Options,
    deadline: float = math.inf,
    alone: Sequence[Candidate] | None = None,
    *,
    bands: bool = False,
    before: Least | None = None,
) -> Least | None:
    """``None`` if the budget is enough, else what would be.

    With spilling allowed every tensor can wait off-chip between ranges, without it all live tensors are on chip; either
    way the memory of a range is known, and the least budget is the smallest over all ways to cut the order into ranges
    of the largest memory among them. Ranges of several operators are made only around operators that need more memory
    alone than the least budget. ``alone`` are the ranges of :func:`one_by_one`, where they are known. With ``bands``
    ranges may be cut along columns or channels too; ``before`` is the answer without, whose ranges count as well.

    Raises:
        OutOfTimeError: ``time.perf_counter()`` has passed the deadline.
    """
    if not net.count:
        return None
    alone = one_by_one(net, options, deadline) if alone is None else alone
    memory = _Memory(net, options, deadline)
    enough = max(memory(candidate) for candidate in alone)
    if enough <= options.budget_bytes:
        return None
    reach = ALONE if options.atomic else SHORT if net.count > MANY else Reach(ANY, ANY)
    if bands and not options.atomic:
        reach = replace(reach if net.count <= FEW else IN_FEW, bands=True)
    below = replace(options, budget_bytes=enough if before is None else before.needs.smallest_budget_bytes)
    found = _around_the_largest(net, alone, below, reach, memory)
    found = found if before is None else (*found, *before.found)
    budget, worst = _least_of_largest(net, found, memory)
    if budget <= options.budget_bytes:
        return None
    needs = [memory(candidate) for candidate in alone[worst.start : worst.end + 1]]
    operator = net.order[worst.start + needs.index(max(needs))]
    return Least(Infeasible(net.problem.operators[operator].name, budget), found)


def _around_the_largest(
    net: Sequenced, alone: Sequence[Candidate], options: Options, reach: Reach, memory: _Memory
) -> tuple[Candidate, ...]:
    """Ranges among which a least of the largest memories is found: those of one operator, and all others around some.

    The least budget is at least what the cheapest range around an operator takes. Operators that take no more alone
    need no longer range, so only ranges around the others are made.
    """
    found: dict[int, list[Candidate]] = {}
    needs = [memory(candidate) for candidate in alone]
    least = 0
    for position in sorted(range(net.count), key=lambda place: -needs[place]):
        if needs[position] <= least:
            break
        around = [needs[position]]
        for end in range(position, min(net.count, position + reach.longest)):
            if end not in found:
                found[end] = list(ending(net, end, options, reach, memory.deadline))
            around += [memory(way) for way in found[end] if way.start <= position]
        least = max(least, min(around))
    return (*alone, *(way for ways in found.values() for way in ways))


class _Memory:
    """Least bytes on chip while a range runs, known for every range that was asked for.

    Raises:
        OutOfTimeError: ``time.perf_counter()`` has passed the deadline.
    """

    def __init__(self, net: Sequenced, options: Options, deadline: float) -> None:
        self.deadline = deadline
        self._no_spill = options.no_spill
        self._known: dict[int, tuple[Candidate, int]] = {}
        tensors = net.problem.tensors
        self._sizes = np.asarray([tensor.size_bytes for tensor in tensors], dtype=np.int64)
        self._made = np.asarray(net.made_at, dtype=np.int64)
        self._until = np.asarray(
            [
                net.count if tensor.role == "output" else readers[-1] if readers else -1
                for tensor, readers in zip(tensors, net.read_at, strict=True)
            ],
            dtype=np.int64,
        )

    def __call__(self, candidate: Candidate) -> int:
        if id(candidate) not in self._known:
            if time.perf_counter() > self.deadline:
                raise OutOfTimeError
            self._known[id(candidate)] = candidate, self._of(candidate)
        return self._known[id(candidate)][1]

    def _of(self, candidate: Candidate) -> int:
        if not self._no_spill:
            return candidate.least_bytes()
        passing = self._sizes * ((self._made < candidate.start) & (self._until > candidate.end))
        passing[list({t for lane in candidate.stripes.layouts[0].lanes for t in lane.members})] = 0
        return int(candidate.frontier((True,) * len(candidate.choices)).memory[0]) + int(passing.sum())


def _least_of_largest(net: Sequenced, found: Iterable[Candidate], memory_of: _Memory) -> tuple[int, Candidate]:
    ending: list[list[tuple[int, Candidate]]] = [[] for _ in range(net.count)]
    for candidate in found:
        ending[candidate.end].append((memory_of(candidate), candidate))
    best: list[tuple[int, Candidate | None]] = [(0, None)]
    for end in range(net.count):
        ways = ((max(memory, best[candidate.start][0]), memory, candidate) for memory, candidate in ending[end])
        largest, memory, candidate = min(ways, key=lambda way: way[0])
        before = best[candidate.start]
        worst = candidate if before[1] is None or memory >= before[0] else before[1]
        best.append((largest, worst))
    largest, worst = best[-1]
    assert worst is not None
    return largest, worst
