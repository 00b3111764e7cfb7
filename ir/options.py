"""Options: what a layer may become, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from .errors import ParseError, nearest

AS_IT_WAS = "fp32"
"""The format that leaves a weight as the model has it."""

WITHOUT_CODES = frozenset({AS_IT_WAS, "fp16"})
"""Formats that leave an encoder nothing to choose."""

_SPELLING = re.compile(r"(static|dynamic)_int([2-8])(?::(tensor|token|g[1-9]\d*))?(?::(sym|asym))?")
_KNOWN = ("none", "dynamic_int8:tensor", "dynamic_int8:token", "dynamic_int8:g32", "static_int8")


@dataclass(frozen=True, order=True)
class Activation:
    """How the value that a layer reads is rounded before it is multiplied.

    Attributes:
        kind: ``none``; ``dynamic``, with parameters taken from the value itself; ``static``, with calibrated ones.
        granularity: of a dynamic one what shares parameters, as in ``instar.fake_quantize_dynamic``: ``tensor``,
            ``token`` or ``group:<n>``.
        bits: width of a code.
        symmetric: codes around zero, without a zero point.
    """

    kind: str = "none"
    granularity: str = ""
    bits: int = 32
    symmetric: bool = False

    @classmethod
    def static(cls, bits: int = 8) -> Activation:
        """With one calibrated scale and zero point."""
        return cls("static", "", bits)

    @classmethod
    def dynamic(cls, granularity: str, bits: int = 8, symmetric: bool | None = None) -> Activation:
        """With parameters of the value itself; symmetric unless they are those of the whole tensor."""
        return cls("dynamic", granularity, bits, granularity != "tensor" if symmetric is None else symmetric)

    @classmethod
    def parse(cls, text: str) -> Activation:
        """What a plan or a config spells.

        ``dynamic_int8:tensor`` is asymmetric (ONNX ``DynamicQuantizeLinear``); ``dynamic_int8:token`` and
        ``dynamic_int8:g<n>`` are symmetric (one scale per position, or per block of ``n`` as in ONNX Runtime's
        ``MatMulNBits``); ``:sym`` or ``:asym`` at the end says otherwise.

        >>> Activation.parse("dynamic_int8:g32")
        Activation(kind='dynamic', granularity='group:32', bits=8, symmetric=True)

        Raises:
            ParseError: for any other text.
        """
        if text == "none":
            return cls()
        match = _SPELLING.fullmatch(text)
        if match is None or (match[1] == "dynamic") != bool(match[3]) or (match[1] == "static" and match[4]):
            raise ParseError(
                f"activation {text!r}: expected 'none', 'static_int8', 'dynamic_int8:tensor', 'dynamic_int8:token' or "
                f"'dynamic_int8:g<block>'{nearest(text, _KNOWN)}"
            )
        kind, width, granularity, sign = match.groups()
        if kind == "static":
            return cls.static(int(width))
        shared = f"group:{granularity[1:]}" if granularity.startswith("g") else granularity
        return cls.dynamic(shared, int(width), None if sign is None else sign == "sym")

    @property
    def spelling(self) -> str:
        """The text that :meth:`parse` reads back."""
        if self.is_none:
            return "none"
        if self.is_static:
            return f"static_int{self.bits}"
        sign = (
            {True: ":sym", False: ":asym"}[self.symmetric] if self.symmetric == (self.granularity == "tensor") else ""
        )
        return f"dynamic_int{self.bits}:{self.granularity.replace('group:', 'g')}{sign}"

    def __str__(self) -> str:
        return self.spelling

    @property
    def is_none(self) -> bool:
        """The value is multiplied as it is."""
        return self.kind == "none"

    @property
    def is_dynamic(self) -> bool:
        """Its parameters are taken from the value at each run."""
        return self.kind == "dynamic"

    @property
    def is_static(self) -> bool:
        """Its parameters are calibrated beforehand."""
        return self.kind == "static"


NONE = Activation()
STATIC_INT8 = Activation.static()
DYNAMIC_INT8 = "dynamic_int8"
"""In a config: every granularity of it that is no block of a weight."""


def activations_of(spellings: Iterable[str]) -> tuple[Activation, ...]:
    """What the words of a config stand for; order is kept, duplicates go.

    >>> [a.spelling for a in activations_of(["none", "dynamic_int8"])]
    ['none', 'dynamic_int8:tensor', 'dynamic_int8:token']

    Raises:
        ParseError: for an unknown word.
    """
    found: dict[Activation, None] = {}
    for text in spellings:
        words = ("dynamic_int8:tensor", "dynamic_int8:token") if text == DYNAMIC_INT8 else (text,)
        found.update(dict.fromkeys(map(Activation.parse, words)))
    return tuple(found)


class Arithmetic(StrEnum):
    """What a kernel multiplies with."""

    FLOAT = "float"
    """The weight as it is decoded."""
    INT8_ROWS = "int8_rows"
    """Integers of 8 bits with one scale a row: groups of fewer bits are rounded to it."""
    CODES = "codes"
    """The codes as they are stored."""

    @classmethod
    def parse(cls, text: str) -> Arithmetic:
        """The one of this name.

        Raises:
            ParseError: there is none.
        """
        if text not in tuple(cls):
            raise ParseError(f"arithmetic: expected one of {', '.join(cls)}, found {text!r}{nearest(text, tuple(cls))}")
        return cls(text)

    @property
    def spelling(self) -> str:
        """The text that :meth:`parse` reads back."""
        return self.value


@dataclass(frozen=True, order=True)
class Option:
    """One way to store a layer's weight and to compute with it.

    Attributes:
        format: spelling of the weight format, such as ``int4:g64``.
        encoder: how codes are chosen, such as ``rtn``, ``mse`` or ``gptq``.
        activation: how the value that it reads is rounded.
        kernel: the target's name of the kernel that runs it.
        arithmetic: what that kernel multiplies with.
    """

    format: str
    encoder: str = "rtn"
    activation: Activation = NONE
    kernel: str = "float"
    arithmetic: Arithmetic = Arithmetic.FLOAT

    @property
    def name(self) -> str:
        """A readable unique name: ``int4:g64 gptq dynamic_int8:tensor @kernel``."""
        encoder = "" if self.format in WITHOUT_CODES else f" {self.encoder}"
        activation = "" if self.activation.is_none else f" {self.activation}"
        return f"{self.format}{encoder}{activation} @{self.kernel}"

    @property
    def keeps_weight(self) -> bool:
        """The weight stays as the model has it."""
        return self.format == AS_IT_WAS

    @property
    def unchanged(self) -> bool:
        """The layer computes what it did."""
        return self.keeps_weight and self.activation.is_none

    @property
    def rounds_under(self) -> str:
        """The kernel where it rounds what it multiplies; empty where values stay as they are."""
        return "" if self.activation.is_none else self.kernel

    def with_own_weight(self) -> Option:
        """The same activation on the weight as the model has it."""
        return replace(self, format=AS_IT_WAS, arithmetic=Arithmetic.FLOAT)

    @property
    def words(self) -> Mapping[str, str]:
        """What tells it from other options of the same target, as plain text."""
        return {
            "format": self.format,
            "encoder": self.encoder,
            "activation": self.activation.spelling,
            "kernel": self.kernel,
        }


KEPT = Option(AS_IT_WAS)
"""A layer as it was."""


@dataclass(frozen=True)
class PricedOption:
    """An option and its price for one layer.

    Attributes:
        option: the option.
        nbytes: exact bytes of the stored weight: codes, scales, zero points.
        latency_ms: milliseconds per run at the measured shape; None where latency was not measured.
        bops: bit operations, ``weight bits x activation bits x MACs``.
        loss: predicted increase of the chosen loss measure.
        weight_loss: the part of ``loss`` that comes from the weight.
        activation_loss: the part of ``loss`` that comes from quantizing the activation.
    """

    option: Option
    nbytes: int
    latency_ms: float | None
    bops: int
    loss: float
    weight_loss: float = 0.0
    activation_loss: float = 0.0
