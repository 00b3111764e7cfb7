"""What is computed outside the accelerator before it starts: rows of tables, looked up for the indices of a run.

The addresses of an embedding's rows depend on the input, and of its table only these rows are read. So the table stays
in the memory of whoever calls the accelerator, and the rows, with the sums of several look-ups and their rounding, are
inputs of the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...ir.evaluate import evaluate_node
from ...ir.graph import Graph, Node
from ...ir.op import INPUT
from .layouts import is_simple

LOOK_UPS = frozenset({"aten.embedding.default"})
"""Ops that read the rows of a table that indices name."""


def host_nodes(graph: Graph, live: Collection[Node]) -> list[Node]:
    """Look-ups of indices that are known before the run, what indices need, and what is simple on top of rows alone.

    Args:
        graph: with fixed sizes.
        live: nodes that depend on inputs.
    """
    indices: set[Node] = set(graph.inputs)
    rows: set[Node] = set()
    for node in graph.nodes():
        sources = [source for source in node.inputs if source in live]
        if node not in live or node.op is INPUT or isinstance(node.type, tuple):
            continue
        if node.op.name in LOOK_UPS and all(source in indices for source in sources):
            rows.add(node)
        elif is_simple(node) and any(source in rows for source in sources):
            if all(source in rows for source in sources):
                rows.add(node)
        elif not node.tensor_type.dtype.is_floating_point and all(source in indices for source in sources):
            indices.add(node)
    wanted = _behind(rows)
    return [
        node for node in graph.nodes() if node in rows or (node in wanted and node in indices and node.op is not INPUT)
    ]


def table_of(node: Node) -> str:
    """Name of the first table that a value is looked up in."""
    found = [source for source in _behind([node]) if source.op.name in LOOK_UPS]
    names = sorted(source.origin.module or "table" for source in found)
    return names[0] if names else "table"


def _behind(found: Collection[Node]) -> set[Node]:
    """The nodes and all that they need."""
    seen: set[Node] = set()
    pending = list(found)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += node.inputs
    return seen


def computed_before(graph: Graph, before: Sequence[Node], inputs: Sequence[Tensor]) -> Mapping[Node, Any]:
    """Values of what is computed outside before the run, for flat inputs of the graph."""
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    needed = _behind(before)
    for node in graph.nodes():
        if node in needed and node not in values:
            values[node] = node.handle.tensor if node.is_constant else evaluate_node(node, values, {})
    return values
