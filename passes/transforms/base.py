"""The contract of transforms: where they apply, what is found from data, and the rewrite that a plan repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from ...ir.graph import Graph
from ...ir.layers import Layer
from ..base import PassResult

Evidence = TypeVar("Evidence", contravariant=True)
"""What a transform is fitted to, such as statistics, or outputs of the float network."""

Fitted = TypeVar("Fitted")
"""What was found for one site: plain numbers and tensors, which the plan keeps."""


class Transform(Protocol[Evidence, Fitted]):
    """A rewrite that changes parameters around the weights of some layers.

    Those that run before encoding keep the function (scales moved from one layer into another, rotations,
    permutations), which the numeric check holds in float64; one that runs after encoding takes back what encoding did.
    Both are fitted once, kept in the plan, and repeated from it without data.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Layer -> where it applies, and layer -> the reason why it does not."""
        ...

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Fitted]:
        """Layer -> what was found; a layer for which nothing was found is left out."""
        ...

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Fitted]) -> PassResult:
        """The graph with what was found in it, and the layers that were left with the reason.

        Raises:
            PassError: something was found for a layer that is no site.
        """
        ...
