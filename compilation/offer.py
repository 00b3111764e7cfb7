"""What could be decided: the cleaned graph, its layers, and what each may become at which cost, before any loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..config import Pipeline
from ..ir.analysis import parameter_bytes
from ..ir.evaluate import bind_dims
from ..ir.graph import Graph, Node
from ..ir.layers import Layer, Skipped
from ..ir.options import Option
from ..passes.base import PassRecord
from ..targets.base import Latencies, Target
from .allocation_stage import Totals
from .pricing_stage import Candidate, LayerPrices, cost


@dataclass(frozen=True)
class Offer:
    """The choices of a model.

    Attributes:
        pipeline: settings, already checked.
        target: where it will run.
        captured: the graph as captured.
        graph: after the exact passes.
        records: of the exact passes.
        layers: what can be decided about.
        skipped: weights that are no layers.
        candidates: layer -> (options, refusals, why it is forced).
        static: values that statically quantized layers would quantize.
        example: the flat inputs of the example call.
        versions: of the packages involved.
    """

    pipeline: Pipeline
    target: Target
    captured: Graph
    graph: Graph
    records: tuple[PassRecord, ...]
    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    candidates: Mapping[str, Candidate]
    static: tuple[Node, ...]
    example: list[Tensor]
    versions: Mapping[str, str]

    @property
    def options(self) -> dict[str, tuple[Option, ...]]:
        """Layer -> what it may become."""
        return {name: entry[0] for name, entry in self.candidates.items()}

    def costs(self, latencies: Latencies | None) -> tuple[LayerPrices, ...]:
        """Bytes, bit operations and, where known, milliseconds of every option; no option has a loss yet."""
        sizes = bind_dims(self.graph, self.example)
        return tuple(cost(layer, self.candidates[layer.name], latencies, self.target, sizes) for layer in self.layers)

    def totals(self, latencies: Latencies | None) -> Totals:
        """What the model costs besides its layers' weights, and what all of it costs originally."""
        weights = sum(layer.weight.handle.nbytes for layer in self.layers)
        return Totals(
            fixed_nbytes=parameter_bytes(self.graph) - weights,
            original_nbytes=parameter_bytes(self.captured),
            original_ms=latencies.original_ms if latencies else None,
            float_ms=latencies.model_ms if latencies else None,
            original_bops=sum(prices.original.bops for prices in self.costs(latencies)),
        )
