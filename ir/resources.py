"""What a compiled model takes: bytes, time, operations. One value each: how it is written, counted and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from .options import PricedOption

ResourceName = Literal["size", "latency", "ops"]


@dataclass(frozen=True)
class Resource:
    """Something that a budget limits. Amounts are numbers in its own unit: bytes, milliseconds, bit operations.

    Attributes:
        name: as in a budget.
        units: how an amount is written -> how much one of it is; the units that messages use come from these.
        shown: units of messages, largest first.
        example: what a limit looks like, for messages.
        bare: whether a number without a unit is an amount.
        step: name of what the solver counts, which sees integers alone.
        steps: of these in one unit.
        units_per_step: the inverse, where a step is more than one unit.
        of: what an option of a layer takes, None where nobody measured it.
        by_difference: whether layers are known by what they change in a whole that was measured.
        measured_again: share by which two measurements of the same artifact differ: what is missed by less is not.
        margin: share that is added to the least value when a plan with it is asked for: rounding, and noise.
        impossible: a limit that nothing meets: asking for it tells the smallest feasible value.
    """

    name: ResourceName
    units: Mapping[str, float] = field(hash=False)
    shown: tuple[str, ...]
    example: str
    step: str
    of: Callable[[PricedOption], float | None]
    bare: bool = True
    steps: int = 1
    units_per_step: int = 1
    by_difference: bool = False
    measured_again: float = 0.0
    margin: float = 1e-9
    impossible: str | int = 1

    def steps_up(self, amount: float) -> int:
        """An amount in the solver's integers, not below it."""
        return -int(-(amount * self.steps) // self.units_per_step)

    def steps_down(self, amount: float) -> int:
        """An amount in the solver's integers, not above it."""
        return int(amount * self.steps // self.units_per_step)

    def amount(self, steps: int) -> float:
        """The inverse."""
        return steps * self.units_per_step / self.steps

    def words(self, amount: float) -> str:
        """An amount in a unit that a budget takes, rounded up: what meets it keeps to what is printed.

        >>> SIZE.words(12_345_678), LATENCY.words(0.5)
        ('12.35MB', '500.0us')
        """
        unit = next((u for u in self.shown if amount >= self.units[u]), self.shown[-1])
        return f"{_rounded_up(amount / self.units[unit])}{unit}"

    def exceeds(self, found: float, limit: float) -> bool:
        """Whether a measurement is above a limit, by more than two measurements differ."""
        return found > limit * (1.0 + self.measured_again)


def _rounded_up(value: float, digits: int = 4) -> str:
    if value <= 0.0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10.0**decimals - 1e-9) / 10.0**decimals:.{max(decimals, 0)}f}"


_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}

_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, **_BINARY}

SIZE = Resource(
    "size", MappingProxyType(_BYTES), ("MB", "kB", "B"), "'15%', '12MB' or a number of bytes", "bytes",
    lambda option: option.nbytes,
)  # fmt: skip
"""Bytes of the stored model, all counted."""

LATENCY = Resource(
    "latency", MappingProxyType({"us": 1e-3, "ms": 1.0, "s": 1e3}), ("ms", "us"), "'60%' or '8ms'", "ns",
    lambda option: option.latency_ms, bare=False, steps=1_000_000, by_difference=True, measured_again=0.03,
    margin=2e-3, impossible="0.000001ms",
)  # fmt: skip
"""Milliseconds of one run."""

OPS = Resource(
    "ops", MappingProxyType({"BOPS": 1.0, "MBOPS": 1e6, "GBOPS": 1e9, "TBOPS": 1e12}), ("GBOPS", "MBOPS", "BOPS"),
    "'40%', '3.5GBOPS' or a number of bit operations", "MBOPS", lambda option: option.bops,
    units_per_step=1_000_000,
)  # fmt: skip
"""Bit operations: multiply-accumulates times the bits of both operands."""

RESOURCES: Mapping[str, Resource] = MappingProxyType({r.name: r for r in (SIZE, LATENCY, OPS)})
"""By name, in the order in which they are listed."""
