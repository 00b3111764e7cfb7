"""Every encoder by name, and :func:`encoder`, which turns a text into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

from ...ir.errors import InstarError, ParseError, did_you_mean, nearest, text_of
from ...ir.plugins import Registry, given_objects
from ..formats.base import FACTOR, GRID, SPARSE, SUM, Format
from .alternation import Alternate, Sequential
from .base import Encoder
from .clip_search import ClipSearch
from .factors import Plain, RowWeighted, Whitened
from .gptq import GPTQ
from .methods import Methods
from .pruning import OBS, Magnitude, Wanda
from .round_to_nearest import RoundToNearest

ENCODERS: Registry[type[Encoder]] = Registry(
    "encoder",
    {
        "rtn": RoundToNearest,
        "mse": ClipSearch,
        "gptq": GPTQ,
        "svd": Plain,
        "fwsvd": RowWeighted,
        "whitened": Whitened,
        "sequential": Sequential,
        "alternate": Alternate,
        "magnitude": Magnitude,
        "wanda": Wanda,
        "obs": OBS,
    },
    "a class of encoders: a frozen dataclass that derives from instar.passes.encoders.Encoder",
    lambda found: isinstance(found, type) and issubclass(found, Encoder),
)
"""Name -> class of encoders; more come from installed packages (group ``instar.encoders``)."""


def encoder(text: str) -> Encoder:
    """The encoder that ``text`` spells: ``rtn``, ``mse:steps=40``, ``gptq:act_order:damping=0.05``, ``svd+gptq``.

    >>> encoder("gptq:block=64").spelling
    'gptq:block=64'

    Raises:
        ParseError: for an unknown name or option, a repeated option or a value of the wrong kind.
        FormatError: for a value out of range.
    """
    text = text_of("encoder", "gptq", text)
    handed = given_objects(ENCODERS.kind).get(text)
    if isinstance(handed, Encoder):
        return handed
    parts = text.split("+")
    return _single(text) if len(parts) == 1 else Methods(tuple(encoder(part.strip()) for part in parts))


def _single(text: str) -> Encoder:
    name, *options = (word.strip() for word in text.split(":"))
    if name not in ENCODERS:
        raise ParseError(f"encoder {text!r}: expected an encoder, got {name!r}{nearest(name, ENCODERS)}")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(ENCODERS[name])}
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in known:
            raise ParseError(f"encoder {text!r}: expected an option of {name!r}, got {key!r}{_hint(name, key, known)}")
        if key in values:
            raise ParseError(f"encoder {text!r}: expected option {key!r} once, got it twice; remove one")
        values[key] = _value(text, key, value, known[key].default)
    return ENCODERS[name](**values)


DEFAULTS: dict[str, tuple[str, str]] = {
    FACTOR: ("svd", "whitened"),
    GRID: ("mse", "gptq"),
    SUM: ("alternate", "alternate"),
    SPARSE: ("magnitude", "obs"),
}
"""Family -> the best encoder without calibration data, and with."""


def encoders_for(format: Format, given: Sequence[str], *, calibrated: bool) -> tuple[str, ...]:
    """Spellings of the encoders to try on a format.

    Args:
        format: what is stored.
        given: encoders that were asked for; a family that none of them is about takes the best that the data allows.
        calibrated: whether there is calibration data.

    >>> from ..formats import format
    >>> encoders_for(format("int4:g64"), (), calibrated=True), encoders_for(format("fp16"), ("gptq",), calibrated=True)
    (('gptq',), ('rtn',))
    """
    found: list[str] = [""]
    for family, defaults in DEFAULTS.items():
        if family in format.families:
            asked = [name for name in given if family in encoder(name).families]
            found = [f"{a}+{b}" if a else b for a in found for b in asked or [defaults[calibrated]]]
    return ("rtn",) if found == [""] else tuple(dict.fromkeys(found))


def needs_data(text: str) -> bool:
    """Whether ``text`` spells an encoder that cannot work without calibration statistics."""
    try:
        return encoder(text).needs_data
    except InstarError:
        return False


def _hint(name: str, key: str, known: Mapping[str, Field[Any]]) -> str:
    """The nearest option, or all of them as they are spelled: ``block=128``."""
    spelled = ", ".join(o if isinstance(f.default, bool) else f"{o}={f.default}" for o, f in known.items())
    return did_you_mean(key, known) or (f"; known: {spelled}" if spelled else f"; {name!r} has no options")


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
