"""Where runs of layers between integers begin and end: the values that lie between two layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.graph import Graph, Node
from ..ir.layers import EMBEDDING, Layer
from .static_values import ABSORBED, ADD, behind_activation


@dataclass(frozen=True)
class Border:
    """A value that is converted where only one of its sides computes with integers.

    Attributes:
        value: as it is stored.
        source: the layer that makes it; empty where no layer does whose output may be integers.
        readers: layers that multiply it; empty where only other operators read it, in float.
    """

    value: Node
    source: str
    readers: tuple[str, ...]


def borders(graph: Graph, layers: Sequence[Layer]) -> tuple[Border, ...]:
    """The values on both sides of the given layers, which are all that may compute between integers.

    A value belongs to the layer before it behind activations that requantization absorbs and what only moves numbers:
    all this is done on codes. A residual sum belongs to the last layer among its branches.
    """
    roots = {use.node: layer.name for layer in layers for use in layer.uses}
    places = {node: place for place, node in enumerate(graph.nodes())}
    readers: dict[Node, dict[str, None]] = {}
    for layer in layers:
        for use in layer.uses:
            if use.kind != EMBEDDING:
                readers.setdefault(use.input, {})[layer.name] = None
    found: list[Border] = []
    continued: set[Node] = set()
    for value in sorted(readers, key=places.__getitem__):
        before = sorted(_before(value, roots), key=places.__getitem__)
        continued.update(before)
        found.append(Border(value, roots[before[-1]] if before else "", tuple(readers[value])))
    ends = sorted((root for root in roots if root in places and root not in continued), key=places.__getitem__)
    return (*found, *(Border(behind_activation(graph, root), roots[root], ()) for root in ends))


def _before(value: Node, roots: Mapping[Node, str]) -> list[Node]:
    """The layers' nodes that a value comes from, through at most one sum."""
    node = _origin(value, roots)
    if node.op.name != ADD:
        return [node] if node in roots else []
    sides = (node.argument("self"), node.argument("other"))
    found = (_origin(side, roots) for side in sides if isinstance(side, Node))
    return [side for side in found if side in roots]


def _origin(node: Node, roots: Mapping[Node, str]) -> Node:
    """The first node behind which something is computed."""
    while node not in roots and len(node.inputs) == 1 and _keeps_codes(node):
        node = node.inputs[0]
    return node


def _keeps_codes(node: Node) -> bool:
    return node.op.name in ABSORBED or (node.op.facts.moves and not node.op.facts.gathers)
