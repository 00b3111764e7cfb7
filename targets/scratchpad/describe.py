"""A graph as a scheduler's problem: stored values become tensors with their real bytes, fused operators operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir.analysis import flops
from ...ir.errors import LoweringError
from ...ir.graph import Graph, Node
from ...ir.names import unused_name
from ...ir.op import INPUT
from ...schedulers.scratchpad.bricks import in_bricks
from ...schedulers.scratchpad.problem import Operator, Problem, Role, Tensor
from .fusion import Fused, FusedGraph, fuse, stored_values
from .geometry import geometry
from .host import table_of
from .layouts import Layout, images

SUMS = frozenset({f"instar.{name}.default" for name in ("conv_sums", "linear_sums", "matmul_sums", "weighted_means")})
"""Products of 8-bit integers; all others are in the dtype of their result."""

PRODUCTS = frozenset(
    {f"aten.{name}.default" for name in ("conv1d", "conv2d", "conv3d", "linear", "matmul", "bmm", "mm", "addmm")}
    | {"aten.scaled_dot_product_attention.default"}
)


@dataclass(frozen=True)
class Described:
    """A graph and the problem that it is.

    Attributes:
        fused: the graph as operators.
        problem: tensors and operators in the same order as ``stored`` and ``fused.operators``.
        layouts: of every stored value.
        stored: stored value -> position of its tensor.
        dtypes: of every operator's multiply-accumulates, ``""`` where it has none.
    """

    fused: FusedGraph
    problem: Problem
    layouts: tuple[Layout, ...]
    stored: Mapping[Node, int]
    dtypes: tuple[str, ...]

    @property
    def graph(self) -> Graph:
        """What it was made of."""
        return self.fused.graph


def describe(graph: Graph, *, channel_brick: int = 1, model: str = "model") -> Described:
    """The problem of a graph.

    Args:
        graph: with fixed sizes, in terms of :mod:`.integer_forms` where products are integers.
        channel_brick: of the machine; sizes are padded to it.
        model: its name.

    Raises:
        LoweringError: something cannot be described; names the user's line.
    """
    fused = fuse(graph)
    stored = stored_values(fused)
    seen = images(graph)
    layouts = {node: _layout(node, node in seen) for node in stored}
    counts = flops(graph)
    names = _Names()
    tensors = tuple(_tensor(node, fused, layouts[node], names) for node in stored)
    operators = tuple(_operator(op, stored, layouts, counts, names) for op in fused.operators)
    problem = in_bricks(Problem(model, tensors, operators), channel_brick)
    return Described(fused, problem, tuple(layouts.values()), stored, tuple(_dtype(op) for op in fused.operators))


class _Names:
    """Unique names of operators by where they come from; a tensor is called like the operator that makes it."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.of: dict[Node, str] = {}

    def name(self, node: Node, base: Callable[[], str]) -> str:
        if node not in self.of:
            self.of[node] = unused_name(base(), self.taken)
            self.taken.add(self.of[node])
        return self.of[node]


def _layout(node: Node, image: bool) -> Layout:
    if isinstance(node.type, tuple):
        raise LoweringError(
            f"scratchpad: expected operators with one result, found several of {node.op.short_name} ({node.origin}) "
            f"in use; compute it outside the model"
        )
    shape = node.tensor_type.sizes()
    if node.tensor_type.dtype.is_complex:
        raise LoweringError(
            f"scratchpad: expected real numbers, found {node.tensor_type} at {node.op.short_name} ({node.origin}); "
            f"compute it outside the model"
        )
    return Layout(shape, node.tensor_type.dtype, image)


def _tensor(node: Node, fused: FusedGraph, layout: Layout, names: _Names) -> Tensor:
    role: Role = "activation"
    if node in fused.host.given:
        role = "input"
    elif node in fused.delivered:
        role = "output"
    if node in fused.host.given and node in fused.delivered:
        raise LoweringError(f"scratchpad: expected outputs that are computed, found the input {node!r} ({node.origin})")
    name = names.name(node, lambda: _base(node, fused))
    width = layout.dtype.itemsize
    return Tensor(name, node.tensor_type.numel() * width, layout.stored_shape, role, width)


def _base(node: Node, fused: FusedGraph) -> str:
    if node in fused.host.given:
        plain = node if not node.inputs else node.inputs[0]
        return repr(plain).strip("%") if plain.op is INPUT else f"{table_of(node)}.rows"
    found = next((op for op in fused.operators if op.result is node), None)
    anchor = node if found is None else found.anchor
    kind = anchor.op.short_name.split(".")[1] if "." in anchor.op.short_name else anchor.op.short_name
    module = anchor.origin.module
    return f"{module}.{kind}" if module and kind not in ("conv_sums", "linear_sums") else module or kind


def _operator(
    op: Fused, stored: Mapping[Node, int], layouts: Mapping[Node, Layout], counts: Mapping[Node, int], names: _Names
) -> Operator:
    if not op.inputs:
        raise LoweringError(
            f"scratchpad: expected operators that read values, found {op.anchor.op.short_name} ({op.anchor.origin}), "
            f"which makes one of nothing; pass it as an input"
        )
    found = geometry(op, layouts[op.inputs[0]], layouts[op.result])
    return Operator(
        names.of[op.result],
        found.kind,
        tuple(stored[node] for node in op.inputs),
        stored[op.result],
        weight_bytes=sum(node.handle.nbytes for node in op.constants),
        macs=sum(counts[node] // 2 for node in op.nodes if node.op.name in PRODUCTS or node.op.name in SUMS),
        window=found.window,
        groups=found.groups,
        axis=found.axis,
        blocked_weights=False,
    )


def _dtype(op: Fused) -> str:
    products = [node for node in op.nodes if node.op.name in PRODUCTS or node.op.name in SUMS]
    if not products:
        return ""
    if all(node.op.name in SUMS for node in products):
        return "int8"
    return str(products[0].tensor_type.dtype).removeprefix("torch.")
