"""The values of a pipeline: how formats, patterns, activations and budgets are read from plain data."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, PlainSerializer, PlainValidator

from ..ir.budget import Budget
from ..ir.errors import ConfigError, did_you_mean
from ..ir.plugins import Named

_ACTIVATION = re.compile(r"none|static_int8|dynamic_int8(:(tensor|token|g(16|32|64|128|256)))?")
_KNOWN_ACTIVATIONS = (
    "none",
    "dynamic_int8",
    "dynamic_int8:tensor",
    "dynamic_int8:token",
    "dynamic_int8:g32",
    "static_int8",
)


def matches(pattern: str, layer: str) -> bool:
    """Whether a layer's name matches a glob or a ``re:`` pattern.

    >>> matches("encoder.*", "encoder.layer.0.dense"), matches("re:.*[.]fc[12]", "blocks.3.fc1")
    (True, True)
    """
    if pattern.startswith("re:"):
        return re.fullmatch(pattern.removeprefix("re:"), layer) is not None
    return fnmatch.fnmatchcase(layer, pattern)


def as_tuple(value: object) -> object:
    """A list as a tuple, anything else as it is: TOML and JSON have no tuples."""
    return tuple(cast(list[object], value)) if isinstance(value, list) else value


def as_transforms(value: object) -> object:
    """``"auto"`` alone as a list of it; otherwise as :func:`as_tuple`."""
    return ("auto",) if value == "auto" else as_tuple(value)


def _named(value: object) -> object:
    """An object that says its own spelling, under that spelling."""
    spelling = None if isinstance(value, str | type) else getattr(value, "spelling", None)
    return Named(spelling, value) if isinstance(spelling, str) else value


def _names(value: object) -> tuple[str, ...]:
    listed = as_tuple(value)
    if isinstance(listed, tuple) and listed:
        items = tuple(_named(item) for item in cast(tuple[object, ...], listed))
        wrong = next((item for item in items if not isinstance(item, str)), None)
        if wrong is None:
            return cast(tuple[str, ...], items)
        raise ValueError(f"expected names such as 'int4:g32' or 'onnx', each a text, found {wrong!r} among them")
    raise ValueError(f"expected a list of at least one name, found {value!r}")


def _formats(value: object) -> tuple[str, ...] | Literal["keep"]:
    if value == "keep":
        return "keep"
    if isinstance(value, str):
        raise ValueError(f'expected a list of formats or "keep", found {value!r}; write [{value!r}]')
    return _names(value)


def _activations(value: object) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        if not _ACTIVATION.fullmatch(name):
            known = ", ".join(_KNOWN_ACTIVATIONS)
            raise ValueError(f"expected one of {known}, found {name!r}{did_you_mean(name, _KNOWN_ACTIVATIONS)}")
    return names


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"expected a glob such as 'encoder.*' or a regular expression such as 're:.*fc[12]', found {value!r}"
        )
    try:
        re.compile(value.removeprefix("re:") if value.startswith("re:") else "")
    except re.error as problem:
        raise ValueError(f"expected a regular expression after 're:', found {value!r}: {problem}") from None
    return value


def _budget(value: object) -> Budget | Literal["smallest", "fastest"] | None:
    if value is None or isinstance(value, Budget):
        return value
    if value in ("smallest", "fastest"):
        return value
    try:
        if isinstance(value, str):
            return Budget.parse([value])
        if isinstance(value, Mapping):
            return Budget.from_mapping(cast(Mapping[str, object], value))
    except ConfigError as problem:
        raise ValueError(str(problem)) from None
    raise ValueError(f'expected a table such as {{size = "15%"}} "smallest" or "fastest", found {value!r}')


def _budget_data(value: Budget | str | None) -> object:
    return value.to_mapping() if isinstance(value, Budget) else value


def plain(value: tuple[str, ...] | str | None) -> object:
    """Names alone, whatever objects they stand for."""
    return str(value) if isinstance(value, str) else value and [str(name) for name in value]


Formats = Annotated[tuple[str, ...] | Literal["keep"], PlainValidator(_formats), PlainSerializer(plain)]
Activations = Annotated[tuple[str, ...], BeforeValidator(_activations)]
Names = Annotated[tuple[str, ...], PlainValidator(_names), PlainSerializer(plain)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
BudgetValue = Annotated[
    Budget | Literal["smallest", "fastest"] | None, BeforeValidator(_budget), PlainSerializer(_budget_data)
]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(as_tuple)]
