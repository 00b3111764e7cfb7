"""The one family of exceptions. Each message says where, what was expected, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class InstarError(Exception):
    """Base of every error that instar raises on purpose."""


class CaptureError(InstarError):
    """The model could not be captured as a graph."""


class VerifyError(InstarError):
    """A graph is not well formed; the message lists every offending node."""


class ParseError(InstarError):
    """A text (graph, format, plan, size) does not follow its grammar."""


class PassError(InstarError):
    """A pass failed or changed what the model computes beyond its tolerance."""


class CalibrationError(InstarError):
    """Calibration data is missing, empty, or holds values that cannot be used."""


class FormatError(InstarError):
    """A weight format cannot store the given weight."""


class ContractError(InstarError):
    """A format or an encoder, perhaps of another package, does not do what its kind promises."""


class InfeasibleError(InstarError):
    """No assignment meets the budgets; the message names the budget and the smallest feasible value.

    Args:
        message: for the user.
        smallest: resource -> smallest feasible value in bytes, milliseconds or bit operations, where known.
    """

    def __init__(self, message: str, smallest: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.smallest: Mapping[str, float] = dict(smallest or {})


class ScheduleError(InstarError):
    """A scheduling or allocation problem is malformed, or a solution failed its checker."""


class LoweringError(InstarError):
    """The target cannot run the graph as planned, or ran it differently."""


class ConfigError(InstarError):
    """A pipeline file, an option or a combination of options is invalid."""


def text_of(where: str, example: str, value: object) -> str:
    """``value`` itself where it is text.

    Raises:
        ParseError: it is something else.
    """
    if isinstance(value, str):
        return value
    raise ParseError(f"{where}: expected text such as {example!r}, got {value!r}; write it in quotes")


def said_by(where: str, reason: str) -> str:
    """``where: reason``, and ``where`` once.

    >>> said_by("lowrank:r9", "lowrank:r9: expected less"), said_by("lowrank:r9 + fp16", "lowrank:r9: expected less")
    ('lowrank:r9: expected less', 'lowrank:r9 + fp16: lowrank:r9: expected less')
    """
    return reason if reason.startswith(f"{where}: ") else f"{where}: {reason}"


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, or the list of known names, or nothing."""
    names = sorted(known)
    return did_you_mean(name, names) or (f"; known: {', '.join(names)}" if names else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, or nothing."""
    names = {each.lower(): each for each in sorted(known, reverse=True)}
    close = get_close_matches(name.lower(), sorted(names), n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]!r}?" if close else ""
