"""Layers whose weight is given to its operators whole: the gradient of the weight itself is all that is needed.

For a layer that multiplies, the gradient of the weight is put together from inputs and output gradients, sample by
sample (:mod:`.moments`). For a recurrent cell, a transposed convolution or an ``einsum`` torch's own derivative gives
it. Samples are told apart by projections: the outputs of some of them are projected at a time. As projections of
different samples are independent, the squares of these gradients add up to the same expectation, with less noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..graph import Node
from ..layers import Layer
from .moments import LayerMoments
from .projection import random_projection

PARTS = 8
"""Projections of a batch: each takes one more backward pass."""

SHOWN = 3


class WholeWeights:
    """Gathers moments of the layers that are :attr:`~instar.ir.layers.Layer.only_stored`."""

    def __init__(self, layers: Sequence[Layer], moments: Mapping[str, LayerMoments]) -> None:
        self.layers = {layer.weight: layer for layer in layers if layer.only_stored}
        self._moments = moments
        self._leaves: dict[Node, Tensor] = {}
        self._plain: dict[str, None] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of these layers."""
        return frozenset(layer.name for layer in self.layers.values())

    def leaf(self, node: Node, value: Any) -> Any:
        """The value of a constant as the nodes behind it see it: a leaf, where it is the weight of such a layer."""
        if node not in self.layers:
            return value
        self._leaves[node] = value.detach().requires_grad_(True)
        return self._leaves[node]

    def add(self, outputs: Sequence[Any], samples: int, first: int, seed: int, cut: frozenset[str]) -> None:
        """Take a batch into account; its graph is kept.

        Args:
            outputs: of the model.
            samples: of the batch.
            first: samples of all batches before.
            seed: of the first projection.
            cut: names of layers that no gradient reaches; their weights' own relative error counts.
        """
        reached = {node: layer for node, layer in self.layers.items() if layer.name not in cut}
        parts = min(samples, PARTS) if reached else 0
        for part in range(parts):
            chosen = torch.arange(samples) % parts == part if parts > 1 else None
            scalar, _ = random_projection(outputs, seed * PARTS + part, chosen)
            leaves = [self._leaves[node] for node in reached]
            given = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
            found = cast("tuple[Tensor | None, ...]", given)
            for layer, gradient in zip(reached.values(), found, strict=True):
                matrix = None if gradient is None else layer.as_matrix(gradient)
                self._moments[layer.name].add_weight_gradient(matrix, first + part, parts)
        for layer in reached.values():
            self._moments[layer.name].tokens += samples
        self.add_plain([layer for layer in self.layers.values() if layer.name in cut])
        self._leaves.clear()

    def add_plain(self, layers: Sequence[Layer] | None = None) -> None:
        """Without gradients: the relative squared error of the weight itself."""
        for layer in self.layers.values() if layers is None else layers:
            self._moments[layer.name].add_plain(float(layer.matrix().double().square().sum()))
            self._plain[layer.name] = None

    def notes(self) -> tuple[str, ...]:
        """Which layers are measured by their weights alone, for the report."""
        names = sorted(self._plain)
        if not names:
            return ()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return (
            f"losses of {', '.join(names[:SHOWN])}{more} are relative errors of the weights themselves, which their "
            "operators take whole: no gradient says what an error does to the outputs",
        )
