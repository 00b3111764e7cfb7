"""How values lie in memory: images with their channels last, everything else as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...ir.graph import Graph, Node

SIMPLE = frozenset(
    {"instar.quantize_static.default", "instar.dequantize_static.default", "instar.requantize.default"}
    | {"instar.lookup.default"}
    | {"aten._to_copy.default"}
    | {f"aten.{name}.default" for name in ("hardswish", "hardsigmoid", "hardtanh", "relu6", "silu", "gelu", "mish")}
    | {f"aten.{name}.default" for name in ("leaky_relu", "elu", "selu", "celu", "softplus", "log_sigmoid")}
)
"""Ops beside those that torch marks as pointwise that compute every element from the same element."""

IMAGES = frozenset(
    {f"aten.{name}.default" for name in ("conv1d", "conv2d", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d")}
    | {"aten.adaptive_avg_pool2d.default", "aten.max_pool2d_with_indices.default", "instar.conv_sums.default"}
    | {f"aten.upsample_nearest2d.{overload}" for overload in ("default", "vec")}
)
"""Ops whose operand and result are images."""

KEEPING = frozenset({"aten.cat.default", "aten.constant_pad_nd.default", "getitem"})
"""Ops beside element-by-element ones whose operands and results lie alike."""


def is_simple(node: Node) -> bool:
    """Whether every element of the result depends on the same element of each operand alone."""
    if node.op.name in SIMPLE:
        return True
    overload = node.op.overload
    return overload is not None and torch.Tag.pointwise in overload.tags


SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Layout:
    """Of one value.

    Attributes:
        shape: as torch has it.
        dtype: of its elements.
        image: whether its axis 1 is last in memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    image: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Axes in the order in which they lie in memory; sequences of channels are images of one row."""
        if not self.image:
            return self.shape or (1,)
        batch, channels, *sizes = self.shape
        return (batch, *(1,) * (2 - len(sizes)), *sizes, channels)

    def torch_axis(self, stored: int) -> int:
        """The axis of the value that is axis ``stored`` in memory."""
        if not self.image:
            return stored
        return stored + 1 if len(self.shape) == 4 else stored

    def bits(self, value: Tensor) -> NDArray[np.int64]:
        """The elements of rows of this value as signed integers of their width, axes as they lie in memory."""
        if self.image:
            value = value.movedim(1, -1)
            value = value.unsqueeze(1) if value.dim() == 3 else value
        value = value.reshape(value.shape or (1,)).contiguous()
        plain = value.view(torch.uint8) if value.dtype == torch.bool else value
        return plain.view(SIGNED[plain.element_size()]).numpy().astype(np.int64)

    def value(self, bits: NDArray[np.int64]) -> Tensor:
        """The opposite of :meth:`bits`, for all rows or some."""
        width = self.dtype.itemsize
        whole = torch.from_numpy(np.ascontiguousarray(bits)).to(SIGNED[width])
        found = whole.view(torch.uint8).to(torch.bool) if self.dtype == torch.bool else whole.view(self.dtype)
        if not self.image:
            return found.reshape(found.shape if self.shape else ())
        found = found.squeeze(1) if len(self.shape) == 3 else found
        return found.movedim(-1, 1).contiguous()


def images(graph: Graph) -> frozenset[Node]:
    """Values that are images: those that convolutions and poolings read and make, and what is computed like them."""
    leader: dict[Node, Node] = {}

    def find(node: Node) -> Node:
        while leader.setdefault(node, node) is not node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    roots: set[Node] = set()
    for node in graph.nodes():
        if node.op.name in IMAGES:
            roots.update((node, node.inputs[0]))
        if node.op.name in IMAGES or node.op.name in KEEPING or is_simple(node):
            for source in _alike(node):
                leader[find(source)] = find(node)
    found = {find(root) for root in roots}
    return frozenset(n for n in graph.nodes() if find(n) in found and _rank(n) in (3, 4))


def _alike(node: Node) -> Iterable[Node]:
    return (source for source in node.inputs if not source.is_constant and _rank(source) == _rank(node))


def _rank(node: Node) -> int:
    return node.type[0].rank if isinstance(node.type, tuple) else node.tensor_type.rank
