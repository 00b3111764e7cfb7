"""What layers read, channel by channel: magnitudes for transforms that scale channels, and a sample of the vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..evaluate import evaluate
from ..graph import Graph, Node
from ..layers import CONV, EMBEDDING, Layer, Use
from .matrices import layer_matrices

KEPT = 512
"""Vectors of every layer's input that are kept."""


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """The inputs of one layer.

    Attributes:
        mean_magnitude: float32 ``[columns]``, mean of ``|x_j|`` over all vectors.
        peak: float32 ``[columns]``, largest ``|x_j|``.
        sample: float32 ``[vectors, columns]``, evenly spread over the data, at most :data:`KEPT`.
    """

    mean_magnitude: Tensor
    peak: Tensor
    sample: Tensor


def channel_statistics(
    graph: Graph, layers: Sequence[Layer], batches: Iterable[Sequence[Tensor]]
) -> dict[str, ChannelStatistics]:
    """One forward pass over batches of flat inputs.

    Args:
        graph: after the exact passes.
        layers: embeddings, convolutions in groups and weights that operators take whole are left out.
        batches: at least one.
    """
    gathered: dict[Node, _Channels] = {}
    readers: dict[Node, dict[Node, Use]] = {}
    for layer in layers:
        if _is_seen(layer):
            readers.setdefault(layer.uses[0].input, {})[_key(layer.uses[0])] = layer.uses[0]

    def observe(node: Node, value: Any) -> None:
        for key, use in readers.get(node, {}).items():
            gathered.setdefault(key, _Channels()).add(use, value)

    with torch.no_grad():
        for inputs in batches:
            evaluate(graph, inputs, observe)
    done = {key: channels.finish() for key, channels in gathered.items()}
    return {layer.name: done[_key(layer.uses[0])] for layer in layers if _is_seen(layer)}


def _is_seen(layer: Layer) -> bool:
    use = layer.uses[0]
    return not layer.only_stored and len(layer.uses) == 1 and use.kind != EMBEDDING and use.groups == 1


def _key(use: Use) -> Node:
    """What a layer's vectors belong to: its input, or itself where it unfolds the input its own way."""
    return use.node if use.kind == CONV else use.input


class _Channels:
    def __init__(self) -> None:
        self._count = 0
        self._total: Tensor | None = None
        self._peak: Tensor | None = None
        self._parts: list[Tensor] = []

    def add(self, use: Use, value: Tensor) -> None:
        rows, _ = layer_matrices(use, value, None, 0)
        magnitude = rows.abs()
        total, peak = magnitude.sum(0, dtype=torch.float64), magnitude.amax(0)
        self._total = total if self._total is None else self._total + total
        self._peak = peak if self._peak is None else torch.maximum(self._peak, peak)
        self._count += rows.shape[0]
        self._parts.append(_spread(rows, KEPT // 4).clone())
        if sum(part.shape[0] for part in self._parts) > 2 * KEPT:
            self._parts = [_spread(torch.cat(self._parts), KEPT)]

    def finish(self) -> ChannelStatistics:
        assert self._total is not None  # made where the first rows arrive
        assert self._peak is not None
        mean = (self._total / max(self._count, 1)).float()
        return ChannelStatistics(mean, self._peak, _spread(torch.cat(self._parts), KEPT))


def _spread(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, evenly spaced."""
    return rows if rows.shape[0] <= most else rows[torch.linspace(0, rows.shape[0] - 1, most).round().long()]
