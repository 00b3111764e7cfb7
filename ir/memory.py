"""Memory that was freed goes back to the system between stages."""

from __future__ import annotations

import ctypes
import gc
import sys


def release_memory() -> None:
    """Give freed memory back, where the C library can: one stage's temporaries must not count in the next one's peak.

    glibc keeps what was freed in its arenas; after calibration of a sentence encoder that is 200 MB.
    """
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Give back what is freed already; takes milliseconds where collecting garbage takes tenths of a second."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have no such function
    if trim is not None:
        trim(0)
