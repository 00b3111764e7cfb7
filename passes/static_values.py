"""Which values must be quantized so that convolutions run as integers: runs of layers, not single ones."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir.graph import Graph, Node
from ..ir.layers import EMBEDDING, Layer

ABSORBED = ("aten.relu.default", "aten.hardtanh.default", "aten.relu6.default", "aten.clamp.default")
ADD = "aten.add.Tensor"
_NORMS = ("aten.layer_norm.default", "aten.rms_norm.default", "aten.native_layer_norm.default")


def static_values(graph: Graph, layers: Iterable[Layer]) -> tuple[Node, ...]:
    """Values to quantize for the given statically quantized layers, in topological order.

    The input of every layer, but for indices; its output behind an activation that the runtime's requantization
    absorbs; and the sum of two quantized values (a residual connection), so that a run of layers stays in integers.
    Not what a norm alone reads: a few channels of it are often so large that one scale for all loses the others, the
    norm divides them away, and no product needs the codes.
    """
    uses = [use for layer in layers for use in layer.uses]
    roots = {use.node for use in uses}
    inputs = {use.input for use in uses if use.kind != EMBEDDING}
    wanted = set(inputs)
    for node in graph.nodes():
        if node in roots or _is_integer_sum(node, wanted):
            wanted.add(behind_activation(graph, node))
    wanted -= _normed(graph, wanted - inputs)
    return tuple(n for n in graph.nodes() if n in wanted)


def _normed(graph: Graph, values: set[Node]) -> set[Node]:
    """Those of the values that norms alone read, directly or as parts of such sums."""
    users, found = graph.users(), set[Node]()
    for node in reversed(graph.nodes()):
        readers = users[node] if node in values and node not in graph.output_nodes else ()
        if readers and all(reader in found or reader.op.name in _NORMS for reader in readers):
            found.add(node)
    return found


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
