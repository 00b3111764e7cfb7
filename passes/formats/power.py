"""``power:4:g64``: levels evenly spaced once raised to a power that is chosen for the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .clusters import Samples, power_exponent, power_levels
from .tables import TableFormat


@dataclass(frozen=True)
class Power(TableFormat):
    """``sign(k) |k s|^(1/a)`` for integers ``k``, dense near zero for an ``a`` below 1 (NUPES, arXiv 2308.05600).

    The exponent of least error among hundredths from 0.3 to 1 is chosen for each weight, weighted with the diagonal of
    the second moment, where the publication has one for the network or learns it. Codes are those of the nearest level,
    where it rounds in the domain of powers: nearest is never worse. Stored is the table of levels.
    """

    kind: ClassVar[str] = "power"

    def levels(self, samples: Samples) -> Tensor:
        """See :func:`~instar.passes.formats.clusters.power_levels`."""
        largest = 1.0 if self.group != 0 else max(float(samples.values.abs().max()), 1e-30)
        return power_levels(self.bits, power_exponent(samples, self.bits, largest)) * largest
