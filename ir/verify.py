"""The verifier: re-infers every type and reports all errors at once, each with its line of the graph's text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import VerifyError
from .graph import Graph, Node, NodeType, type_text
from .op import CONSTANT, GETITEM, INPUT, Op
from .text import call_text, node_names
from .types import free_symbols

Inference = Callable[[Op, tuple[tuple[str, Any], ...]], NodeType]


def verify(graph: Graph) -> None:
    """Check a graph.

    Raises:
        VerifyError: lists every node whose type differs from what its op gives, every use of an undeclared dimension,
            every input that is used but not listed, and duplicate names.
    """
    errors = list_errors(graph)
    if errors:
        raise VerifyError(f"{len(errors)} error(s) in the graph:\n" + "\n".join(errors))


def list_errors(graph: Graph) -> list[str]:
    """What :func:`verify` complains about, one line per error; empty for a well-formed graph."""
    names = node_names(graph)
    infer = graph.context.infer
    errors: list[str] = []
    listed = set(graph.inputs)
    for node in graph.nodes():
        where = f"  {names[node]} ({node.origin})"
        errors += [f"{where}: dimension {s!r} is not declared" for s in sorted(_undeclared(graph, node))]
        if node.op is INPUT and node not in listed:
            errors.append(f"{where}: used but not among the graph's inputs")
        elif node.op not in (INPUT, CONSTANT):
            errors += _type_errors(node, names, infer, where)
    return errors + _duplicates(graph)


def _undeclared(graph: Graph, node: Node) -> set[str]:
    types = node.type if isinstance(node.type, tuple) else (node.type,)
    return {s for t in types for d in t.shape for s in free_symbols(d)} - set(graph.dims)


def _type_errors(node: Node, names: dict[Node, str], infer: Inference, where: str) -> list[str]:
    if node.op is GETITEM and not isinstance(node.argument("value").type, tuple):
        return [f"{where}: getitem of a node with one result"]
    try:
        expected = infer(node.op, node.arguments)
    except VerifyError as error:
        return [f"{where}: {call_text(node, names)}: {error}"]
    if expected != node.type:
        return [f"{where}: {call_text(node, names)}: expected {type_text(expected)}; found {type_text(node.type)}"]
    return []


def _duplicates(graph: Graph) -> list[str]:
    seen: dict[str, Node] = {}
    errors: list[str] = []
    for node in (*graph.inputs, *graph.constants()):
        name = repr(node)
        if name in seen and seen[name] is not node:
            errors.append(f"  {name}: two different values have this name")
        seen[name] = node
    return errors
