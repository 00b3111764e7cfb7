"""Budgets: what a compiled model may cost, as a percentage of the original or as an absolute amount."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self, cast

from .errors import ConfigError, did_you_mean, nearest
from .resources import RESOURCES, Resource, ResourceName

_SWITCHES = {"true": True, "false": False}

_AMOUNT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*", re.ASCII)


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
        each_shape: the bound on latency holds at each of ``latency_inputs``, not for their weighted sum: percentages
            are those of the original at the same shape.

    Raises:
        ConfigError: a bound does not parse, or none was given.

    >>> Budget(size="15%").limits["size"].absolute(1000)
    150.0
    >>> Budget.parse(["size=12MB", "latency=8ms"])
    Budget(size='12MB', latency='8ms', ops=None, minimise=None, each_shape=False)
    """

    size: str | int | None = None
    latency: str | None = None
    ops: str | int | None = None
    minimise: ResourceName | None = None
    each_shape: bool = False

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
        if self.minimise is not None and self.minimise not in RESOURCES:
            hint = nearest(str(self.minimise), RESOURCES)
            raise ConfigError(f"budget.minimise: expected {', '.join(RESOURCES)}, found {self.minimise!r}{hint}")
        if not self.limits and self.minimise is None:
            raise ConfigError("budget: expected at least one of size, latency and ops, found none")
        self._check_shapes()

    def _check_shapes(self) -> None:
        if self.each_shape not in (True, False):
            raise ConfigError(f"budget.each_shape: expected true or false, found {self.each_shape!r}")
        if self.each_shape and self.latency is None:
            raise ConfigError("budget.each_shape: expected a bound on latency beside it, found none; add latency='80%'")
        if self.each_shape and self.minimise == "latency":
            raise ConfigError(
                "budget.each_shape: expected a bound on latency that is not minimised too, found minimise='latency'; "
                "minimise size or ops, or leave one of them out"
            )

    @property
    def limits(self) -> dict[ResourceName, Limit]:
        """The bounds that were given, parsed."""
        names: list[ResourceName] = [r.name for r in RESOURCES.values() if getattr(self, r.name) is not None]
        return {name: parse_limit(name, getattr(self, name)) for name in names}

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
                    + did_you_mean(item, ("smallest", "fastest"))
                )
            if name in values:
                raise ConfigError(f"budget: expected each name once, found {name!r} twice")
            values[name] = int(amount) if amount.isascii() and amount.isdecimal() else _SWITCHES.get(amount, amount)
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
            if name in RESOURCES:
                parse_limit(cast(ResourceName, name), given[name])
        return cls(**cast(dict[str, Any], given))

    def to_mapping(self) -> dict[str, str | int]:
        """The inverse of :meth:`from_mapping`."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in given.items() if value is not None and value is not False}

    def without(self, resource: ResourceName) -> Budget | None:
        """The bounds on the other resources; None where there are none."""
        others = {name: getattr(self, name) for name in self.limits if name != resource}
        return Budget(**others, each_shape=self.each_shape and "latency" in others) if others else None


def parse_limit(name: ResourceName, value: object) -> Limit:
    """Parses one bound of a budget.

    Raises:
        ConfigError: the value has the wrong type or unit, or is not positive and finite.

    >>> parse_limit("latency", "8ms")
    Limit(value=8.0, relative=False)
    """
    where, resource = f"budget.{name}", RESOURCES[name]
    if isinstance(value, int) and not isinstance(value, bool) and resource.bare:
        return Limit(_positive(where, float(value), value), relative=False)
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None:
        hint = f"; write {value:.0f}" if isinstance(value, float) and value.is_integer() and resource.bare else ""
        raise ConfigError(f"{where}: expected {resource.example}, found {value!r}{hint}")
    amount, unit = _positive(where, float(match[1]), value), match[2]
    if unit == "%":
        return Limit(amount / 100, relative=True)
    if unit == "" and resource.bare:
        return Limit(amount, relative=False)
    return Limit(amount * _unit(resource, unit, value), relative=False)


def _unit(resource: Resource, unit: str, value: str) -> float:
    units = resource.units
    if unit in units:
        return units[unit]
    where = f"budget.{resource.name}"
    if unit == "":
        raise ConfigError(
            f"{where}: expected a unit ({', '.join(units)} or %), found {value!r}; "
            f"write '{value.strip()}{resource.shown[0]}'?"
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
    large = ", which is too large for any model" if number == math.inf else ""
    raise ConfigError(f"{where}: expected a positive amount, found {value!r}{large}")
