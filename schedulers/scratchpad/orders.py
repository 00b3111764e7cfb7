"""Orders to start from: the given one, and one that runs branches to their end before it opens others."""

from __future__ import annotations

from .problem import Problem


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
