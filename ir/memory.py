"""Memory that was freed goes back to the system between stages."""

from __future__ import annotations

import ctypes
import gc
import sys

MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""


def release_memory() -> None:
    """Give freed memory back, where the C library can: one stage's temporaries must not count in the next one's peak.

    glibc keeps what was freed in its arenas; after calibration of a sentence encoder that is 200 MB.
    """
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Give back what is freed already; takes milliseconds where collecting garbage takes tenths of a second."""
    _call("malloc_trim", 0)


def keep_little() -> None:
    """From now on tensors of a megabyte or more are given back as soon as they are freed; for processes of our own."""
    _call("mallopt", MMAP_THRESHOLD, 1 << 20)


def _call(name: str, *numbers: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:  # other C libraries have no such function
        function(*numbers)
