"""Work of many small operations in processes of its own.

Threads do not help there: Python lets one of them start an operation at a time, and handing that over takes longer
than a small operation does. Two of them are slower than one.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

import torch

from .errors import InstarError
from .memory import keep_little, trim_memory
from .threads import SIDE_BY_SIDE, heavy_first, one_thread, side_by_side

T = TypeVar("T")
R = TypeVar("R")

_JOB: ContextVar[tuple[Context, Callable[[Any], Any], Sequence[Any]]] = ContextVar("job")
"""What a process was made for."""


def in_processes(
    work: Callable[[T], R], items: Sequence[T], weight: Callable[[T], float], enough: float
) -> Iterator[R]:
    """``work`` of every item, in two processes where torch has several threads and the weights add up to ``enough``.

    A process is a copy of this one (``fork``, as torch's own data loaders use it), so that nothing has to be sent to
    it; where the system has no such copies, threads do the work. Below ``enough`` one thread does it all. Results come
    in the order of the items, and so does the first error; they are sent back, so that they should be small, and know
    nothing of nodes or tensors. What ``work`` leaves behind in memory is lost.

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
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, context, _begin, (copy_context(), work, items))
    with warnings.catch_warnings(), one_thread(), pool:
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that hold a lock: these do not work meanwhile
        waiting = _submitted(pool, heavy_first(items, weight))
        try:
            for place in range(len(items)):
                yield waiting.pop(place).result()
        except BrokenProcessPool as problem:
            raise InstarError(
                "compile: expected the processes that store weights to finish their work; found that one was ended, "
                "perhaps for want of memory; give it more, or set OMP_NUM_THREADS=1 for one process"
            ) from problem
        finally:
            for each in waiting.values():
                each.cancel()


def _submitted(pool: Executor, places: Sequence[int]) -> dict[int, Future[Any]]:
    return {place: pool.submit(_one, place) for place in places}


def _begin(context: Context, work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    keep_little()
    _JOB.set((context, work, items))


def _one(place: int) -> Any:
    context, work, items = _JOB.get()
    try:
        return context.run(work, items[place])
    finally:
        trim_memory()
