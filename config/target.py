"""The target of a pipeline: its name, the device behind a colon, and its options as the target itself declares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..ir.errors import ConfigError, nearest
from ..ir.plugins import Named
from ..targets.base import TargetOptions
from ..targets.declaration import Declaration
from ..targets.registry import OWN, TARGETS
from .explain import explain
from .values import as_tuple

OPTIONS = "target_options"


def with_device(data: Mapping[str, object], where: str = "") -> dict[str, object]:
    """``target = "onnx:device.json"`` as a target and the option that says its device; other data as it is.

    Raises:
        ConfigError: the target has no devices, or an option names another one.
    """
    target, options = data.get("target"), data.get(OPTIONS)
    if not isinstance(target, str) or isinstance(target, Named) or ":" not in target:
        return dict(data)
    name, _, device = target.partition(":")
    declared = declaration_of(name)
    if declared is None:
        return dict(data)
    if not declared.device or not device:
        what = "the name of a device behind the colon" if declared.device else f"{name!r} alone, which has no devices"
        raise ConfigError(f"{where}target: expected {what}, found {target!r}; remove the colon and what follows it")
    given = cast("Mapping[str, object]", options) if isinstance(options, Mapping) else {}
    if given.get(declared.device, device) != device:
        raise ConfigError(
            f"{where}{OPTIONS}.{declared.device}: expected none beside the device of target {target!r}, found "
            f"{given[declared.device]!r}; remove one of them"
        )
    chosen = {**given, declared.device: device} if isinstance(options, Mapping | None) else options
    return {**data, "target": name, OPTIONS: chosen}


def declaration_of(target: str) -> Declaration | None:
    """What a target says of itself; None where nobody has that name."""
    if isinstance(target, Named):
        return cast("Declaration", target.given)
    return TARGETS.get(target)


def target_name(value: object) -> str:
    """The name of a target that there is, or of one that is given as its declaration.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, Declaration):
        return Named(value.name, value)
    if not isinstance(value, str) or not value:
        raise ValueError(
            "expected the name of a target, or its declaration (instar.targets.declaration.Declaration), found "
            f"{value!r}"
        )
    if declaration_of(value) is None:
        name = value.partition(":")[0]
        known, hint = " or ".join(map(repr, TARGETS)), nearest(name, TARGETS)
        hint = hint if "did you mean" in hint else "; install the package that offers it"
        raise ValueError(f"expected {known}, found {value!r}{hint}")
    return value


def read_options(declared: Declaration, given: object) -> TargetOptions:
    """Options of a target, made from a table.

    Raises:
        ValueError: one line for every problem.
    """
    if isinstance(given, declared.options):
        return given
    if isinstance(given, TargetOptions) or not isinstance(given, Mapping):
        raise ValueError(f"expected a table, or {declared.options.__name__}, found {given!r}")
    table = {str(name): as_tuple(value) for name, value in cast("Mapping[object, object]", given).items()}
    foreign = dict(_of_others(declared, table))
    try:
        found = _schema(declared.options).model_validate({n: v for n, v in table.items() if n not in foreign})
    except ValidationError as problem:
        lines = [f"{OPTIONS}.{line}" for line in explain(_schema(declared.options), problem)]
        raise ValueError("\n".join((*foreign.values(), *lines))) from None
    if foreign:
        raise ValueError("\n".join(foreign.values()))
    try:
        return declared.options(**{name: getattr(found, name) for name in found.model_fields_set})
    except ConfigError as problem:
        raise ValueError(str(problem)) from None


def _of_others(declared: Declaration, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Options of another of instar's own targets, by name, and what to say about them."""
    own = _names(declared)
    for name in names:
        whose = [known.name for known in OWN if name in _names(known)]
        if name not in own and whose:
            wanted = " or ".join(map(repr, whose))
            yield name, f"{OPTIONS}.{name}: expected target {wanted}, found target {declared.name!r}; remove it"


def _names(declared: Declaration) -> set[str]:
    return {item.name for item in fields(declared.options)}


@cache
def _schema(options: type[TargetOptions]) -> type[BaseModel]:
    """The model that checks the fields of a dataclass of options."""
    hints = get_type_hints(options, include_extras=True)
    known: dict[str, Any] = {}
    for item in fields(options):
        factory = None if item.default_factory is MISSING else item.default_factory
        default = ... if item.default is MISSING else item.default
        known[item.name] = (hints[item.name], Field(default_factory=factory) if factory else default)
    config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return create_model(options.__name__, __config__=config, **known)
