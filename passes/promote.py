"""The same graph in float64, so that exact passes can be held to rounding errors of 1e-16 instead of 1e-7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..ir.constants import ConstantHandle
from ..ir.context import Context
from ..ir.errors import PassError, VerifyError
from ..ir.graph import Graph, Node
from ..ir.op import CONSTANT, GETITEM, INPUT
from ..ir.types import TensorType

WIDE: dict[torch.dtype, torch.dtype] = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
"""What each narrow floating dtype becomes."""

_READS_BITS = ("aten.view.dtype",)


@dataclass(frozen=True)
class Promotion:
    """A graph in float64 and which of its nodes stands for which node of the original."""

    graph: Graph
    nodes: Mapping[Node, Node]


def promote(graph: Graph) -> Promotion:
    """The graph with every floating input, constant and dtype argument in float64 (complex64 becomes complex128).

    Results that an op gives in a narrower dtype all the same are cast up. Constants are converted when touched and not
    kept, so the memory of a second copy of the weights is never held.

    Raises:
        PassError: an op refuses float64; names the op and where it came from.
    """
    context = Context(graph.dims.values(), graph.context.inference)  # what it demands of dimensions, the other does too
    done: dict[Node, Node] = {}
    for node in graph.nodes():
        done[node] = _widened(context, _promoted(context, node, done))
    outputs = tuple(done[o] if isinstance(o, Node) else o for o in graph.outputs)
    return Promotion(context.graph((done[i] for i in graph.inputs), outputs, graph.signature), done)


def promote_inputs(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Input tensors in the dtypes that :func:`promote` gives the graph's inputs."""
    return [x.to(WIDE.get(x.dtype, x.dtype)) for x in inputs]


def _promoted(context: Context, node: Node, done: Mapping[Node, Node]) -> Node:
    if node.op is INPUT:
        return context.input(node.argument("name"), _wide_type(node.tensor_type))
    if node.op is CONSTANT:
        return context.constant_of(_wide_handle(node.handle))
    if node.op is GETITEM:
        return context.item(done[node.argument("value")], node.argument("index"))
    if node.op.name in _READS_BITS:
        raise PassError(f"op {node.op.name} ({node.origin}): reads the bits of a number, which float64 has others of")
    arguments = tuple((name, _argument(value, done)) for name, value in node.arguments)
    try:
        return context.node_of(node.op, arguments, origin=node.origin)
    except VerifyError as error:
        raise PassError(f"op {node.op.name} ({node.origin}): refuses float64: {error}") from error


def _widened(context: Context, node: Node) -> Node:
    if isinstance(node.type, tuple) or node.type.dtype not in WIDE:
        return node
    with context.origin(node.origin):
        return context.node("aten._to_copy", node, dtype=WIDE[node.type.dtype])


def _argument(value: Any, done: Mapping[Node, Node]) -> Any:
    if isinstance(value, Node):
        return done[value]
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if isinstance(value, tuple):
        return tuple(_argument(v, done) for v in cast(tuple[Any, ...], value))
    return value


def _wide_type(narrow: TensorType) -> TensorType:
    return TensorType(WIDE.get(narrow.dtype, narrow.dtype), narrow.shape)


class _WideHandle(ConstantHandle):
    """A constant in float64 that is converted at every access and not kept."""

    __slots__ = ()

    @property
    def tensor(self) -> torch.Tensor:
        """The value, converted now."""
        return self._load()


def _wide_handle(handle: ConstantHandle) -> ConstantHandle:
    if handle.type.dtype not in WIDE:
        return handle
    wide = WIDE[handle.type.dtype]
    return _WideHandle(
        handle.name, _wide_type(handle.type), lambda: handle.tensor.to(wide), handle.kind, handle.aliases
    )
