"""Operators that a target cannot run are refused before any work, with the user's lines."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..ir.context import Context
from ..ir.errors import LoweringError
from ..ir.evaluate import bind_dims
from ..ir.graph import Graph, Node
from ..ir.plan import Plan
from ..ir.types import TensorType
from ..targets.base import Target
from .cleaning import Cleaned

SHOWN = 8


def runnable(cleaned: Cleaned) -> Cleaned:
    """The model, if its target can run all of its operators.

    What the target doubts is built alone, one operator of each name, so that nothing is refused that could be built.

    Raises:
        LoweringError: names the operators and the lines that call them.
    """
    request = cleaned.request
    sizes = bind_dims(cleaned.graph, request.example)
    with request.stages.time("operators"):
        doubted: dict[str, list[Node]] = {}
        for node in request.target.unsupported(cleaned.graph, sizes):
            doubted.setdefault(node.op.short_name, []).append(node)
        refused = [nodes for nodes in doubted.values() if not _builds(request.target, nodes[0], sizes)]
    if refused:
        lines = [f"  {node.op.short_name} in {node.origin}" for nodes in refused for node in nodes]
        more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise LoweringError(
            f"{request.target.name}: expected operators that it can run; found\n"
            + "\n".join([*dict.fromkeys(lines[:SHOWN]), *more])
            + "\n  compute them outside the model, spell them with other operators, or use target='torch'"
        )
    return cleaned


def _builds(target: Target, node: Node, sizes: Mapping[str, int]) -> bool:
    graph = _alone(node, sizes)
    examples = [torch.zeros(n.tensor_type.sizes(), dtype=n.tensor_type.dtype) for n in graph.inputs]
    try:
        target.build(graph, Plan((), graph.fingerprint(), target.name), [examples])
    except LoweringError:
        return False
    return True


def _alone(node: Node, sizes: Mapping[str, int]) -> Graph:
    """The operator in a graph of its own, at these sizes."""
    context = Context()
    made: dict[Node, Node] = {}
    for number, source in enumerate(dict.fromkeys(node.inputs)):
        kind = source.tensor_type
        made[source] = (
            context.constant_of(source.handle)
            if source.is_constant
            else context.input(f"x{number}", TensorType(kind.dtype, kind.sizes(sizes)))
        )
    built = context.rebuild(node, made)
    result = context.item(built, 0) if isinstance(built.type, tuple) else built
    return context.graph([n for n in made.values() if not n.is_constant], [result])
