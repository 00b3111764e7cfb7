"""Inputs at other sizes: real values repeated or cut, so that token ids, masks and positions stay valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import PassError
from ...ir.evaluate import bind_dims, evaluate
from ...ir.graph import Graph
from ...ir.types import evaluate_dim


def resized_inputs(graph: Graph, example: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
    """The example inputs with every dynamic dimension at the given size.

    Cut, or each value repeated where it is, so that what was in order stays in order.
    """
    result: list[Tensor] = []
    for node, value in zip(graph.inputs, example, strict=True):
        for axis, dim in enumerate(node.tensor_type.shape):
            size = evaluate_dim(dim, sizes)
            if size != value.shape[axis]:
                index = torch.arange(size)
                if size > value.shape[axis]:
                    index = index * value.shape[axis] // size
                value = value.index_select(axis, index)
        result.append(value.contiguous())
    return result


def valid_inputs(
    graph: Graph, example: Sequence[Tensor], sizes: Mapping[str, int]
) -> tuple[list[Tensor], list[Any]] | None:
    """Inputs at the given sizes that the graph can compute with, and what it computes; None where none were found.

    Integers that are positions in a dimension are out of range once it is shorter. Where the graph refuses the inputs,
    their integers are therefore scaled down like the dimension that shrank the most.
    """
    inputs = resized_inputs(graph, example, sizes)
    given = bind_dims(graph, example)
    ratio = min((Fraction(size, given[name]) for name, size in sizes.items() if given.get(name)), default=Fraction(1))
    for candidate in (inputs, [_scaled(value, min(ratio, Fraction(1))) for value in inputs]):
        try:
            with torch.no_grad():
                return candidate, evaluate(graph, candidate)
        except PassError:
            continue
    return None


def _scaled(value: Tensor, ratio: Fraction) -> Tensor:
    """Integers times a number up to 1, rounded towards zero; anything else as it is."""
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        return value
    return torch.div(value * ratio.numerator, ratio.denominator, rounding_mode="trunc").to(value.dtype)


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
