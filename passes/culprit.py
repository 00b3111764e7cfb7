"""Which node broke the model: the first new value, upstream of a deviating output, that the old graph never had."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..ir.errors import PassError
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node
from ..ir.op import CONSTANT, INPUT
from ..ir.text import graph_text, node_names
from .check import Failure, Subject

_CONTEXT_LINES = 12
_TOLERANCE = 1e-6

Print = tuple[tuple[int, ...], float, float]
"""Shape, norm, and projection on a fixed direction: equal for equal values, and small enough to keep for every node."""


def find_culprit(before: Graph, after: Graph, failure: Failure) -> Node | None:
    """The first node, new in ``after`` and upstream of the output that deviates, whose value ``before`` never had.

    Nodes that both graphs share are trusted; so is a new node whose value equals one of the graph before. Of the others
    that the deviation can be traced back to, the first that depends on an input is named, or the first of all.
    """
    shared = set(before.nodes())
    known = _Known(_fingerprints(failure.before, before, failure.example, frozenset()))
    fresh = _fingerprints(failure.after, after, failure.example, shared)
    suspects = [n for n in _upstream(after, failure.output) if n not in shared]
    region = _reach(after, failure.output, {n for n in suspects if not known.has(fresh.get(n))})
    ordered = [n for n in after.nodes() if n in region] or suspects
    fed = _fed(after)
    return next((n for n in ordered if n in fed), ordered[0] if ordered else None)


def marked_text(graph: Graph, node: Node) -> str:
    """The lines of the graph's text around a node, with its own line marked."""
    name = node_names(graph).get(node, "")
    starts = (f"{name} = ", f"const {name}: ", f"input {name}: ")
    lines = graph_text(graph).splitlines()
    at = next((i for i, line in enumerate(lines) if line.startswith(starts)), 0)
    first, last = max(0, at - _CONTEXT_LINES), at + _CONTEXT_LINES + 1
    return "\n".join(f"{'>>> ' if first + i == at else '    '}{line}" for i, line in enumerate(lines[first:last]))


def _upstream(graph: Graph, output: int) -> list[Node]:
    """Ancestors of one output, itself among them, in topological order."""
    root = graph.outputs[output]
    return list(graph.with_inputs(()).with_outputs((root,)).nodes()) if isinstance(root, Node) else []


def _reach(graph: Graph, output: int, unknown: set[Node]) -> set[Node]:
    """The unknown nodes that are connected to the output through unknown nodes."""
    root = graph.outputs[output]
    found: set[Node] = set()
    pending = [root] if isinstance(root, Node) else []
    while pending:
        node = pending.pop()
        if node in unknown and node not in found:
            found.add(node)
            pending.extend(node.inputs)
    return found


def _fed(graph: Graph) -> set[Node]:
    """Nodes that depend on an input of the graph."""
    fed: set[Node] = set()
    for node in graph.nodes():
        if node.op is INPUT or any(i in fed for i in node.inputs):
            fed.add(node)
    return fed


def _fingerprints(
    subject: Subject, source: Graph, example: int, skip: set[Node] | frozenset[Node]
) -> dict[Node, Print]:
    """Fingerprints of the values of the original nodes that are not in ``skip``."""
    stands_for: Mapping[Node, Node] = subject.nodes or {n: n for n in source.nodes()}
    wanted: dict[Node, list[Node]] = {}
    for original in source.nodes():
        if original not in skip and original.op is not CONSTANT:
            wanted.setdefault(stands_for[original], []).append(original)
    prints: dict[Node, Print] = {}

    def observe(node: Node, value: Any) -> None:
        if node in wanted and isinstance(value, torch.Tensor):
            made = fingerprint(value)
            prints.update((original, made) for original in wanted[node])

    try:
        with torch.no_grad():
            evaluate(subject.graph, subject.inputs[example], observe)
    except PassError:
        return prints
    return prints


def fingerprint(value: torch.Tensor) -> Print:
    """Shape, norm and projection of a tensor; NaN counts as 0."""
    flat = torch.nan_to_num(value.detach().to(torch.float64).reshape(-1), posinf=0.0, neginf=0.0)
    direction = torch.cos(torch.arange(flat.numel(), dtype=torch.float64))
    return tuple(value.shape), float(flat.norm()), float(flat @ direction)


class _Known:
    """Fingerprints by shape, sorted by projection, to look up values up to rounding."""

    def __init__(self, prints: Mapping[Node, Print]) -> None:
        self._by_shape: dict[tuple[int, ...], list[tuple[float, float]]] = {}
        for shape, norm, projection in prints.values():
            self._by_shape.setdefault(shape, []).append((projection, norm))
        for entries in self._by_shape.values():
            entries.sort()

    def has(self, wanted: Print | None) -> bool:
        """Whether some value has this fingerprint."""
        if wanted is None:
            return False
        shape, norm, projection = wanted
        entries: Sequence[tuple[float, float]] = self._by_shape.get(shape, [])
        slack = _TOLERANCE * max(norm, 1e-30)
        at = bisect.bisect_left(entries, (projection - slack, -1.0))
        while at < len(entries) and entries[at][0] <= projection + slack:
            if abs(entries[at][1] - norm) <= slack:
                return True
            at += 1
        return False
