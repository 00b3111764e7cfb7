"""Options of the target ``scratchpad``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from ..base import TargetOptions

DEFAULT_MACHINE = "ethos-u65-mid"


@dataclass(frozen=True)
class ScratchpadOptions(TargetOptions):
    """Options of the target.

    Attributes:
        threads: not used here: the machine is simulated.
        machine: name of a shipped description, a TOML file, perhaps with parameters in braces:
            ``ethos-u65-mid{sram.size_bytes=262144}``.
        scratchpad_bytes: bytes of it that the model may use; not given: what the machine has.
        min_rows: rows that a stripe has at least.
        objective: what a schedule is to make small: ``bytes`` moved, ``cycles`` or ``energy``.
        tiles: whether operators that run together may also be cut along columns or channels: ``auto`` where rows alone
            do not fit, ``always`` wherever that moves fewer bytes (a longer search), ``never``.
        widths_loss: widths of weights are decided again with what stays on chip: they may lose this factor of what the
            plan loses that was decided first, for fewer bytes moved; not given: they are not.
        solver_time_s: seconds for a schedule.
    """

    machine: str = DEFAULT_MACHINE
    scratchpad_bytes: Annotated[int, Ge(0)] | None = None
    min_rows: Annotated[int, Ge(1)] = 1
    objective: Literal["bytes", "cycles", "energy"] = "bytes"
    tiles: Literal["auto", "always", "never"] = "auto"
    widths_loss: Annotated[float, Ge(1)] | None = None
    solver_time_s: Annotated[float, Gt(0)] = 60.0
