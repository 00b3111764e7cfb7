"""What rounding the inputs and states of recurrent layers costs: each layer with rounded values in a second run.

The state of a step is what the next one reads, so that its rounding error goes round and grows or dies out with the
network's own memory. No sum over independent errors knows that; a run does. What an operator loses is shared by its
matrices in proportion to their numbers: they are planned for its kernel together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..evaluate import bind_dims, evaluate_node, run
from ..graph import Graph, Node
from ..layers import Layer, as_rounded, can_round, share_of
from ..options import Activation
from .moments import LayerMoments

ROUNDED = Activation.dynamic("tensor")
"""How ``instar.recurrent`` rounds."""


class RoundedStates:
    """Adds to the moments of layers that recurrent operators take whole what rounding these operators loses."""

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        moments: Mapping[str, LayerMoments],
        activations: Collection[Activation],
    ) -> None:
        self._graph, self._moments = graph, moments
        self._layers: dict[Node, list[tuple[Layer, float]]] = {}
        for layer in layers if ROUNDED in activations else ():
            for use in layer.uses:
                if can_round(use.node):
                    self._layers.setdefault(use.node, []).append((layer, share_of(layer, use)))

    def add(self, inputs: Sequence[Tensor], outputs: Sequence[Any], own: Collection[str]) -> None:
        """Take a batch into account.

        Args:
            inputs: of the model.
            outputs: of the model on them, nothing rounded.
            own: names of layers whose losses are not those of the model's outputs: the operator's own output counts.
        """
        with torch.no_grad():
            for node, layers in self._layers.items():
                of_outputs, of_its_own = self._run(node, inputs, outputs)
                for layer, share in layers:
                    loss = of_its_own * _energy(layer) if layer.name in own else of_outputs
                    self._moments[layer.name].add_noise(ROUNDED.spelling, share * loss)

    def _run(self, node: Node, inputs: Sequence[Tensor], outputs: Sequence[Any]) -> tuple[float, float]:
        """Relative squared changes: of the model's outputs, added up, and of the operator's own output."""
        sizes = bind_dims(self._graph, inputs)
        own: list[float] = []

        def hook(at: Node, value: Any, values: Mapping[Node, Any]) -> Any:
            if at is not node:
                return value
            rounded = evaluate_node(
                as_rounded(node, self._graph.context), {source: values[source] for source in node.inputs}, sizes
            )
            own.append(_change(rounded[0], value[0]))
            return rounded

        found = run(self._graph, inputs, hook)
        return sum(map(_change, found, outputs)), own[0]


def _energy(layer: Layer) -> float:
    """What the losses of a layer refer to that no gradient reaches: they are relative errors of the weight."""
    return float(layer.matrix().double().square().sum())


def _change(found: Any, expected: Any) -> float:
    """``||found - expected||^2 / ||expected||^2`` of floating values, 0 for others; what is not finite is left out."""
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return 0.0
    finite = torch.isfinite(expected)
    difference = torch.where(finite, found.double() - expected.double(), 0.0).square().sum()
    return float(difference / torch.where(finite, expected.double(), 0.0).square().sum().clamp(min=1e-30))
