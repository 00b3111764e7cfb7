"""Round to nearest: the grid that covers each group, and the nearest code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...ir.dialect import join_groups, split_groups
from ...ir.statistics import WeightStatistics
from .base import Encoder
from .factor import FactoredHessian
from .grid import Choice, Grid


@dataclass(frozen=True)
class RoundToNearest(Encoder):
    """Needs no data. Every weight is at most half a step from its value (plus the rounding of the stored scale)."""

    @property
    def spelling(self) -> str:
        """``rtn``."""
        return "rtn"

    def encode(
        self,
        weight: Tensor,
        grid: Grid,
        group: int,
        statistics: WeightStatistics | None = None,
        factored: FactoredHessian | None = None,
    ) -> Choice:
        """See :meth:`Encoder.encode`; statistics are not used."""
        del statistics, factored
        groups = split_groups(weight, group)
        parameters = grid.fit(groups)
        codes = join_groups(grid.quantize(groups, parameters), weight.shape[1])
        return Choice(codes, tuple(p.squeeze(-1) for p in parameters))
