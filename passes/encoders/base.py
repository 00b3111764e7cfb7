"""The encoder contract: how the codes of a format are chosen, independent of the format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...ir.statistics import WeightStatistics
from .factor import FactoredHessian
from .grid import Choice, Grid


@dataclass(frozen=True)
class Encoder(ABC):
    """Chooses codes on a grid. Subclasses are frozen dataclasses whose fields are the options."""

    @property
    @abstractmethod
    def spelling(self) -> str:
        """The text that :func:`instar.passes.encoders.encoder` parses back to this encoder."""

    @property
    def needs_data(self) -> bool:
        """Whether it cannot work without calibration statistics."""
        return self.refuses(None) is not None

    def refuses(self, statistics: WeightStatistics | None) -> str | None:
        """Why this encoder cannot work with ``statistics``, or ``None`` if it can."""
        del statistics
        return None

    def factor(self, statistics: WeightStatistics | None) -> FactoredHessian | None:
        """What can be computed once per layer and shared by every format; ``None`` if there is nothing."""
        del statistics
        return None

    @abstractmethod
    def encode(
        self,
        weight: Tensor,
        grid: Grid,
        group: int,
        statistics: WeightStatistics | None = None,
        factored: FactoredHessian | None = None,
    ) -> Choice:
        """Codes and parameters for a float32 weight ``[rows, columns]``.

        Args:
            weight: the matrix, finite.
            grid: representable values, fitted per group.
            group: columns that share parameters; 0 is all of them; the last group may be shorter.
            statistics: what calibration knows, if anything.
            factored: the result of :meth:`factor` for the same statistics, to share work between formats.

        Raises:
            FormatError: with the reason of :meth:`refuses`.
        """
