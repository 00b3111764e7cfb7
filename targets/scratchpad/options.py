"""Options of the target ``scratchpad``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...ir.errors import ConfigError

DEFAULT_MACHINE = "ethos-u65-mid"


@dataclass(frozen=True)
class ScratchpadOptions:
    """Options of the target.

    Attributes:
        threads: not used here: the machine is simulated.
        machine: name of a shipped description, a TOML file, perhaps with parameters in braces:
            ``ethos-u65-mid{sram.size_bytes=262144}``.
        scratchpad_bytes: bytes of it that the model may use; not given: what the machine has.
        min_rows: rows that a stripe has at least.
        objective: what a schedule is to make small: ``bytes`` moved, ``cycles`` or ``energy``.
        solver_time_s: seconds for a schedule.
    """

    threads: int = 1
    machine: str = DEFAULT_MACHINE
    scratchpad_bytes: int | None = None
    min_rows: int = 1
    objective: Literal["bytes", "cycles", "energy"] = "bytes"
    solver_time_s: float = 60.0

    def __post_init__(self) -> None:
        if self.scratchpad_bytes is not None and self.scratchpad_bytes < 0:
            raise ConfigError(
                f"target_options.scratchpad_bytes: expected at least 0, found {self.scratchpad_bytes}; give a size"
            )
