"""Which nodes an accelerator computes as one operator: a product, pooling or norm with the simple ops around it.

A value is *stored* where it lies in memory between operators. Dequantization of codes and views are never stored:
whoever reads the value computes them again. A chain of ops that work element by element on one value ends the operator
that makes the value, as an accelerator's output stage does, as long as nobody else reads what is in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...ir.errors import LoweringError
from ...ir.graph import Graph, Node
from ...ir.op import CONSTANT, GETITEM, INPUT
from ...passes.static_codes import BACK, QUANTIZE
from .host import host_nodes
from .layouts import images, is_simple

VIEWS = frozenset({"aten.reshape.default", "aten.view.default", "aten.unsqueeze.default", "aten.squeeze.dims"})
"""Ops whose result is their operand's elements in the same order."""


MOVES = frozenset({"aten.permute.default", "aten.transpose.int", "aten.flip.default"})
"""Ops that change the order of elements and need all rows; views and rounding behind them cost nothing."""


@dataclass(frozen=True)
class Fused:
    """One operator.

    Attributes:
        result: the value that it stores.
        anchor: the node that decides which rows of its operands it needs.
        nodes: all that it computes from stored values, in order; ``result`` is the last.
        inputs: stored values that it reads, in the order in which its nodes read them.
        weights: nodes that depend on constants alone, in order; constants are among them.
    """

    result: Node
    anchor: Node
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    weights: tuple[Node, ...]

    @property
    def constants(self) -> tuple[Node, ...]:
        """What lies in memory of its weights."""
        return tuple(node for node in self.weights if node.op is CONSTANT)


@dataclass(frozen=True)
class Host:
    """What is computed outside the accelerator: values that it is given, and outputs from what it stores.

    Attributes:
        given: stored values that come from outside: inputs of the graph, or codes of them.
        before: nodes from inputs to what is given, in order.
        after: nodes from stored values to outputs, in order.
    """

    given: tuple[Node, ...]
    before: tuple[Node, ...]
    after: tuple[Node, ...]


@dataclass(frozen=True)
class FusedGraph:
    """A graph as operators between stored values."""

    graph: Graph
    operators: tuple[Fused, ...]
    host: Host
    delivered: tuple[Node, ...]
    """Stored values that outputs are made of."""


def fuse(graph: Graph) -> FusedGraph:
    """Operators of a graph, in an order that can be executed.

    Raises:
        LoweringError: a dimension is dynamic, or a value has several results; names the user's line.
    """
    return _Fusion(graph).run()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users = graph.users()
        self.images = images(graph)
        self.live: set[Node] = set(graph.inputs)
        for node in graph.nodes():
            if any(source in self.live for source in node.inputs):
                self.live.add(node)
        self.group: dict[Node, list[Node]] = {}
        self.anchor: dict[Node, Node] = {}
        self.outputs = set(graph.output_nodes)

    def run(self) -> FusedGraph:
        order = [node for node in self.graph.nodes() if node in self.live]
        for node in order:
            _check(node)
        given, before = self._given()
        after, delivered = self._after()
        outside = {*before, *after}
        for node in order:
            if node.op is not INPUT and node not in outside and not self._again(node):
                self._join(node, given)
        stored = {*given, *delivered}
        ends = [chain[-1] for chain in {id(c): c for c in self.group.values()}.values()]
        place = {node: position for position, node in enumerate(order)}
        operators = [self._operator(end, {*stored, *ends}) for end in sorted(ends, key=place.__getitem__)]
        return FusedGraph(self.graph, tuple(operators), Host(given, before, after), delivered)

    # ------------------------------------------------------------------------------------------ host
    def _given(self) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        """Inputs, or their codes where every reader rounds them the same way; rows that tables are looked up for."""
        before: list[Node] = [*self.graph.inputs, *host_nodes(self.graph, self.live)]
        known, given = set(before), list[Node]()
        for source in tuple(before):
            readers = [reader for reader in self.users[source] if reader not in known]
            if (
                len(self.users[source]) == 1
                and readers
                and readers[0].op.name == QUANTIZE
                and source not in self.outputs
            ):
                before.append(readers[0])
                given.append(readers[0])
            elif readers or source in self.outputs:
                given.append(source)
        return tuple(given), tuple(before)

    def _after(self) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        """Dequantization that only an output wants."""
        after: list[Node] = []
        delivered: dict[Node, None] = {}
        for output in self.graph.output_nodes:
            if output not in self.live:
                continue
            node = output
            behind: list[Node] = []
            while self._again(node):
                behind.insert(0, node)
                node = node.inputs[0]
            after += behind
            delivered[node] = None
        return tuple(dict.fromkeys(after)), tuple(delivered)

    # ------------------------------------------------------------------------------------------ groups
    def _again(self, node: Node) -> bool:
        """Whether every reader computes it for itself: values of codes, and views of what is stored as torch has it."""
        plain = node not in self.images and not any(source in self.images for source in node.inputs)
        return node.op.name == BACK or (node.op.name in VIEWS and plain)

    def _root(self, node: Node) -> Node:
        """The value behind what is computed again."""
        while self._again(node):
            node = node.inputs[0]
        return node

    def _roots(self, node: Node) -> list[Node]:
        return list(dict.fromkeys(self._root(source) for source in node.inputs if source in self.live))

    def _readers(self, node: Node) -> list[Node]:
        """Who reads it, directly or computed again."""
        found: dict[Node, None] = {}
        pending = list(self.users[node])
        while pending:
            user = pending.pop()
            if self._again(user):
                pending += self.users[user]
            else:
                found[user] = None
        return list(found)

    def _leaves(self, node: Node) -> bool:
        """Whether an output is this value, or it computed again."""
        pending = [node]
        while pending:
            found = pending.pop()
            if found in self.outputs:
                return True
            pending += [user for user in self.users[found] if self._again(user)]
        return False

    def _join(self, node: Node, given: Iterable[Node]) -> None:
        roots = self._roots(node)
        open_chain = self.group.get(roots[0]) if len(roots) == 1 else None
        if open_chain is not None and roots[0] not in given and self._continues(node, roots[0], open_chain):
            open_chain.append(node)
            self.group[node] = open_chain
            self.anchor[node] = self.anchor[roots[0]]
        else:
            self.group[node] = [node]
            self.anchor[node] = node

    def _continues(self, node: Node, root: Node, chain: list[Node]) -> bool:
        if chain[-1] is not root or self._leaves(root) or self._readers(root) != [node]:
            return False
        if node.op is GETITEM:
            return True
        if node.op.name in VIEWS:
            return _one_row(root) and _one_row(node)
        alike = node.tensor_type.shape == root.tensor_type.shape or self.anchor[root].op.name in MOVES
        same = is_simple(node) and alike and len(self._roots(node)) == 1
        return same and not (root.op.name in VIEWS and not _one_row(root))

    def _operator(self, result: Node, stored: set[Node]) -> Fused:
        """All that leads from stored values to the result."""
        needed: dict[Node, None] = {}
        pending = [result]
        inputs: dict[Node, None] = {}
        while pending:
            node = pending.pop()
            if node in needed:
                continue
            needed[node] = None
            for source in node.inputs:
                if source in stored and source is not result and source in self.live:
                    inputs[source] = None
                else:
                    pending.append(source)
        order = [node for node in self.graph.nodes() if node in needed]
        nodes = tuple(node for node in order if node in self.live)
        weights = tuple(node for node in order if node not in self.live)
        ordered = tuple(dict.fromkeys(s for node in nodes for s in _operands(node) if s in inputs))
        return Fused(result, self.anchor[result], nodes, ordered, weights)


def _operands(node: Node) -> Iterator[Node]:
    yield from node.inputs


def _one_row(node: Node) -> bool:
    """Whether only one axis is longer than one."""
    return not isinstance(node.type, tuple) and sum(size != 1 for size in node.tensor_type.shape) <= 1


def _check(node: Node) -> None:
    types = node.type if isinstance(node.type, tuple) else (node.type,)
    if isinstance(node.type, tuple) and node.op.name not in RESULTS:
        raise LoweringError(
            f"scratchpad: expected operators with one result, found {node.op.short_name} ({node.origin}); "
            f"compute it outside the model"
        )
    for found in types:
        if not found.is_static:
            raise LoweringError(
                f"scratchpad: expected fixed sizes, found {found} at {node.op.short_name} ({node.origin}); "
                f"compile without dynamic_shapes"
            )


RESULTS = frozenset({"aten.max_pool2d_with_indices.default", "aten.native_layer_norm.default"})
"""Ops with several results of which only the first is read, usually."""


def stored_values(fused: FusedGraph) -> Mapping[Node, int]:
    """Every stored value -> its position: those given first, then what operators make, in order."""
    made = (operator.result for operator in fused.operators)
    return {node: place for place, node in enumerate((*fused.host.given, *made))}
