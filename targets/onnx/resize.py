"""Inputs at other sizes: real values repeated or cut, so that token ids and masks stay valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...ir.evaluate import bind_dims
from ...ir.graph import Graph
from ...ir.types import evaluate_dim


def resized_inputs(graph: Graph, example: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
    """The example inputs with every dynamic dimension at the given size."""
    result: list[Tensor] = []
    for node, value in zip(graph.inputs, example, strict=True):
        for axis, dim in enumerate(node.tensor_type.shape):
            size = evaluate_dim(dim, sizes)
            if size != value.shape[axis]:
                index = torch.arange(size) % max(value.shape[axis], 1)
                value = value.index_select(axis, index)
        result.append(value.contiguous())
    return result


def other_sizes(graph: Graph, example: Sequence[Tensor]) -> list[dict[str, int]]:
    """Two assignments of the dynamic dimensions that differ from the example and from each other."""
    given = bind_dims(graph, example)
    if not given:
        return []
    smaller = {n: _inside(graph, n, max(1, s // 2)) for n, s in given.items()}
    larger = {n: _inside(graph, n, s + 3) for n, s in given.items()}
    found: list[dict[str, int]] = []
    for sizes in (smaller, larger):
        if sizes != given and sizes not in found:
            found.append(sizes)
    return found


def _inside(graph: Graph, name: str, size: int) -> int:
    dim = graph.dims[name]
    return min(max(size, dim.minimum), dim.maximum)
