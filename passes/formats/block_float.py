"""``bfp4:g16``: integers of few bits that share a power of two with their group."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ...ir.errors import FormatError
from .grammar import Term
from .layout import parse_group
from .microscaling import PowerScaled

WIDTHS = range(2, 9)
NAMES = tuple(f"bfp{bits}" for bits in WIDTHS)


@functools.cache
def signed_mantissas(bits: int) -> tuple[float, ...]:
    """Values by code, an unsigned number ``u`` standing for ``u - 2^(bits-1)``, at most ``2^(bits-1) - 1`` either way.

    They are multiples of ``2^(2-bits)``, so that the largest is between 1 and 2 (1 for 2 bits); the code below the
    least stands for the least and is not stored.

    >>> signed_mantissas(3)
    (-1.5, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    """
    half = 1 << (bits - 1)
    return tuple(max(code - half, 1 - half) * 2.0 ** (2 - bits) for code in range(1 << bits))


@dataclass(frozen=True)
class BlockFloat(PowerScaled):
    """Block floating point: signed mantissas without an implied bit, one E8M0 exponent for each group of columns.

    ``mantissa + 8 / g`` bits a weight; ``bfp4`` is BFP12 (arXiv 2403.20137), 4 bits of mantissa and 8 of exponent. The
    exponent is that of the largest magnitude; what lies between the largest level
    and the next power of two is clipped, and clip search tries the power above, which clips nothing.

    Attributes:
        group: columns that share an exponent, or ``None`` for a whole row.
        mantissa: bits of a mantissa with its sign, 2 to 8.
    """

    mantissa: int = 4

    options: ClassVar[str] = ":channel or :g16 to :g256"
    example_options: ClassVar[str] = ":g16"

    def __post_init__(self) -> None:
        if self.mantissa not in WIDTHS:
            raise FormatError(f"{self.name}: expected 2 to 8 bits of mantissa with its sign; bfp4:g16 is usual")
        super().__post_init__()

    @classmethod
    def of_term(cls, term: Term) -> BlockFloat:
        """Parse ``bfp4:g16``.

        Raises:
            ParseError: at the first option that is missing, unknown or out of range.
        """
        group = parse_group(term)
        for option in term.options[1:]:
            raise option.error("the end of the format", ())
        return cls(group, int(term.name.removeprefix("bfp")))

    @property
    def name(self) -> str:
        """``bfp4``."""
        return f"bfp{self.mantissa}"

    @property
    def levels(self) -> tuple[float, ...]:
        """See :func:`signed_mantissas`."""
        return signed_mantissas(self.mantissa)
