"""``fp4_e2m1:g32``: every float of 3 to 8 bits, with a float16 scale for each group of columns."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from .grammar import Term
from .grids import Parameters
from .layout import parse_group
from .levels import LevelFormat, LevelGrid, search_tables

RESERVED = {(4, 3): 1, (5, 2): 4}
"""Codes of each sign that are infinite or not a number, in the 8-bit formats of the Open Compute Project."""

NAMES = tuple(f"fp{1 + e + m}_e{e}m{m}" for bits in range(3, 9) for e in range(1, bits) for m in (bits - 1 - e,))
"""Every name: a sign, at least one bit of exponent, 3 to 8 bits in all."""


@functools.cache
def float_levels(exponent: int, mantissa: int) -> tuple[float, ...]:
    """Values by bit pattern (sign, exponent, mantissa) with the bias ``2^(exponent-1) - 1`` and subnormal numbers.

    Every pattern is a number; where the published format reserves patterns (:data:`RESERVED`) they stand for its
    largest value and are not stored.

    >>> float_levels(2, 1)[:8]
    (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """
    bias, size = (1 << (exponent - 1)) - 1, 1 << mantissa
    last = (1 << (exponent + mantissa)) - 1 - RESERVED.get((exponent, mantissa), 0)
    positive: list[float] = []
    for code in range(1 << (exponent + mantissa)):
        high, low = divmod(min(code, last), size)
        positive.append(math.ldexp(low + size if high else low, max(high, 1) - bias - mantissa))
    return (*positive, *(-x for x in positive))


@dataclass(frozen=True)
class FloatGrid(LevelGrid):
    """Levels of a float; of two that are equally near the one with the even bit pattern."""

    def quantize(self, values: Tensor, parameters: Parameters) -> Tensor:
        """See :meth:`Grid.quantize`; beyond the largest level it saturates."""
        order, middles = search_tables(self.levels)
        order, middles = order.to(values), middles.to(values)
        scaled = (values / parameters[0]).contiguous()
        place = torch.bucketize(scaled, middles)
        tie = scaled == middles[place.clamp(max=len(middles) - 1)]
        return order[place + (tie & (order[place] % 2 == 1)).to(place.dtype)]


@dataclass(frozen=True)
class Minifloat(LevelFormat):
    """A float of 3 to 8 bits without infinities, times a float16 scale: a float whose exponent bias is any real number.

    The bias of a group is ``2^exponent - 1 - log2(scale)`` (LLM-FP4, arXiv 2310.16836); clip search looks for it on an
    even ladder of biases, which does not break down near zero as their multiples do.

    Attributes:
        group: see :class:`LevelFormat`.
        exponent: bits of the exponent, 1 or more.
        mantissa: bits of the mantissa, 0 or more.
    """

    exponent: int = 2
    mantissa: int = 1

    options: ClassVar[str] = ":channel or :g16 to :g256"
    example_options: ClassVar[str] = ":g32"

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise FormatError(
                f"{self.name}: expected 1 or more bits of exponent and 3 to 8 bits with the sign, got "
                f"{self.exponent} of exponent and {self.mantissa} of mantissa; fp4_e2m1 is usual"
            )
        super().__post_init__()

    @classmethod
    def of_term(cls, term: Term) -> Minifloat:
        """Parse ``fp4_e2m1:g32``.

        Raises:
            ParseError: at the first option that is missing, unknown or out of range.
        """
        _, exponent, mantissa = (int(digits) for digits in re.findall(r"\d+", term.name))
        group = parse_group(term)
        for option in term.options[1:]:
            raise option.error("the end of the format", ())
        return cls(group, exponent, mantissa)

    @property
    def name(self) -> str:
        """``fp4_e2m1``."""
        return f"fp{1 + self.exponent + self.mantissa}_e{self.exponent}m{self.mantissa}"

    @property
    def levels(self) -> tuple[float, ...]:
        """See :func:`float_levels`, times the power of two that brings the largest between 1 and 2.

        Scales are then as large as weights, where float16 is precise, whatever range the exponents have.
        """
        return _near_one(self.exponent, self.mantissa)

    @property
    def grid(self) -> FloatGrid:
        """The representable values of a group."""
        return FloatGrid(self.levels)


@functools.cache
def _near_one(exponent: int, mantissa: int) -> tuple[float, ...]:
    levels = float_levels(exponent, mantissa)
    shift = 1 - math.frexp(max(levels))[1]
    return tuple(math.ldexp(level, shift) for level in levels)
