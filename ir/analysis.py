"""What a graph costs: operations, bytes moved, bytes alive, parameter bytes; and a networkx view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from .errors import ConfigError
from .facts import Shape
from .graph import Graph, Node, topological
from .op import CONSTANT, GETITEM, INPUT
from .text import node_names, used_symbols
from .types import TensorType

if TYPE_CHECKING:
    import networkx as nx

Sizes = Mapping[str, int]


# ------------------------------------------------------------------------------------------------ operations
def flops(graph: Graph, sizes: Sizes | None = None) -> dict[Node, int]:
    """Floating point operations of every node; a multiply-add counts as two.

    Matrix products, convolutions, einsum and attention are exact (biases and softmax left out, as in
    ``torch.utils.flop_counter``). Views, copies, gathers and constants are 0. Everything else is one operation per
    element of its largest operand or result.

    Args:
        graph: the graph.
        sizes: a value for every named dimension of the graph.

    Raises:
        ConfigError: a named dimension has no value.
    """
    values = _checked(graph, sizes)
    return {node: node_flops(node, values) for node in graph.nodes()}


def flops_of(result: Node, source: Node, sizes: Sizes | None = None) -> int:
    """Floating point operations from ``source`` to ``result``: what is computed of constants alone is left out."""
    return sum(node_flops(node, sizes or {}) for node in _dependent(result, source))


def bit_operations(result: Node, source: Node, sizes: Sizes | None = None) -> int:
    """Bit operations of the products between: bits of one operand x bits of the other x multiply-adds.

    As in HAWQ-V3 (arXiv 2011.10680, section 3.4). An operand has the bits that it was rounded to or is stored in; a sum
    of stored weights has those of all, because each is multiplied.
    """
    products = [node for node in _dependent(result, source) if node.op.facts.flops is not None]
    return sum(node_flops(n, sizes or {}) // 2 * math.prod(operand_bits(v) for v in n.inputs[:2]) for n in products)


def _dependent(result: Node, source: Node) -> list[Node]:
    found: dict[Node, None] = {source: None}
    for node in topological((source,), (result,)):
        if any(i in found for i in node.inputs):
            found[node] = None
    return list(found)[1:]


_KEEP_BITS = frozenset(f"aten.{name}" for name in ("permute", "transpose", "reshape", "view", "unsqueeze", "expand"))


def operand_bits(value: Node) -> int:
    """Bits of the numbers that a value was rounded to or is stored in; see :func:`bit_operations`."""
    name = value.op.packet
    if "bits" in value.op.parameters:
        return int(value.argument("bits"))
    if name == "aten.add":
        return sum(operand_bits(v) for v in value.inputs)
    if name in _KEEP_BITS:
        return operand_bits(value.inputs[0])
    if name == "aten._to_copy":
        source = value.inputs[0]
        return 8 * source.tensor_type.dtype.itemsize if not source.inputs else operand_bits(source)
    return 32


def node_flops(node: Node, sizes: Sizes) -> int:
    """Floating point operations of one node; see :func:`flops`."""
    facts = node.op.facts
    if node.op in (INPUT, CONSTANT, GETITEM) or facts.moves or _is_view(node):
        return 0
    shapes = _argument_shapes(node, sizes)
    results = [_shape(t, sizes) for t in _types(node)]
    if facts.flops is not None:
        return facts.flops(shapes, dict(node.arguments), results[0])
    return max(math.prod(shape) for shape in (*shapes.values(), *results))


def _argument_shapes(node: Node, sizes: Sizes) -> dict[str, Shape]:
    """Parameter -> shape of the tensor; ``name.0``, ``name.1``, ... for a list of tensors."""
    shapes: dict[str, Shape] = {}
    for name, value in node.arguments:
        parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
        for index, part in enumerate(parts):
            if isinstance(part, Node) and not isinstance(part.type, tuple):
                shapes[f"{name}.{index}" if isinstance(value, tuple) else name] = _shape(part.type, sizes)
    return shapes


# ------------------------------------------------------------------------------------------------ bytes
def bytes_moved(graph: Graph, sizes: Sizes | None = None) -> dict[Node, int]:
    """Bytes that every node reads and writes: its distinct operands and its results, each once.

    Inputs, constants, projections and views move nothing. An embedding or gather reads its indices and as much of the
    table as it returns.

    Raises:
        ConfigError: a named dimension has no value.
    """
    values = _checked(graph, sizes)
    return {node: _node_bytes(node, values) for node in graph.nodes()}


def _node_bytes(node: Node, sizes: Sizes) -> int:
    if node.op in (INPUT, CONSTANT, GETITEM) or _is_view(node):
        return 0
    written = sum(t.nbytes(sizes) for t in _types(node))
    sources = list(dict.fromkeys(node.inputs))
    if node.op.facts.gathers:
        table = cast(Node, node.arguments[0][1])
        return 2 * written + sum(t.nbytes(sizes) for s in sources if s is not table for t in _types(s))
    return written + sum(t.nbytes(sizes) for s in sources for t in _types(s))


def parameter_bytes(graph: Graph) -> int:
    """Bytes of all constants as they are stored; one that several nodes share counts once."""
    return sum(node.handle.nbytes for node in graph.constants())


@dataclass(frozen=True)
class Interval:
    """A buffer of ``size_bytes`` that exists during the steps ``start_step <= step < end_step``."""

    start_step: int
    end_step: int
    size_bytes: int


@dataclass(frozen=True)
class Liveness:
    """When every buffer is alive, if nodes run one after the other in the order of ``graph.nodes()``.

    Attributes:
        intervals: per node that owns memory; a step is a position in ``graph.nodes()``.
        peak_bytes: the most bytes alive during one step, constants left out.
        peak_step: the first step with that many.
    """

    intervals: Mapping[Node, Interval]
    peak_bytes: int
    peak_step: int


def liveness(graph: Graph, sizes: Sizes | None = None) -> Liveness:
    """Lifetimes of inputs and intermediate values.

    Views and projections share the buffer of what they look at and keep it alive; ``reshape`` and the like, which
    may copy, count as buffers of their own. Inputs are alive from step 0, outputs to the end. Constants are not
    counted.

    Raises:
        ConfigError: a named dimension has no value.
    """
    values, nodes = _checked(graph, sizes), graph.nodes()
    owner: dict[Node, Node] = {}
    end: dict[Node, int] = {}
    for step, node in enumerate(nodes):
        shares = node.op is GETITEM or (_is_view(node) and not node.op.facts.may_copy)
        owner[node] = owner[node.inputs[0]] if shares and node.inputs else node
        for used in (node, *node.inputs):
            end[owner[used]] = step + 1
    end |= {owner[node]: len(nodes) for node in graph.output_nodes}
    intervals = {
        node: Interval(0 if node.op is INPUT else step, end[node], sum(t.nbytes(values) for t in _types(node)))
        for step, node in enumerate(nodes)
        if owner[node] is node and node.op is not CONSTANT
    }
    return Liveness(intervals, *_peak(intervals, len(nodes)))


def _peak(intervals: Mapping[Node, Interval], steps: int) -> tuple[int, int]:
    change = [0] * (steps + 1)
    for interval in intervals.values():
        change[interval.start_step] += interval.size_bytes
        change[interval.end_step] -= interval.size_bytes
    alive, peak, peak_step = 0, 0, 0
    for step in range(steps):
        alive += change[step]
        if alive > peak:
            peak, peak_step = alive, step
    return peak, peak_step


# ------------------------------------------------------------------------------------------------ view
def to_networkx(graph: Graph) -> nx.DiGraph[Any]:
    """A directed graph whose vertices are the nodes, with attributes ``op``, ``type`` and ``name`` (as in the text).

    An edge goes from a value to each node that takes it.
    """
    import networkx as nx

    names = node_names(graph)
    view: nx.DiGraph[Any] = nx.DiGraph()
    for node in graph.nodes():
        view.add_node(node, op=node.op.short_name, type=node.type, name=names[node])
        view.add_edges_from((source, node) for source in node.inputs)
    return view


# ------------------------------------------------------------------------------------------------ shared
def _is_view(node: Node) -> bool:
    return node.op.overload is not None and bool(node.op.overload.is_view)


def _types(node: Node) -> tuple[TensorType, ...]:
    return node.type if isinstance(node.type, tuple) else (node.type,)


def _shape(type: TensorType, sizes: Sizes) -> Shape:
    return type.sizes(sizes)


def _checked(graph: Graph, sizes: Sizes | None) -> Sizes:
    missing = [name for name in sorted(used_symbols(graph)) if name not in (sizes or {})]
    if missing:
        example = ", ".join(f"{name!r}: 1" for name in missing)
        raise ConfigError(f"sizes: expected a value for {', '.join(missing)}; found none; pass {{{example}}}")
    return sizes or {}
