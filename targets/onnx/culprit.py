"""Which line of the user's a failing file owes its failure to: the runtime only names nodes of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...ir.errors import InstarError, LoweringError
from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node
from ...ir.op import CONSTANT, GETITEM, INPUT
from ...ir.plan import Plan
from ..compare import relative_error
from .dtypes import array_of, tensor_of
from .lower import lower
from .naming import interface_of
from .options import OnnxOptions
from .session import make_session, run


def located(problem: LoweringError, graph: Graph, fails: Callable[[Graph], bool]) -> LoweringError:
    """The problem, and the first operator without which it would not be.

    Graphs that end earlier are tried, by bisection: all of a graph's values up to one that nothing among them reads.

    Args:
        problem: what happened to the whole.
        graph: of which a file was made.
        fails: whether the file that is made of a graph has the problem.
    """
    try:
        culprit = _first_failing(graph, fails)
    except Exception as other:  # noqa: BLE001 - parts of a model can do what the model itself does not
        return LoweringError(
            f"{problem}\n  which operator this is true of was not found: {type(other).__name__}: {other}"
        )
    if culprit is None:
        return problem
    source = culprit.inputs[0] if culprit.op is GETITEM else culprit
    return LoweringError(
        f"{problem}\n  the first operator that this is true of: {source.op.short_name} in {_place(source)}"
    )


def _first_failing(graph: Graph, fails: Callable[[Graph], bool]) -> Node | None:
    values = [n for n in graph.nodes() if n.op not in (INPUT, CONSTANT) and not isinstance(n.type, tuple)]
    if not values or not fails(_until(graph, values)):
        return None
    works, broken = 0, len(values)
    while broken - works > 1:
        middle = (works + broken) // 2
        if fails(_until(graph, values[:middle])):
            broken = middle
        else:
            works = middle
    return values[broken - 1]


def _place(node: Node) -> str:
    """Where a node comes from; one that a pass made without saying so, where what it reads comes from."""
    pending = [node]
    for candidate in pending:
        if candidate.origin.module or candidate.origin.source:
            return str(candidate.origin)
        pending.extend(source for source in candidate.inputs if source not in pending)
    return str(node.origin)


def _until(graph: Graph, values: Sequence[Node]) -> Graph:
    """The graph with the last of these values as outputs."""
    read = {source for value in values for source in value.inputs}
    read |= {source for value in read for source in value.inputs if isinstance(value.type, tuple)}
    outputs = tuple(value for value in values if value not in read)
    return replace(graph.with_outputs(outputs), signature=None)


def file_fails(plan: Plan, examples: Sequence[Tensor], options: OnnxOptions, bound: float) -> Callable[[Graph], bool]:
    """Whether the file of a graph cannot be made, loaded or run, or gives other numbers than the graph."""

    def fails(graph: Graph) -> bool:
        try:
            lowered = lower(graph, plan, [examples], options)
            session = make_session(lowered.proto(), threads=options.threads)
            wanted = {entry.name for entry in session.get_inputs()}
            pairs = zip(interface_of(graph).inputs, examples, strict=True)
            found = run(session, {name: array_of(value) for name, value in pairs if name in wanted})
        except InstarError:
            return True
        with torch.no_grad():
            expected = evaluate(graph, examples)
        outputs = zip(found, graph.output_nodes, strict=True)
        return relative_error(expected, [tensor_of(v, n.tensor_type.dtype) for v, n in outputs]) > bound

    return fails
