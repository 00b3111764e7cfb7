"""Torch's number of threads, which is one for the whole process, set for a block; and work beside other work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

SIDE_BY_SIDE = 2
"""Layers that are worked on at a time at most: each needs memory, and more threads wait for Python's lock."""


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Run torch with ``count`` threads inside, and with as many as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """One thread: choosing codes is many small operations, which one thread runs faster than two."""
    return torch_threads(1)


def side_by_side(
    work: Callable[[T], R], items: Sequence[T], weight: Callable[[T], float] = lambda _: 0.0
) -> Iterator[R]:
    """``work`` of every item, several at a time where torch has several threads; each of them runs torch with one.

    Results come in the order of the items, whichever is done first, and so does the first error: nothing depends on how
    many threads there are. Heavy items by ``weight`` start first, so that no thread is left alone with one of them.
    """
    count = min(torch.get_num_threads(), SIDE_BY_SIDE, len(items))
    with one_thread():
        if count < 2:
            yield from map(work, items)
            return
        places = heavy_first(items, weight)
        with ThreadPoolExecutor(count) as pool:
            waiting = {place: pool.submit(copy_context().run, work, items[place]) for place in places}
            try:
                for place in range(len(items)):
                    yield waiting.pop(place).result()
            finally:
                for each in waiting.values():
                    each.cancel()


def heavy_first(items: Sequence[T], weight: Callable[[T], float]) -> list[int]:
    """The places of items, those of heavy ones first."""
    return sorted(range(len(items)), key=lambda place: -weight(items[place]))


class Beside:
    """Work that one more thread does, call by call in the order of the calls, while the caller goes on.

    Args:
        alone: whether there is no such thread: a call is done at once.
        behind: calls that may wait for the one that is being done; with more the caller waits too.
    """

    def __init__(self, *, alone: bool, behind: int = 0) -> None:
        self._pool = None if alone else ThreadPoolExecutor(1)
        self._behind = behind
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, work: Callable[[], None]) -> None:
        """Do ``work``, now or later; what an earlier call raised may be raised here."""
        if self._pool is None:
            work()
            return
        while len(self._waiting) > self._behind:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(copy_context().run, work))

    def finish(self) -> None:
        """Wait for everything that was called; the first error is raised."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """No more calls; what waits is given up."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
