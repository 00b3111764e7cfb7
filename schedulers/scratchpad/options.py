"""What a search for schedules may do, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...ir.errors import ScheduleError

Tiles = Literal["auto", "always", "never"]

TILES: tuple[Tiles, ...] = ("auto", "always", "never")

STREAM_BUFFER_BYTES = 16384
"""Room through which weights pass that do not stay on chip; two halves of 8 KiB hide the latency of their reads."""


@dataclass(frozen=True)
class Options:
    """Settings of :func:`~.solver.solve`.

    Attributes:
        budget_bytes: bytes of scratchpad, a hard cap.
        time_limit_s: seconds of wall time.
        fixed_order: keep the order of the problem.
        min_rows: rows of the last operator of a range that a stripe has at least.
        no_spill: activations never leave the chip, and the network's inputs and outputs lie on it.
        stream_buffer_bytes: room for weights that are read per stripe; 0 where operators read them in place (flash).
        tiles: whether ranges may also be cut along columns or channels: ``auto`` where rows alone do not fit.
        atomic: COSMA's setting: operators run whole, with all they read and make on chip, nothing shares memory.
        seed: seed of everything random.

    Raises:
        ScheduleError: a value is out of range.
    """

    budget_bytes: int
    time_limit_s: float = 60.0
    fixed_order: bool = False
    min_rows: int = 1
    no_spill: bool = False
    stream_buffer_bytes: int = STREAM_BUFFER_BYTES
    tiles: Tiles = "auto"
    atomic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget_bytes < 0:
            raise ScheduleError(f"budget: expected at least 0 bytes, found {self.budget_bytes}; give a size")
        if not self.time_limit_s > 0:
            raise ScheduleError(f"time limit: expected more than 0 seconds, found {self.time_limit_s}; allow some time")
        if self.min_rows < 1:
            raise ScheduleError(f"min rows: expected at least 1, found {self.min_rows}; 1 allows the thinnest stripes")
        if self.tiles not in TILES:
            raise ScheduleError(f"tiles: expected one of {', '.join(TILES)}, found {self.tiles!r}; correct it")
        if self.stream_buffer_bytes < 0:
            raise ScheduleError(f"stream buffer: expected at least 0 bytes, found {self.stream_buffer_bytes}")
