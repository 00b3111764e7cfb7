"""Reading JSON without guessing: every key must be known, every value of the expected kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from ..ir.errors import ScheduleError, nearest
from ..ir.files import parse_json

T = TypeVar("T")


def parse_object(text: str, where: str) -> Mapping[str, object]:
    """The JSON object in the text; ``ScheduleError`` if it is not one, or not strict JSON."""
    return as_object(parse_json(text, where, error=ScheduleError), where)


def as_object(value: object, where: str) -> Mapping[str, object]:
    """The value as an object with string keys."""
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return cast("dict[str, object]", value)


def check_keys(value: Mapping[str, object], where: str, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise ``ScheduleError`` for an unknown or a missing key."""
    known = [*required, *optional]
    for key in value:
        if key not in known:
            raise ScheduleError(f"{where}: expected known keys, found {key!r}{nearest(key, known)}")
    for key in required:
        if key not in value:
            raise ScheduleError(f"{where}: expected the key {key!r}, found {', '.join(value) or 'none'}; add it")


def as_tuple(value: object, where: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    """The list, each item read with its position in ``where``."""
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return tuple(read(item, f"{where}[{place}]") for place, item in enumerate(cast("list[object]", value)))


def as_str(value: object, where: str) -> str:
    """The value as a string."""
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    return value


def as_int(value: object, where: str) -> int:
    """The value as an integer; ``true`` is not one."""
    if type(value) is not int:
        raise _wrong(where, "an integer", value)
    return value


def as_float(value: object, where: str) -> float:
    """The value as a float; integers are converted."""
    if type(value) is int or isinstance(value, float):
        return float(value)
    raise _wrong(where, "a number", value)


def as_bool(value: object, where: str) -> bool:
    """The value as a boolean."""
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def as_mapping(value: object, where: str, read: Callable[[object, str], T]) -> dict[str, T]:
    """An object with free keys and values of one kind."""
    return {key: read(item, f"{where}.{key}") for key, item in as_object(value, where).items()}


def optional(value: object, where: str, read: Callable[[object, str], T]) -> T | None:
    """``None``, or the value."""
    return None if value is None else read(value, where)


def _wrong(where: str, expected: str, found: object) -> ScheduleError:
    shown = json.dumps(found)
    return ScheduleError(
        f"{where}: expected {expected}, found {shown if len(shown) <= 60 else shown[:57] + '...'}; correct it"
    )
