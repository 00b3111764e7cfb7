"""``auto``: every transform that fits, one after the other, each kept where it lowers the measured loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...ir.graph import Graph
from ...ir.layers import Layer
from ..base import PassResult
from .awq import AWQ
from .base import BeforeEncoding, Found
from .evidence import Evidence
from .permute_channels import PermuteChannels
from .rotation import RotateResidual


@dataclass(frozen=True)
class Auto:
    """Stands for its candidates in a list of transforms; it changes nothing itself and is in no plan.

    The stage of transforms fits each candidate to all calibration batches but the last, stores every weight at its
    coarsest option before and behind it, and keeps the candidate where the outputs for the last batch, which nothing
    was fitted to, are nearer to those of the original.
    """

    name: ClassVar[str] = "auto"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    @property
    def candidates(self) -> tuple[BeforeEncoding, ...]:
        """In the order in which they are tried: a rotation changes what scales and orders are fitted to."""
        return RotateResidual(), AWQ(), PermuteChannels()

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, object], Mapping[str, str]]:
        """None of its own."""
        del graph, layers
        return {}, {}

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Nothing of its own."""
        del graph, layers, evidence
        return {}

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """The graph as it is."""
        del layers, fitted
        return PassResult(graph)
