"""Budgets: what a compiled model may cost, as a percentage of the original or as an absolute amount."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, Self, cast

from .errors import ConfigError, nearest

Resource = Literal["size", "latency", "ops"]

UNITS: dict[Resource, dict[str, float]] = {
    "size": {
        "B": 1.0,
        "kB": 1e3,
        "KB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
    },
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "ops": {"BOPS": 1.0, "MBOPS": 1e6, "GBOPS": 1e9, "TBOPS": 1e12},
}
"""Resource -> unit -> its value in bytes, milliseconds or bit operations."""

EXAMPLES: dict[Resource, str] = {
    "size": "'15%', '12MB' or a number of bytes",
    "latency": "'60%' or '8ms'",
    "ops": "'40%', '3.5GBOPS' or a number of bit operations",
}

_AMOUNT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True)
class Limit:
    """An upper bound: a share of the original, or an amount in bytes, milliseconds or bit operations."""

    value: float
    relative: bool

    def absolute(self, original: float) -> float:
        """The bound in the unit of ``original``, which is what the uncompressed model costs."""
        return self.value * original if self.relative else self.value


@dataclass(frozen=True)
class Budget:
    """Upper bounds on size, latency and operations, and what is made as small as it gets; at least one of all.

    Args:
        size: bytes of the stored model, all counted: ``"15%"``, ``"12MB"`` (10^6 bytes), ``"11MiB"``, an integer.
        latency: time of one run on the example inputs: ``"60%"``, ``"8ms"``.
        ops: bit operations, multiply-accumulates times the bits of both operands: ``"40%"``, ``"3.5GBOPS"`` or integer.
        minimise: ``"size"``, ``"latency"`` or ``"ops"``: within the bounds, of the plans with the least of it the one
            that loses least; with a metric of your own and ``max_drop``, the least of it that keeps the quality.

    Raises:
        ConfigError: a bound does not parse, or none was given.

    >>> Budget(size="15%").limits["size"].absolute(1000)
    150.0
    >>> Budget.parse(["size=12MB", "latency=8ms"])
    Budget(size='12MB', latency='8ms', ops=None, minimise=None)
    """

    size: str | int | None = None
    latency: str | None = None
    ops: str | int | None = None
    minimise: Resource | None = None

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Refuses names that are no bounds, as tables and the command line do."""
        known = [field.name for field in fields(cls)]
        for name in kwargs:
            if name not in known:
                raise ConfigError(f"budget: expected {', '.join(known)}, found {name!r}{nearest(name, known)}")
        if len(args) > len(known):
            raise ConfigError(f"budget: expected at most {len(known)} bounds, {', '.join(known)}; found {len(args)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Parses every bound once, so that a budget that exists is valid."""
        if self.minimise is not None and self.minimise not in UNITS:
            hint = nearest(str(self.minimise), UNITS)
            raise ConfigError(f"budget.minimise: expected {', '.join(UNITS)}, found {self.minimise!r}{hint}")
        if not self.limits and self.minimise is None:
            raise ConfigError("budget: expected at least one of size, latency and ops, found none")

    @property
    def limits(self) -> dict[Resource, Limit]:
        """The bounds that were given, parsed."""
        given: dict[Resource, object] = {"size": self.size, "latency": self.latency, "ops": self.ops}
        return {resource: parse_limit(resource, value) for resource, value in given.items() if value is not None}

    @classmethod
    def parse(cls, items: list[str]) -> Budget:
        """From the command line's ``["size=15%", "latency=8ms"]``.

        Raises:
            ConfigError: an item is not ``name=amount``, names an unknown resource, or comes twice.
        """
        values: dict[str, object] = {}
        for item in items:
            name, equals, amount = (part.strip() for part in item.partition("="))
            if not equals:
                raise ConfigError(
                    f"budget: expected 'name=amount' such as 'size=15%', 'smallest' or 'fastest' alone, found {item!r}"
                )
            if name in values:
                raise ConfigError(f"budget: expected each name once, found {name!r} twice")
            values[name] = int(amount) if amount.isdecimal() else amount
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Budget:
        """From a table such as ``{"size": "15%"}``.

        Raises:
            ConfigError: an unknown resource or a value that does not parse.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"budget: expected {', '.join(known)}, found {name!r}{nearest(name, known)}")
        given = {name: value for name, value in values.items() if value is not None}
        for name in given:
            if name != "minimise":
                parse_limit(cast(Resource, name), given[name])
        return cls(**cast(dict[str, Any], given))

    def to_mapping(self) -> dict[str, str | int]:
        """The inverse of :meth:`from_mapping`."""
        given = {"size": self.size, "latency": self.latency, "ops": self.ops, "minimise": self.minimise}
        return {name: value for name, value in given.items() if value is not None}

    def without(self, resource: Resource) -> Budget | None:
        """The bounds on the other resources; None where there are none."""
        others = {name: getattr(self, name) for name in self.limits if name != resource}
        return Budget(**others) if others else None


def parse_limit(resource: Resource, value: object) -> Limit:
    """Parses one bound of a budget.

    Raises:
        ConfigError: the value has the wrong type or unit, or is not positive and finite.

    >>> parse_limit("latency", "8ms")
    Limit(value=8.0, relative=False)
    """
    where = f"budget.{resource}"
    if isinstance(value, int) and not isinstance(value, bool) and resource != "latency":
        return Limit(_positive(where, float(value), value), relative=False)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected {EXAMPLES[resource]}, found {value!r}")
    match = _AMOUNT.fullmatch(value)
    if match is None:
        raise ConfigError(f"{where}: expected {EXAMPLES[resource]}, found {value!r}")
    amount, unit = _positive(where, float(match[1]), value), match[2]
    if unit == "%":
        return Limit(amount / 100, relative=True)
    if unit == "" and resource != "latency":
        return Limit(amount, relative=False)
    return Limit(amount * _unit(resource, unit, value), relative=False)


def _unit(resource: Resource, unit: str, value: str) -> float:
    units = UNITS[resource]
    if unit in units:
        return units[unit]
    where = f"budget.{resource}"
    if unit == "":
        raise ConfigError(
            f"{where}: expected a unit ({', '.join(units)} or %), found {value!r}; write '{value.strip()}ms'?"
        )
    lower = unit.lower()
    alike = [name for name in units if name.lower() == lower] or [
        name for name in units if name.lower().startswith(lower)
    ]
    close = alike or get_close_matches(unit, units, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"{where}: expected a unit out of {', '.join(units)} or %, found {unit!r}{hint}")


def _positive(where: str, number: float, value: object) -> float:
    if math.isfinite(number) and number > 0:
        return number
    raise ConfigError(f"{where}: expected a positive amount, found {value!r}")
