"""Every encoder by name, and :func:`encoder`, which turns a text into one."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from ...ir.errors import InstarError, ParseError, nearest
from ...ir.plugins import Registry, given_objects
from .base import Encoder
from .clip_search import ClipSearch
from .gptq import GPTQ
from .round_to_nearest import RoundToNearest

ENCODERS: Registry[type[Encoder]] = Registry(
    "encoder",
    {"rtn": RoundToNearest, "mse": ClipSearch, "gptq": GPTQ},
    "a class of encoders: a frozen dataclass that derives from instar.passes.encoders.Encoder",
    lambda found: isinstance(found, type) and issubclass(found, Encoder),
)
"""Name -> class of encoders; more come from installed packages (group ``instar.encoders``)."""


def encoder(text: str) -> Encoder:
    """The encoder that ``text`` spells: ``rtn``, ``mse:steps=40``, ``gptq:act_order:damping=0.05``.

    >>> encoder("gptq:block=64").spelling
    'gptq:block=64'

    Raises:
        ParseError: for an unknown name or option, a repeated option or a value of the wrong kind.
        FormatError: for a value out of range.
    """
    handed = given_objects(ENCODERS.kind).get(text)
    if isinstance(handed, Encoder):
        return handed
    name, *options = (word.strip() for word in text.split(":"))
    if name not in ENCODERS:
        raise ParseError(f"encoder {text!r}: expected an encoder, got {name!r}{nearest(name, ENCODERS)}")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(ENCODERS[name])}
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in known:
            hint = nearest(key, known) or f"; {name!r} has no options"
            raise ParseError(f"encoder {text!r}: expected an option of {name!r}, got {key!r}{hint}")
        if key in values:
            raise ParseError(f"encoder {text!r}: expected option {key!r} once, got it twice; remove one")
        values[key] = _value(text, key, value, known[key].default)
    return ENCODERS[name](**values)


def needs_data(text: str) -> bool:
    """Whether ``text`` spells an encoder that cannot work without calibration statistics."""
    try:
        return encoder(text).needs_data
    except InstarError:
        return False


def _value(text: str, key: str, value: str, default: Any) -> Any:
    """``value`` as the kind of its default; a switch needs no value."""
    if isinstance(default, bool):
        if value in ("", "true", "false"):
            return value != "false"
        raise ParseError(f"encoder {text!r}: expected {key!r} to be true or false, got {value!r}; write {key!r} alone")
    kind = type(default)
    try:
        return kind(value)
    except ValueError:
        names = {int: "a whole number", float: "a number"}
        raise ParseError(
            f"encoder {text!r}: expected {key!r} to be {names[kind]}, got {value!r}; write {key}={default}"
        ) from None
