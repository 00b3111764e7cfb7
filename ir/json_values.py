"""Frozen dataclasses as JSON and back, by their own type hints: unknown and missing keys and wrong kinds are errors.

Fields may be numbers, texts, ``Literal`` texts, booleans, other dataclasses, tuples and mappings of these, optional
ones, and ``Any`` for what is read as it is. A class with ``parse`` and ``spelling`` is written as its spelling.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from collections.abc import Mapping as AbstractMapping
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import InstarError, ParseError, nearest

T = TypeVar("T")

_SIMPLE: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
}
"""Kind of a field -> classes of its values, and what it is called in a message."""

NOT_JSON = MappingProxyType({"json": False})
"""Metadata of a field that is neither written nor read."""

SHOWN = 60
"""Characters of a wrong value that a message shows."""


def plain(value: Any) -> Any:
    """Plain JSON data for a value; mappings are sorted by key, so that equal values give equal bytes."""
    if _is_spelled(type(value)):
        return value.spelling
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in _fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in sorted(cast("Mapping[str, Any]", value).items())}
    if isinstance(value, tuple | list):
        return [plain(v) for v in cast("tuple[Any, ...]", value)]
    return value


def read(kind: type[T], data: object, where: str, error: type[InstarError] = ParseError) -> T:
    """A dataclass from plain JSON data.

    Args:
        kind: the dataclass.
        data: what :func:`plain` gave, or what a person wrote.
        where: what the data is, for messages: ``"plan.json: plan"``.
        error: the family of errors to raise.

    Raises:
        InstarError: ``error``, which says where, what was expected and what was found.
    """
    return cast("T", _Reader(error).value(kind, data, where))


def loads(kind: type[T], text: str, where: str, error: type[InstarError] = ParseError) -> T:
    """The same from a JSON text; ``NaN`` and infinities are refused."""
    try:
        data: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: expected JSON, found {problem}; write it with the library's own functions") from problem
    return read(kind, data, where, error)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the constant {name}")


def _is_spelled(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "parse") and hasattr(kind, "spelling")


@dataclasses.dataclass(frozen=True)
class _Reader:
    error: type[InstarError]

    def value(self, kind: Any, data: object, where: str) -> Any:
        if kind is Any:
            return data
        if kind in _SIMPLE:
            return self.simple(kind, data, where)
        origin = get_origin(kind)
        if origin in (Union, UnionType):
            return self.optional(kind, data, where)
        if origin is Literal:
            return self.literal(kind, data, where)
        if origin is tuple:
            return self.items(get_args(kind), data, where)
        if origin is AbstractMapping:
            table = self.table(data, where)
            return {key: self.value(get_args(kind)[1], item, f"{where}.{key}") for key, item in table.items()}
        return self.spelled(kind, data, where) if _is_spelled(kind) else self.object(kind, data, where)

    def simple(self, kind: Any, data: object, where: str) -> Any:
        classes, expected = _SIMPLE[kind]
        if not isinstance(data, classes) or (isinstance(data, bool) and kind is not bool):
            raise self.wrong(where, expected, data)
        return kind(data)

    def optional(self, kind: Any, data: object, where: str) -> Any:
        (inner,) = (k for k in get_args(kind) if k is not NoneType)
        return None if data is None else self.value(inner, data, where)

    def literal(self, kind: Any, data: object, where: str) -> Any:
        if data not in get_args(kind):
            raise self.wrong(where, f"one of {', '.join(map(str, get_args(kind)))}", data)
        return data

    def items(self, kinds: tuple[Any, ...], data: object, where: str) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise self.wrong(where, "a list", data)
        found = cast("list[object]", data)
        if kinds[-1] is not Ellipsis and len(kinds) != len(found):
            raise self.wrong(where, f"{len(kinds)} items", data)
        each = (kinds[0],) * len(found) if kinds[-1] is Ellipsis else kinds
        return tuple(self.value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(each, found, strict=True)))

    def spelled(self, kind: Any, data: object, where: str) -> Any:
        text = self.simple(str, data, where)
        try:
            return kind.parse(text)
        except InstarError as problem:
            raise self.error(f"{where}: {problem}") from problem

    def table(self, data: object, where: str) -> dict[str, object]:
        if not isinstance(data, dict):
            raise self.wrong(where, "an object", data)
        return cast("dict[str, object]", data)

    def object(self, kind: Any, data: object, where: str) -> Any:
        table, fields, hints = self.table(data, where), _fields(kind), get_type_hints(kind)
        known = [f.name for f in fields]
        for key in table:
            if key not in known:
                raise self.error(f"{where}: expected known keys, found {key!r}{nearest(key, known)}")
        for f in fields:
            if _is_required(f) and f.name not in table:
                found = ", ".join(table) or "none"
                raise self.error(f"{where}: expected the key {f.name!r}, found {found}; add it")
        return kind(**{key: self.value(hints[key], item, f"{where}.{key}") for key, item in table.items()})

    def wrong(self, where: str, expected: str, found: object) -> InstarError:
        shown = json.dumps(found, default=str)
        short = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
        return self.error(f"{where}: expected {expected}, found {short}; correct it")


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if f.init and f.metadata.get("json", True)]


def _is_required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
