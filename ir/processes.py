"""Work of many small operations in processes of its own.

Threads do not help there: Python lets one of them start an operation at a time, and handing that over takes longer
than a small operation does. Two of them are slower than one.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import copy_context
from typing import Any, TypeVar

import torch

from .errors import InstarError
from .memory import keep_little, trim_memory
from .threads import SIDE_BY_SIDE, heavy_first, one_thread, side_by_side
from .workers import CHECK_S, STILL, EndedError, Result, SilentError, Workers

T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    work: Callable[[T], R], items: Sequence[T], weight: Callable[[T], float], enough: float
) -> Iterator[R]:
    """``work`` of every item, in two processes where torch has several threads and the weights add up to ``enough``.

    A process is a copy of this one (``fork``, as torch's own data loaders use it), so that nothing has to be sent to
    it; where the system has no such copies, threads do the work. Below ``enough`` one thread does it all. Results come
    in the order of the items, and so does the first error; they are sent back, so that they should be small, and know
    nothing of nodes or tensors. What ``work`` leaves behind in memory is lost. Where a process stops answering, all of
    them are ended, this one does what is left, and a warning says so.

    Raises:
        InstarError: a process ended before its work did.
    """
    count = min(torch.get_num_threads(), SIDE_BY_SIDE, len(items))
    if count < 2 or sum(map(weight, items)) < enough:
        with one_thread():
            yield from map(work, items)
    elif not can_fork():
        yield from side_by_side(work, items, weight)
    else:
        yield from _forked(work, items, weight, count)


def can_fork() -> bool:
    """Whether the system copies processes safely; macOS has the call, but its own libraries fail behind it."""
    return sys.platform == "linux"


def _forked(work: Callable[[T], R], items: Sequence[T], weight: Callable[[T], float], count: int) -> Iterator[R]:
    context = copy_context()

    def one(place: int) -> R:
        try:
            return context.run(work, items[place])
        finally:
            trim_memory()

    done: dict[int, Result] = {}
    with one_thread():
        with Workers(count, _begin, one) as workers:
            first = yield from _in_order(workers.results(heavy_first(items, weight)), len(items), done)
        if first < len(items):
            warnings.warn(
                f"compile: a process that stores weights took no processor time for {CHECK_S * STILL:g} s; they were "
                "ended, and this one does the rest alone; set OMP_NUM_THREADS=1 to begin like that",
                stacklevel=2,
            )
        for place in range(first, len(items)):
            yield done[place].get() if place in done else work(items[place])


def _in_order(results: Iterator[Result], number: int, done: dict[int, Result]) -> Generator[Any, None, int]:
    """Values in the order of the places, and the first place that a process that stopped answering leaves open."""
    for place in range(number):
        try:
            while place not in done:
                result = next(results)
                done[result.place] = result
        except SilentError:
            return place
        except EndedError as problem:
            raise InstarError(
                "compile: expected the processes that store weights to finish their work; found that one was ended, "
                "perhaps for want of memory; give it more, or set OMP_NUM_THREADS=1 for one process"
            ) from problem
        yield done.pop(place).get()
    return number


def _begin() -> None:
    torch.set_num_threads(1)
    keep_little()
