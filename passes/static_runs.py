"""Where runs of layers between integers begin, end and meet sums: the values between layers, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.graph import Graph, Node
from ..ir.layers import EMBEDDING, Layer
from .static_values import ABSORBED, ADD, behind_activation


@dataclass(frozen=True)
class Border:
    """A value that is converted where only one of its sides computes with integers.

    Attributes:
        name: unlike that of any layer.
        origin: what computes it; behind that are activations that requantization absorbs, and what only moves numbers.
        stored: the value in the shape that a layer makes or reads.
        source: the layer or sum that makes it; empty where nothing does that could make codes.
        readers: layers and sums that read it.
        floats: whether something else reads it.
    """

    name: str
    origin: Node
    stored: Node
    source: str
    readers: tuple[str, ...]
    floats: bool


@dataclass(frozen=True)
class Total:
    """A sum beside the layers.

    Attributes:
        name: of the sum.
        stored: the sum.
        parts: origins of the values among its two sides.
        exact: whether it can be one of codes: both sides are what a layer makes or reads, or such a sum.
    """

    name: str
    stored: Node
    parts: tuple[Node, ...]
    exact: bool


@dataclass(frozen=True)
class Borders:
    """All of a graph, in its order."""

    values: tuple[Border, ...]
    totals: tuple[Total, ...]


def borders(graph: Graph, layers: Sequence[Layer]) -> Borders:
    """The values on both sides of the given layers, which are all that may compute between integers.

    Which sums are of codes, and which values are rounded, is what :func:`~.static_values.static_values` says.
    """
    found = _Borders(graph, layers)
    values = tuple(found.border(origin) for origin in found.ordered(found.origins))
    return Borders(values, tuple(found.totals.values()))


class _Borders:
    """What is asked of a graph again and again."""

    def __init__(self, graph: Graph, layers: Sequence[Layer]) -> None:
        uses = [(use, layer.name) for layer in layers for use in layer.uses]
        self.roots = {use.node: name for use, name in uses}
        self.read: dict[Node, dict[str, None]] = {}
        for use, name in uses:
            if use.kind != EMBEDDING:
                self.read.setdefault(use.input, {})[name] = None
        self.places = {node: place for place, node in enumerate(graph.nodes())}
        self.users, self.outputs = graph.users(), {*graph.output_nodes}
        self.stored = {node: self.origin(node) for node in self.read}
        self.stored |= {behind_activation(graph, node): node for node in self.roots}
        self.totals: dict[Node, Total] = {}
        for node in graph.nodes():
            if node.op.name == ADD:
                self._add_total(graph, node)
        self.origins = {*self.stored.values()}

    def ordered(self, nodes: set[Node]) -> list[Node]:
        """In the order of the graph."""
        return sorted(nodes, key=self.places.__getitem__)

    def origin(self, node: Node) -> Node:
        """The first node behind which something is computed."""
        while node not in self.roots and len(node.inputs) == 1 and _keeps_codes(node):
            node = node.inputs[0]
        return node

    def _add_total(self, graph: Graph, node: Node) -> None:
        sides = [side for side in (node.argument("self"), node.argument("other")) if isinstance(side, Node)]
        parts = tuple(dict.fromkeys(self.stored[side] for side in sides if side in self.stored))
        alike = len(sides) == 2 and sides[0].tensor_type == sides[1].tensor_type
        exact = alike and all(side in self.stored for side in sides) and node.argument("alpha", 1) == 1
        if parts:
            self.totals[node] = Total(f"<sum {self.places[node]}>", node, parts, exact)
            if exact:
                self.stored[behind_activation(graph, node)] = node

    def border(self, origin: Node) -> Border:
        """A value with its source and its readers."""
        readers: dict[str, None] = {}
        floats, pending, stored = False, [origin], origin
        while pending:
            node = pending.pop()
            floats |= node in self.outputs
            readers |= self.read.get(node, {})
            if stored is origin and node in self.read and origin not in self.roots:
                stored = node
            for user in self.users[node]:
                if user in self.totals:
                    readers[self.totals[user].name] = None
                elif _keeps_codes(user) and len(user.inputs) == 1:
                    pending.append(user)
                elif self.roots.get(user) not in self.read.get(node, {}):
                    floats = True
        total = self.totals.get(origin)
        source = self.roots.get(origin, "" if total is None or not total.exact else total.name)
        name = f"<value {self.places[origin]}>"
        return Border(name, origin, stored if total is None else origin, source, tuple(readers), floats)


def _keeps_codes(node: Node) -> bool:
    return node.op.name in ABSORBED or (node.op.facts.moves and not node.op.facts.gathers)
