"""Turns what pydantic found into lines that say where, what was expected, what was found and what is nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..ir.errors import nearest

EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_type": "an integer",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_type": "a string",
    "tuple_type": "a list",
}
"""pydantic's error type -> what the user should have written."""

LONGEST = 60


def explain(model: type[BaseModel], problem: ValidationError) -> list[str]:
    """One line per problem that ``model`` found."""
    return [_line(model, details) for details in problem.errors(include_url=False)]


def key_path(location: tuple[int | str, ...]) -> str:
    """The key as a user would write it.

    >>> key_path(("layers", 0, "pattern"))
    'layers[0].pattern'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _line(model: type[BaseModel], details: ErrorDetails) -> str:
    location, kind = details["loc"], details["type"]
    given: Mapping[str, Any] = details.get("ctx", {})
    context = {name: f"{value:g}" if isinstance(value, float) else value for name, value in given.items()}
    where = key_path(location)
    if kind == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{where}: unknown key{nearest(str(location[-1]), known)}"
    if kind == "missing":
        return f"{where}: expected a value, found none; add it"
    if kind == "value_error":
        return _prefixed(where, str(context["error"]))
    found = _short(details["input"])
    if kind not in EXPECTED:
        return f"{where}: {details['msg']}, found {found}"
    hint = _nearest_literal(details, context) if kind == "literal_error" else ""
    return f"{where}: expected {EXPECTED[kind].format(**context)}, found {found}{hint}"


def _prefixed(where: str, message: str) -> str:
    """Messages of budgets carry their key already."""
    return message if message.startswith(where) else f"{where}: {message}"


def _nearest_literal(details: ErrorDetails, context: Mapping[str, Any]) -> str:
    names = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
    hint = nearest(str(details["input"]), names)
    return hint if "did you mean" in hint else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the table at a location."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The first table that an annotation such as ``tuple[LayerRule, ...] | None`` mentions."""
    pending = [annotation]
    while pending:
        current = pending.pop()
        if isinstance(current, type) and issubclass(current, BaseModel):
            return current
        pending.extend(cast(tuple[object, ...], get_args(current)))
    return None
