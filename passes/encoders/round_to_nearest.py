"""Round to nearest: the grid that covers each group, and the nearest code."""

from __future__ import annotations

from dataclasses import dataclass

from ..formats.base import GRID
from .base import Encoder


@dataclass(frozen=True)
class RoundToNearest(Encoder):
    """Needs no data. Every weight is at most half a step from its value (plus the rounding of the stored scale)."""

    @property
    def families(self) -> frozenset[str]:
        """Grids."""
        return frozenset({GRID})

    @property
    def spelling(self) -> str:
        """``rtn``."""
        return "rtn"

    @property
    def is_plain(self) -> bool:
        """It is."""
        return True
