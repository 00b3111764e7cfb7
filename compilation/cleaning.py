"""Stage: the exact passes. Whatever follows, deciding, replaying or looking, starts from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..ir.graph import Graph
from ..ir.layers import Layer, Skipped
from ..ir.plan import TransformUse
from ..passes.base import PassRecord
from ..passes.run import NumericCheck, run_passes
from ..targets.base import layers_for
from .entry import Request


@dataclass(frozen=True, eq=False)
class Transformation:
    """A transform as a plan keeps it, and what it found: site -> tensor."""

    use: TransformUse
    found: Mapping[str, Tensor]


@dataclass(frozen=True)
class Cleaned:
    """A model after the exact passes.

    Attributes:
        request: what was asked.
        graph: computes the same as the captured one.
        records: of the passes.
        layers: what can be decided about.
        skipped: weights that are no layers.
        transforms: what transforms found; the graph and its layers are behind them.
    """

    request: Request
    graph: Graph
    records: tuple[PassRecord, ...]
    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    transforms: tuple[Transformation, ...] = ()


def clean(request: Request) -> Cleaned:
    """Run the passes, each verified and compared on the example inputs.

    Raises:
        PassError: a pass broke the model; names the pass and the node.
    """
    with request.stages.time("exact passes"):
        check = NumericCheck([request.example]) if request.pipeline.check_passes else None
        graph, records = run_passes(request.captured, request.exact, check)
        layers, skipped = layers_for(request.target, graph)
    return Cleaned(request, graph, tuple(records), layers, skipped)
