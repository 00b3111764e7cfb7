"""``codebook:4``, ``codebook:4:g64``: levels by k-means over the values of one weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .clusters import Samples, clusters
from .tables import TableFormat


@dataclass(frozen=True)
class Codebook(TableFormat):
    """The ``2^bits`` levels of least squared error that k-means finds, weighted with the diagonal of the second moment.

    (Deep Compression, arXiv 1510.00149, shares weights so; the weights of the errors are those of SqueezeLLM, arXiv
    2306.07629.) One table serves the whole weight: without scales it is fitted to the weights, with scales to the
    weights as shares of the extreme of their group. Never worse than a uniform grid of as many bits and these scales.
    """

    kind: ClassVar[str] = "codebook"

    def levels(self, samples: Samples) -> Tensor:
        """See :func:`~instar.passes.formats.clusters.clusters`."""
        return clusters(samples, self.bits)
