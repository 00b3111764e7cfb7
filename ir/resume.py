"""Runs of one graph on one sample in which few values are replaced: each begins at the first of them.

What lives across a place of the graph, so the values before it that it or what follows reads, is computed once and
kept; constants are not counted, they are there anyway. Places that are asked for in the order of the graph cost one run
together, and within a bound of bytes all of them stay for the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from typing import Any

import torch

from .evaluate import bind_dims, evaluate_node, last_uses
from .graph import Graph, Node
from .op import CONSTANT, INPUT

KEPT_NBYTES = 64 * 10**6
"""Bytes of values that are kept for all places together."""

Hook = Callable[[Node, Any, Mapping[Node, Any]], Any]
"""What the value of a node is replaced by, given it and the values before that are still alive."""


class Resumed:
    """Evaluates a graph on the same inputs again and again.

    Args:
        graph: the graph.
        inputs: one tensor per graph input.
        kept_nbytes: bytes of intermediate values that may be kept between runs; with none every run is a whole one.

    Raises:
        PassError: as :func:`~instar.ir.evaluate.evaluate`, here and in every run.
    """

    def __init__(self, graph: Graph, inputs: Sequence[torch.Tensor], kept_nbytes: int = KEPT_NBYTES) -> None:
        self._graph, self._sizes = graph, bind_dims(graph, inputs)
        self._nodes, self._dead = graph.nodes(), last_uses(graph)
        self._room = kept_nbytes
        self._places: dict[int, dict[Node, Any]] = {0: dict(zip(graph.inputs, inputs, strict=True))}
        self._lock = Lock()

    def __call__(self, changed: Collection[Node], hook: Hook) -> list[Any]:
        """The flat outputs where ``hook`` replaces values of ``changed`` and of no other node.

        Args:
            changed: nodes that are no inputs, such as constants that hold weights.
            hook: called with these nodes and their values.
        """
        first = self._first(changed)
        values = self._before(first)
        self._advance(values, first, len(self._nodes), changed, hook)
        self._load(values, self._graph.output_nodes, changed, hook)
        return [values[o] if isinstance(o, Node) else o for o in self._graph.outputs]

    def _first(self, changed: Collection[Node]) -> int:
        """The place of the first node that computes something else, if only because it reads another constant."""
        for place, node in enumerate(self._nodes):
            if node.op is not CONSTANT and (node in changed or any(source in changed for source in node.inputs)):
                return place
        return len(self._nodes)

    def _before(self, place: int) -> dict[Node, Any]:
        """What lives across a place, without constants: a copy of the table, of the same tensors."""
        with self._lock:
            start = max(p for p in self._places if p <= place)
            values = dict(self._places[start])
            if start < place:
                self._advance(values, start, place, (), _as_it_is)
                values = {node: value for node, value in values.items() if node.op is not CONSTANT}
                self._keep(place, values)
        return dict(values)

    def _keep(self, place: int, values: dict[Node, Any]) -> None:
        """Keep a place where there is room; where there is not, those before it make room, and those behind stay."""
        needed = _nbytes(values)
        for other in sorted(p for p in self._places if 0 < p < place):
            if needed <= self._room:
                break
            self._room += _nbytes(self._places.pop(other))
        if needed <= self._room:
            self._room -= needed
            self._places[place] = dict(values)

    def _advance(self, values: dict[Node, Any], start: int, end: int, changed: Collection[Node], hook: Hook) -> None:
        for place in range(start, end):
            node = self._nodes[place]
            if node.op is not INPUT and node.op is not CONSTANT:
                self._load(values, node.inputs, changed, hook)
                value = evaluate_node(node, values, self._sizes)
                values[node] = hook(node, value, values) if node in changed else value
            for gone in self._dead.get(place, ()):
                values.pop(gone, None)

    def _load(self, values: dict[Node, Any], sources: Sequence[Node], changed: Collection[Node], hook: Hook) -> None:
        """Constants are read where they are first needed: their own place may have been passed."""
        for source in sources:
            if source.op is CONSTANT and source not in values:
                loaded = source.handle.tensor
                values[source] = hook(source, loaded, values) if source in changed else loaded


def _as_it_is(node: Node, value: object, values: Mapping[Node, object]) -> object:
    del node, values
    return value


def _nbytes(values: Mapping[Node, object]) -> int:
    """Of distinct memory: a view takes none of its own."""
    found: dict[int, int] = {}
    for value in values.values():
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())
