"""Placement of buffers with fixed lifetimes in one memory: an offset for each, so that none overlap at any time.

A decision problem where a capacity is given, and a minimisation of the height where none is. It is strip packing with
one coordinate fixed, and NP-complete (dynamic storage allocation, Garey and Johnson SR2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.errors import ScheduleError
from ..status import Status


@dataclass(frozen=True)
class Buffer:
    """One buffer.

    Attributes:
        name: unique within the problem.
        lower: first time at which it is alive.
        upper: first time at which it is dead again: lifetimes are half-open.
        size_bytes: what it occupies; a buffer of zero bytes touches nobody.
        alignment_bytes: its offset is a multiple of this.
        offset_bytes: where it must lie, or ``None``.

    Raises:
        ScheduleError: a number is negative, the lifetime is empty, or the alignment or the given offset is impossible.
    """

    name: str
    lower: int
    upper: int
    size_bytes: int
    alignment_bytes: int = 1
    offset_bytes: int | None = None

    def __post_init__(self) -> None:
        where = f"buffer {self.name!r}"
        if self.size_bytes < 0:
            raise ScheduleError(f"{where}: expected a size of at least 0 bytes, found {self.size_bytes}; correct it")
        if self.lower >= self.upper:
            raise ScheduleError(
                f"{where}: expected a lifetime that ends after its start, found [{self.lower}, {self.upper}); "
                f"give the first time at which it is dead as its upper end"
            )
        if self.alignment_bytes < 1:
            raise ScheduleError(
                f"{where}: expected an alignment of at least 1, found {self.alignment_bytes}; correct it"
            )
        if self.offset_bytes is None:
            return
        if self.offset_bytes < 0 or self.offset_bytes % self.alignment_bytes:
            raise ScheduleError(
                f"{where}: expected an offset of at least 0 that is a multiple of {self.alignment_bytes}, "
                f"found {self.offset_bytes}; correct it or leave it out"
            )

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at some time."""
        return self.lower < other.upper and other.lower < self.upper


@dataclass(frozen=True)
class PlacementProblem:
    """Buffers, and the bytes that they must fit in.

    Attributes:
        buffers: with unique names.
        capacity_bytes: the memory, or ``None`` for the lowest height that can be found.

    Raises:
        ScheduleError: two buffers have the same name, or the capacity is negative.
    """

    buffers: tuple[Buffer, ...]
    capacity_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.capacity_bytes is not None and self.capacity_bytes < 0:
            raise ScheduleError(f"capacity: expected at least 0 bytes, found {self.capacity_bytes}; correct it")
        seen: set[str] = set()
        for buffer in self.buffers:
            if buffer.name in seen:
                raise ScheduleError(f"buffers: expected unique names, found two buffers {buffer.name!r}; rename one")
            seen.add(buffer.name)


@dataclass(frozen=True)
class Crowd:
    """Why buffers do not fit: those that are alive at one time, and what they need together.

    Attributes:
        time: at which all of them are alive.
        buffers: their names.
        needed_bytes: no capacity below this is enough.
    """

    time: int
    buffers: tuple[str, ...]
    needed_bytes: int


@dataclass(frozen=True)
class PlacementSolution:
    """What was found, and what was proven.

    Attributes:
        status: ``optimal`` (the height equals the bound), ``feasible`` (within the capacity, or the lowest found if
            none was given), ``infeasible`` (proven) or ``timeout`` (nothing found in time).
        offsets: buffer name -> byte offset; empty without a placement.
        height_bytes: highest byte that is used, plus one; ``None`` without a placement.
        bound_bytes: no placement is lower than this.
        wall_s: seconds spent (not compared).
        solver: which method found the placement or the proof.
        seed: of everything random.
        crowd: the time that needs most; given where a placement is ``infeasible``.
        lowest_known_bytes: height of the best placement that ignores the capacity, where none within it was found.
    """

    status: Status
    offsets: Mapping[str, int]
    height_bytes: int | None
    bound_bytes: int
    wall_s: float = field(compare=False)
    solver: str = ""
    seed: int = 0
    crowd: Crowd | None = None
    lowest_known_bytes: int | None = None

    def message(self, capacity_bytes: int | None) -> str:
        """One line for a person: why there is no placement and what would be enough; empty if there is one."""
        if self.offsets or self.status not in ("infeasible", "timeout"):
            return ""
        found = "no placement exists" if self.status == "infeasible" else "no placement was found in time"
        needed = f"the buffers need at least {self.bound_bytes} bytes"
        if self.crowd is not None and self.crowd.needed_bytes > (capacity_bytes or 0):
            needed = (
                f"{len(self.crowd.buffers)} buffers alive at {self.crowd.time} need {self.crowd.needed_bytes} bytes"
            )
        known = f"; {self.lowest_known_bytes} bytes are enough" if self.lowest_known_bytes is not None else ""
        return f"capacity {capacity_bytes}: {found}: {needed}{known}"
