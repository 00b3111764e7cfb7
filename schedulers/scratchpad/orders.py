"""Orders to start from: the given one, one that runs branches to their end, one of the lowest peak."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .atomic.flow import make_flow
from .atomic.peak import lowest_peak
from .problem import Problem

PEAK_STATES = 20_000
"""Sets of operators that the search for the lowest peak looks at."""

PEAK_OPERATORS = 1000
"""Above which that search is left out: it would take longer than it gains."""


def orders(problem: Problem, deadline: float = math.inf) -> Iterator[tuple[int, ...]]:
    """Executable orders, each once: the problem's own, branches finished first, and the lowest peak of whole operators.

    Args:
        problem: the network.
        deadline: when the search for the lowest peak stops, in ``time.perf_counter()``.
    """
    given = tuple(range(len(problem.operators)))
    yield given
    branches = depth_first_order(problem)
    if branches != given:
        yield branches
    if len(given) <= PEAK_OPERATORS:
        lowest = lowest_peak(make_flow(problem), states=PEAK_STATES, deadline=deadline).order
        if lowest and lowest not in (given, branches):
            yield lowest


def depth_first_order(problem: Problem) -> tuple[int, ...]:
    """An executable order that takes, of all operators that can run, the one that frees most bytes.

    Ties go to the operator whose inputs are the youngest, so that a branch that was begun is finished first
    (list scheduling with a memory priority, as in Sethi and Ullman's register allocation for trees).
    """
    waiting = [len({t for t in operator.inputs if problem.producer[t] is not None}) for operator in problem.operators]
    readers_left = [len(readers) for readers in problem.consumers]
    age = [0] * len(problem.tensors)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []

    def priority(index: int) -> tuple[int, int, int]:
        operator = problem.operators[index]
        freed = sum(problem.tensors[t].size_bytes for t in set(operator.inputs) if readers_left[t] == 1)
        growth = problem.tensors[operator.output].size_bytes - freed
        return growth, -max((age[t] for t in operator.inputs), default=0), index

    while ready:
        chosen = min(ready, key=priority)
        ready.remove(chosen)
        order.append(chosen)
        operator = problem.operators[chosen]
        age[operator.output] = len(order)
        for tensor in set(operator.inputs):
            readers_left[tensor] -= 1
        for reader in problem.consumers[operator.output]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return tuple(order)
