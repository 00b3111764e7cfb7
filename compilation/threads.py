"""Torch's number of threads, which is one for the whole process, set for a block."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import torch


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
