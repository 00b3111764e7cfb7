"""The garbage collector while modules load and while a compilation runs.

What is imported lives as long as the process: torch's tracer, onnxscript and sympy are a million objects, and searching
among them for garbage takes 0.3 s each time, a third of the processor time of a compilation of three layers. So nothing
is searched while modules load, and what has been loaded is set aside until the compilation ends.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

GROWTH_NBYTES = 64 * 2**20
"""What the process may have grown by before garbage from before a compilation is looked for at its start."""


STATISTICS = Path("/proc/self/statm")
"""Where Linux says how many pages a process has."""

YOUNG_OBJECTS = 10_000
"""New objects between two searches of the youngest while a compilation runs; Python's default of 700 is for less."""


def resident_nbytes() -> int:
    """Bytes of the process in memory; all that a process can have where the system does not say."""
    try:
        pages = int(STATISTICS.read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return sys.maxsize
    return pages * os.sysconf("SC_PAGE_SIZE")


class Collector:
    """Who has asked for what: compilations may run in several threads, and inside each other."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.loading = 0
        self.running = 0
        self.was_enabled = True
        self.froze = False
        self.searched_at_nbytes = resident_nbytes()
        self.loaded_from_nbytes = 0
        self.thresholds = gc.get_threshold()

    def pause(self) -> None:
        """No searches from now on."""
        with self.lock:
            if self.loading == 0:
                self.was_enabled = gc.isenabled()
                gc.disable()
                self.loaded_from_nbytes = resident_nbytes()
            self.loading += 1

    def go_on(self) -> None:
        """Searches again, where nobody else loads and the user has not turned them off."""
        with self.lock:
            self.loading -= 1
            if self.loading:
                return
            self.searched_at_nbytes += resident_nbytes() - self.loaded_from_nbytes  # modules are no garbage
            if self.was_enabled:
                gc.enable()

    def set_aside(self) -> None:
        """All objects of now are left out of searches; those that the user has set aside stay his."""
        with self.lock:
            self.running += 1
            if self.running > 1 or gc.get_freeze_count():
                return
            size = resident_nbytes()
            if size == sys.maxsize or size - self.searched_at_nbytes > GROWTH_NBYTES:
                gc.collect()
                self.searched_at_nbytes = resident_nbytes()
            gc.freeze()
            self.froze = True
            self.thresholds = gc.get_threshold()
            if self.thresholds[0]:
                gc.set_threshold(max(YOUNG_OBJECTS, self.thresholds[0]), *self.thresholds[1:])

    def take_back(self) -> None:
        """They are objects like others again."""
        with self.lock:
            self.running -= 1
            if self.running == 0 and self.froze:
                gc.unfreeze()
                gc.set_threshold(*self.thresholds)
                self.froze = False


COLLECTOR = Collector()


@contextmanager
def loading() -> Generator[None]:
    """No search for garbage while the block imports modules."""
    COLLECTOR.pause()
    try:
        yield
    finally:
        COLLECTOR.go_on()


@contextmanager
def loaded() -> Generator[None]:
    """Searches in the block leave out everything that is there when it begins."""
    COLLECTOR.set_aside()
    try:
        yield
    finally:
        COLLECTOR.take_back()
