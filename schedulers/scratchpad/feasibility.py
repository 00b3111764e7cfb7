"""The least budget with which there is a schedule, and the operator that asks for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .candidates import ALONE, ANY, FEW, MANY, NEVER, Candidate, Reach, candidates, ending
from .options import Options
from .schedule import Infeasible
from .sequenced import Sequenced

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


def smallest_budget(
    net: Sequenced,
    options: Options,
    deadline: float = math.inf,
    alone: Sequence[Candidate] | None = None,
    *,
    bands: bool = False,
) -> Infeasible | None:
    """``None`` if the budget is enough, else what would be.

    With spilling allowed every tensor can wait off-chip between ranges, without it all live tensors are on chip; either
    way the memory of a range is known, and the least budget is the smallest over all ways to cut the order into ranges
    of the largest memory among them. Ranges of several operators are made only around operators that need more memory
    alone than the least budget. ``alone`` are the ranges of :func:`one_by_one`, where they are known. With ``bands``
    ranges may be cut along columns or channels too.

    Raises:
        OutOfTimeError: ``time.perf_counter()`` has passed the deadline.
    """
    if not net.count:
        return None
    alone = one_by_one(net, options, deadline) if alone is None else alone
    enough = max(_memory(net, candidate, options) for candidate in alone)
    if enough <= options.budget_bytes:
        return None
    reach = ALONE if options.atomic else SHORT if net.count > MANY else Reach(ANY, ANY)
    if bands and not options.atomic:
        reach = replace(reach if net.count <= FEW else IN_FEW, bands=True)
    below = replace(options, budget_bytes=enough)
    found = _around_the_largest(net, alone, below, reach, deadline)
    budget, worst = _least_of_largest(net, found, options)
    if budget <= options.budget_bytes:
        return None
    needs = [_memory(net, candidate, options) for candidate in alone[worst.start : worst.end + 1]]
    operator = net.order[worst.start + needs.index(max(needs))]
    return Infeasible(net.problem.operators[operator].name, budget)


def _around_the_largest(
    net: Sequenced, alone: Sequence[Candidate], options: Options, reach: Reach, deadline: float
) -> list[Candidate]:
    """Ranges among which a least of the largest memories is found: those of one operator, and all others around some.

    The least budget is at least what the cheapest range around an operator takes. Operators that take no more alone
    need no longer range, so only ranges around the others are made.
    """
    found: dict[int, list[Candidate]] = {}
    memory = [_memory(net, candidate, options) for candidate in alone]
    least = 0
    for position in sorted(range(net.count), key=lambda place: -memory[place]):
        if memory[position] <= least:
            break
        around = [memory[position]]
        for end in range(position, min(net.count, position + reach.longest)):
            if end not in found:
                found[end] = list(ending(net, end, options, reach, deadline))
            around += [_memory(net, way, options) for way in found[end] if way.start <= position]
        least = max(least, min(around))
    return [*alone, *(way for ways in found.values() for way in ways)]


def _memory(net: Sequenced, candidate: Candidate, options: Options) -> int:
    """Least bytes on chip while the range runs."""
    if not options.no_spill:
        return candidate.least_bytes()
    touched = {t for lane in candidate.stripes.layouts[0].lanes for t in lane.members}
    passing = sum(
        tensor.size_bytes
        for index, tensor in enumerate(net.problem.tensors)
        if index not in touched and _passes(net, index, candidate)
    )
    return int(candidate.frontier((True,) * len(candidate.choices)).memory[0]) + passing


def _passes(net: Sequenced, tensor: int, candidate: Candidate) -> bool:
    role = net.problem.tensors[tensor].role
    readers = net.read_at[tensor]
    kept = role == "output" or (bool(readers) and readers[-1] > candidate.end)
    return kept and net.made_at[tensor] < candidate.start


def _least_of_largest(net: Sequenced, found: Iterable[Candidate], options: Options) -> tuple[int, Candidate]:
    ending: list[list[tuple[int, Candidate]]] = [[] for _ in range(net.count)]
    for candidate in found:
        ending[candidate.end].append((_memory(net, candidate, options), candidate))
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
