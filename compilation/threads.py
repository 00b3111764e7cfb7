"""Torch's number of threads, which is one for the whole process, set for a block; and several layers side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``work`` of every item, several at a time where torch has several threads; each of them runs torch with one.

    Results come in the order of the items, whichever is done first, and so does the first error: nothing depends on how
    many threads there are.
    """
    count = min(torch.get_num_threads(), SIDE_BY_SIDE, len(items))
    with one_thread():
        if count < 2:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(count) as pool:
            yield from pool.map(lambda run, item: run(work, item), [copy_context().run for _ in items], items)
