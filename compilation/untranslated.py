"""Operators that a target cannot run are found before any work, with the user's lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import sympy
import torch
from torch import Tensor

from ..config import Pipeline
from ..ir.context import Context
from ..ir.errors import LoweringError, PassError
from ..ir.evaluate import bind_dims, evaluate
from ..ir.expressions import evaluate_expression
from ..ir.graph import Graph, Node
from ..ir.plan import Plan
from ..ir.types import SMALL_INTEGERS, TensorType
from ..targets.base import Target
from ..targets.compare import FLOAT_BOUND, relative_error
from .cleaning import Cleaned

SHOWN = 8


def runnable(cleaned: Cleaned) -> Cleaned:
    """The model, if its target can run all of its operators.

    Raises:
        LoweringError: names the operators and the lines that call them.
    """
    request = cleaned.request
    sizes = bind_dims(cleaned.graph, request.example)
    with request.stages.time("operators"):
        refused = refused_nodes(request.target, cleaned.graph, sizes)
    if refused:
        lines = list(dict.fromkeys(f"  {operator_words(node)} in {node.origin}" for node in refused))
        more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise LoweringError(
            f"{request.target.name}: expected operators that it can run; found\n"
            + "\n".join([*lines[:SHOWN], *more])
            + f"\n  {_advice(refused, request.pipeline)}, or use target='torch'"
        )
    return cleaned


def refused_nodes(target: Target, graph: Graph, sizes: Mapping[str, int]) -> list[Node]:
    """The nodes that a target cannot run.

    What the target doubts is built alone, one operator of each name, so that nothing is refused that could be built.
    Operators on complex numbers are also run: a runtime without such numbers takes pairs of real ones, and an operator
    that counts axes from the end would take the pair for an axis. So are those on small integers, for which runtimes
    lack kernels.

    Args:
        target: that is asked.
        graph: after the exact passes.
        sizes: of the dynamic dimensions.
    """
    doubted: dict[str, list[Node]] = {}
    for node in target.unsupported(graph, sizes):
        doubted.setdefault(_alike(node), []).append(node)
    refused = (nodes for nodes in doubted.values() if not _runs_alone(target, nodes[0], sizes))
    return [node for nodes in refused for node in nodes]


def is_complex(node: Node) -> bool:
    """Whether a node reads or gives complex numbers."""
    return any(kind.dtype.is_complex for n in (node, *node.inputs) for kind in _types(n))


def _uncommon(node: Node) -> str:
    """The first small integer dtype among what a node reads and gives, ``int8``; empty for none."""
    dtypes = [kind.dtype for n in (*node.inputs, node) for kind in _types(n)]
    return next((str(d).removeprefix("torch.") for d in dtypes if d in SMALL_INTEGERS), "")


def _types(node: Node) -> tuple[TensorType, ...]:
    return node.type if isinstance(node.type, tuple) else (node.type,)


def _alike(node: Node) -> str:
    """Equal for nodes that stand for each other: of one operator and dtypes, and with complex numbers of one call."""
    if not is_complex(node):
        return f"{node.op.short_name} {[str(kind.dtype) for n in (*node.inputs, node) for kind in _types(n)]}"
    given = [(name, value.type if isinstance(value, Node) else value) for name, value in node.arguments]
    return f"{node.op.short_name} {given}"


def operator_words(node: Node) -> str:
    """The operator, and what it is refused on, ``aten.matmul on int8``."""
    on = "complex numbers" if is_complex(node) else _uncommon(node)
    return f"{node.op.short_name}{' on ' * bool(on)}{on}"


def _advice(refused: Sequence[Node], pipeline: Pipeline) -> str:
    if all(map(is_complex, refused)):
        return "compute with real and imaginary parts (torch.view_as_real gives both in a last axis)"
    if all(map(_uncommon, refused)):
        return "compute them in another dtype (x.int() or x.float() before)"
    runtime = getattr(pipeline.target_options, "runtime", None)
    newer = f", raise target_options.runtime ({runtime})" if runtime else ""
    return f"compute them outside the model, spell them with other operators{newer}"


def _runs_alone(target: Target, node: Node, sizes: Mapping[str, int]) -> bool:
    graph, numbers = _alone(node, sizes), is_complex(node)
    examples = _examples(graph, values=numbers)
    try:
        artifact = target.build(graph, Plan((), graph.fingerprint(), target.name), [examples])
        if numbers:
            return _agrees(graph, examples, artifact.run(examples))
        if _uncommon(node):
            artifact.run(examples)
    except (LoweringError, PassError):
        return False
    return True


def _agrees(graph: Graph, examples: Sequence[Tensor], found: Sequence[Any]) -> bool:
    with torch.no_grad():
        return relative_error(evaluate(graph, examples), found) <= FLOAT_BOUND


def _examples(graph: Graph, *, values: bool) -> list[Tensor]:
    """Zeros, which every operator takes, or numbers that tell real from imaginary parts."""
    given = torch.Generator().manual_seed(0)
    kinds = [node.tensor_type for node in graph.inputs]
    return [
        torch.randn(kind.sizes(), dtype=kind.dtype, generator=given)
        if values and (kind.dtype.is_floating_point or kind.dtype.is_complex)
        else torch.zeros(kind.sizes(), dtype=kind.dtype)
        for kind in kinds
    ]


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
    arguments = tuple((name, _at(value, made, sizes)) for name, value in node.arguments)
    built = context.node_of(node.op, arguments, origin=node.origin)
    result = context.item(built, 0) if isinstance(built.type, tuple) else built
    return context.graph([n for n in made.values() if not n.is_constant], [result])


def _at(value: Any, made: Mapping[Node, Node], sizes: Mapping[str, int]) -> Any:
    """An argument with other nodes, at these sizes."""
    if isinstance(value, Node):
        return made[value]
    if isinstance(value, tuple):
        return tuple(_at(part, made, sizes) for part in cast("tuple[Any, ...]", value))
    return evaluate_expression(value, sizes) if isinstance(value, sympy.Expr) else value
