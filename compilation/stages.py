"""The clock of a compilation: what each stage took, told to whoever wants to see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..ir.memory import release_memory

Progress = Callable[[str, str], None]
"""Called with the stage and what it just did."""

RELEASE_AFTER_S = 0.5
"""Seconds after which a stage may have left enough garbage to be worth the search for it."""


def silent(stage: str, what: str) -> None:
    """Progress that nobody wants to see."""
    del stage, what


@dataclass
class Stages:
    """Wall seconds per stage, in order of first use; each is announced when it starts."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    progress: Progress = silent

    def teller(self, name: str) -> Callable[[str], None]:
        """What a stage calls with what it just did."""
        return lambda what: self.progress(name, what)

    @contextmanager
    def time(self, name: str) -> Generator[None]:
        """Add the time of the block to a stage."""
        self.progress(name, "")
        start = time.perf_counter()
        try:
            yield
        finally:
            if time.perf_counter() - start > RELEASE_AFTER_S:
                release_memory()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
