"""Which values must be quantized so that convolutions run as integers: runs of layers, not single ones."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir.graph import Graph, Node
from ..ir.layers import EMBEDDING, Layer

ABSORBED = ("aten.relu.default", "aten.hardtanh.default", "aten.relu6.default", "aten.clamp.default")
ADD = "aten.add.Tensor"


def static_values(graph: Graph, layers: Iterable[Layer]) -> tuple[Node, ...]:
    """Values to quantize for the given statically quantized layers, in topological order.

    The input of every layer, but for indices; its output behind an activation that the runtime's requantization
    absorbs; and the sum of two quantized values (a residual connection), so that a run of layers stays in integers.
    """
    wanted: set[Node] = set()
    roots = {use.node for layer in layers for use in layer.uses}
    wanted.update(use.input for layer in layers for use in layer.uses if use.kind != EMBEDDING)
    for node in graph.nodes():
        if node in roots or _is_integer_sum(node, wanted):
            wanted.add(behind_activation(graph, node))
    return tuple(n for n in graph.nodes() if n in wanted)


def _is_integer_sum(node: Node, wanted: set[Node]) -> bool:
    if node.op.name != ADD or node.argument("alpha", 1) != 1:
        return False
    left, right = node.argument("self"), node.argument("other")
    same = isinstance(right, Node) and left.tensor_type == right.tensor_type
    return same and left in wanted and right in wanted


def behind_activation(graph: Graph, node: Node) -> Node:
    """A value, or what an activation that the runtime's requantization absorbs makes of it alone."""
    users = graph.users()[node]
    while len(users) == 1 and users[0].op.name in ABSORBED and node not in graph.output_nodes:
        node = users[0]
        users = graph.users()[node]
    return node
