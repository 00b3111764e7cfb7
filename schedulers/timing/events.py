"""What a program does, as a time model sees it: transfers by DMA and computations by the core, in program order.

Both kinds name the earlier events that must have ended before. This is how a program says which data it uses, and
which memory it overwrites: with two buffers, the load of tile ``i + 2`` needs the computation of tile ``i``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...ir.errors import ScheduleError


@dataclass(frozen=True)
class Transfer:
    """Bytes between the slow memory and a fast one.

    Attributes:
        name: for people.
        size_bytes: moved, at least 0.
        direction: ``read`` from the slow memory, or ``write`` to it.
        needs: positions of earlier events.
        memory: name of the fast memory; ``""`` is the nearest one.
    """

    name: str
    size_bytes: int
    direction: Literal["read", "write"] = "read"
    needs: tuple[int, ...] = ()
    memory: str = ""


@dataclass(frozen=True)
class Compute:
    """Arithmetic on data in the nearest fast memory.

    Attributes:
        name: for people.
        macs: multiply-accumulates.
        dtype: of both factors.
        read_bytes: read from the fast memory by the core, 0 if its ports are no limit.
        written_bytes: written to it.
        needs: positions of earlier events.
    """

    name: str
    macs: int
    dtype: str = "int8"
    read_bytes: int = 0
    written_bytes: int = 0
    needs: tuple[int, ...] = ()


Event = Transfer | Compute


def check_events(events: Sequence[Event]) -> None:
    """``ScheduleError`` if an event needs one that is not before it, or holds a negative amount."""
    for place, event in enumerate(events):
        wrong = [need for need in event.needs if not 0 <= need < place]
        if wrong:
            raise ScheduleError(
                f"event {place} {event.name!r}: expected needs among the {place} events before it, found {wrong[0]}; "
                f"put it behind what it needs"
            )
        amounts = (
            (event.size_bytes,) if isinstance(event, Transfer) else (event.macs, event.read_bytes, event.written_bytes)
        )
        if min(amounts) < 0:
            raise ScheduleError(
                f"event {place} {event.name!r}: expected amounts of at least 0, found {min(amounts)}; correct it"
            )
