"""Views: which values are views of others, and what a write to a view leaves in the tensor behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import fx
from torch._ops import OpOverload

from ..context import Context
from ..graph import Node

Arguments = Mapping[str, Any]
Scatter = Callable[[Context, Node, Node, Arguments], Node]
"""``(context, base, value, arguments of the view)`` -> the base with the value where the view looks."""


def _select(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    return context.node("aten.select_scatter", base, value, arguments["dim"], arguments["index"])


def _slice(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    place = (arguments.get(name) for name in ("dim", "start", "end", "step"))
    dim, start, end, step = place
    return context.node("aten.slice_scatter", base, value, dim or 0, start, end, 1 if step is None else step)


def _narrow(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    start, length = arguments["start"], arguments["length"]
    return context.node("aten.slice_scatter", base, value, arguments["dim"], start, start + length)


def _diagonal(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    places = {name: arguments[name] for name in ("offset", "dim1", "dim2") if name in arguments}
    return context.node("aten.diagonal_scatter", base, value, **places)


def _reshaped(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    del arguments
    return context.node("aten.view", value, base.tensor_type.shape)


def _permuted(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    rank = base.tensor_type.rank
    order = [int(d) % rank for d in arguments["dims"]]
    return context.node("aten.permute", value, tuple(order.index(d) for d in range(rank)))


def _transposed(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    del base
    first, second = arguments.get("dim0", arguments.get("axis0")), arguments.get("dim1", arguments.get("axis1"))
    return context.node("aten.transpose.int", value, first, second)


def _reversed(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    del arguments
    return context.node("aten.permute", value, tuple(reversed(range(base.tensor_type.rank))))


def _matrices(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    del base, arguments
    return context.node("aten.transpose.int", value, -2, -1)


def _moved(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    rank = base.tensor_type.rank
    source, target = (_listed(arguments[name], rank) for name in ("source", "destination"))
    rest = iter(d for d in range(rank) if d not in source)
    order = [source[target.index(d)] if d in target else next(rest) for d in range(rank)]
    return context.node("aten.permute", value, tuple(order.index(d) for d in range(rank)))


def _listed(dims: Any, rank: int) -> list[int]:
    return [int(d) % rank for d in (dims if isinstance(dims, tuple | list) else [dims])]


def _unfolded(context: Context, base: Node, value: Node, arguments: Arguments) -> Node:
    """Window ``i`` holds the elements ``i * step + k``; torch refuses writes to windows that overlap."""
    dim, size, step = (arguments[name] for name in ("dimension", "size", "step"))
    dim = int(dim) % base.tensor_type.rank
    windows = value.tensor_type.shape[dim]
    for k in range(int(size)):
        column = context.node("aten.select.int", value, -1, k)
        end = k + (windows - 1) * step + 1
        base = context.node("aten.slice_scatter", base, column, dim, k, end, step)
    return base


SCATTERS: dict[str, Scatter] = {
    "aten.select.int": _select,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _narrow,
    "aten.diagonal.default": _diagonal,
    "aten.transpose.int": _transposed,
    "aten.swapaxes.default": _transposed,
    "aten.swapdims.default": _transposed,
    "aten.permute.default": _permuted,
    "aten.t.default": _reversed,
    "aten.numpy_T.default": _reversed,
    "aten.mT.default": _matrices,
    "aten.movedim.int": _moved,
    "aten.movedim.intlist": _moved,
    "aten.moveaxis.int": _moved,
    "aten.moveaxis.intlist": _moved,
    "aten.view.default": _reshaped,
    "aten.view_as.default": _reshaped,
    "aten.unflatten.int": _reshaped,
    "aten.unsqueeze.default": _reshaped,
    "aten.squeeze.default": _reshaped,
    "aten.squeeze.dim": _reshaped,
    "aten.squeeze.dims": _reshaped,
    "aten.alias.default": _reshaped,
    "aten.detach.default": _reshaped,
    "aten.unfold.default": _unfolded,
}
"""Operators whose result is always a view, and how a write to it is taken back."""

PARTS = ("aten.unbind.int", "aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default")
"""Operators whose results are views, taken apart by ``getitem``."""


def view_of(node: fx.Node) -> fx.Node | None:
    """The value that a node is a view of, where a write to it can be taken back; None for anything else."""
    if node.op != "call_function":
        return None
    if getattr(node.target, "__name__", "") == "getitem":
        source = node.args[0]
        parted = isinstance(source, fx.Node) and str(source.target) in PARTS
        return cast(fx.Node, cast(fx.Node, source).args[0]) if parted else None
    named = isinstance(node.target, OpOverload) and (str(node.target) in SCATTERS or str(node.target) in PARTS)
    return node.args[0] if named and isinstance(node.args[0], fx.Node) else None


def scatter_part(context: Context, base: Node, value: Node, parted: str, arguments: Arguments, index: int) -> Node:
    """The base with a value in place of one result of an operator of :data:`PARTS`."""
    dim = int(arguments.get("dim") or 0)
    if parted == "aten.unbind.int":
        return context.node("aten.select_scatter", base, value, dim, index)
    whole, sizes = base.tensor_type.shape[dim], arguments.get("split_sizes")
    if sizes is not None:
        start = sum(sizes[:index])
        return context.node("aten.slice_scatter", base, value, dim, start, start + sizes[index])
    step = arguments["split_size"] if parted == "aten.split.Tensor" else -(-whole // arguments["chunks"])
    return context.node(
        "aten.slice_scatter", base, value, dim, index * step, index * step + value.tensor_type.shape[dim]
    )
