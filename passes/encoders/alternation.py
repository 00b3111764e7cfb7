"""Encoders of sums: whether the parts are stored once, or fitted to each other in turn."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import FormatError
from ..formats.base import SUM, Alternation
from .base import Encoder

DRAFT_SWEEPS = 3
"""Rounds where a price is all that is asked for."""


@dataclass(frozen=True)
class Sequential(Encoder):
    """``sequential``: each part stores what the parts before it left over, once.

    With ``int4:g64 + lowrank:r8`` that is LoRC (ZeroQuant-V2, arXiv 2303.08302): the singular vectors of what
    quantization got wrong.
    """

    @property
    def families(self) -> frozenset[str]:
        """Sums."""
        return frozenset({SUM})

    @property
    def spelling(self) -> str:
        """``sequential``."""
        return "sequential"


@dataclass(frozen=True)
class Alternate(Sequential):
    """``alternate``: every part in turn stores what all others leave over, and the best of all iterates is kept.

    LQ-LoRA (arXiv 2311.12023): factors and codes take turns until the error stops falling. Rounding is no projection,
    so that the error may rise; the published program returns its last iterate, this one the best, which is never worse
    than ``sequential``. Errors are those of the layer's statistics. The published weights, the two-sided square root of
    a diagonal Fisher matrix, are ``whitened:diagonal``; ``whitened`` takes the whole second moment.

    Attributes:
        sweeps: the most rounds, 1 or more; 100 as published.
        gain: share of the error that a round must save for another one to follow; 0 goes on until it rises.

    Raises:
        FormatError: an option is out of range.
    """

    sweeps: int = 100
    gain: float = 0.01

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise FormatError(f"alternate: expected 1 sweep or more, got {self.sweeps}; 100 is the usual limit")
        if not 0.0 <= self.gain < 1.0:
            raise FormatError(f"alternate: expected a gain from 0 to below 1, got {self.gain}; 0.01 is usual")

    @property
    def spelling(self) -> str:
        """``alternate``, ``alternate:sweeps=5``, ``alternate:gain=0.0``."""
        sweeps = "" if self.sweeps == Alternate.sweeps else f":sweeps={self.sweeps}"
        return f"alternate{sweeps}" + ("" if self.gain == Alternate.gain else f":gain={self.gain}")

    @property
    def draft(self) -> Alternate:
        """Three rounds: later ones take as long each, and save little."""
        return Alternate(min(self.sweeps, DRAFT_SWEEPS), self.gain)

    def alternation(self) -> Alternation:
        """Its options."""
        return Alternation(self.sweeps, self.gain)
