"""The contract of transforms: where they apply, what is found from data, and the rewrite that a plan repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from ...ir.graph import Graph
from ...ir.layers import Layer, find_layers
from ..base import PassResult
from .evidence import Evidence

Known = TypeVar("Known", contravariant=True)
"""What a transform is fitted to, such as statistics, or outputs of the float network."""

Fitted = TypeVar("Fitted")
"""What was found for one site: plain numbers and tensors, which the plan keeps."""


class Transform(Protocol[Known, Fitted]):
    """A rewrite that changes parameters around the weights of some layers.

    Those that run before encoding keep the function (:class:`BeforeEncoding`: scales moved from one layer into another,
    rotations, permutations), which the numeric check holds in float64; one that runs after encoding takes back what
    encoding did. Both are fitted once, kept in the plan, and repeated from it without data.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Layer -> where it applies, and layer -> the reason why it does not."""
        ...

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Known) -> Mapping[str, Fitted]:
        """Layer -> what was found; a layer for which nothing was found is left out."""
        ...

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Fitted]) -> PassResult:
        """The graph with what was found in it, and the layers that were left with the reason.

        Raises:
            PassError: something was found for a layer that is no site.
        """
        ...


@dataclass(frozen=True, eq=False)
class Found:
    """What an exact transform found for one site.

    Attributes:
        tensor: what the rewrite needs, such as scales ``[channels]`` or an order of channels; the plan keeps it.
        facts: numbers for plan and report, such as the predicted loss before and after.
    """

    tensor: Tensor
    facts: Mapping[str, float] = field(default_factory=dict[str, float])


class BeforeEncoding(Protocol):
    """A transform that keeps the function and runs before weights are encoded. A frozen dataclass: fields are options.

    ``needs_data`` says that it is fitted to calibration data.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    needs_data: ClassVar[bool]

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Site -> where it applies, and layer -> the reason why it does not."""
        ...

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Site -> what was found; a site that nothing helps is left out."""
        ...

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """The graph with what was found in it.

        Raises:
            PassError: something was found for what is no site, or does not fit it.
        """
        ...


@dataclass(frozen=True, eq=False)
class Rewriting:
    """A transform with what it found, as a pass: it runs, is verified and compared in float64 like every other."""

    name: ClassVar[str] = "transform"
    exact: ClassVar[bool] = True

    transform: BeforeEncoding
    fitted: Mapping[str, Tensor]

    def __call__(self, graph: Graph) -> PassResult:
        """Apply.

        Raises:
            PassError: something was found for what is no site of this graph.
        """
        return self.transform.apply(graph, find_layers(graph)[0], self.fitted)
