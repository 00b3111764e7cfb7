"""Filled tensors, boolean masks, and gathers by position: what attention masks are made of."""

from __future__ import annotations

from typing import Any

import torch

from ...ir.graph import Node
from ...ir.types import Dim
from ..rewrite import RewriteContext, same_dim, same_type
from ..rules import Outcome, Rule, rule
from .layout import RESHAPE, RESHAPE_LIKE, source_of

FULL = "aten.full.default"
AND, OR = "aten.logical_and.default", "aten.logical_or.default"

_FILLED: dict[str, int | None] = {
    "aten.ones.default": 1,
    "aten.zeros.default": 0,
    "aten.new_ones.default": 1,
    "aten.new_zeros.default": 0,
    "aten.ones_like.default": 1,
    "aten.zeros_like.default": 0,
    "aten.new_full.default": None,
    "aten.full_like.default": None,
}
_FACTORIES = (FULL, "aten.arange.default", "aten.arange.start", "aten.arange.start_step", "aten.linspace.default")
_PLACEMENT = {"device", "layout", "pin_memory", "memory_format"}


@rule(*_FILLED)
def filled_tensor(node: Node, match: RewriteContext) -> Outcome:
    """``ones``, ``new_zeros``, ``full_like``, ... -> ``full(shape, value)``, which depends on no tensor."""
    if not _on_cpu(node):
        return None
    value, dtype = _FILLED[node.op.name], node.tensor_type.dtype
    filled = _as_number(node.argument("fill_value") if value is None else value, dtype)
    return match.node(FULL, node.tensor_type.shape, filled, dtype=dtype)


def _as_number(value: Any, dtype: torch.dtype) -> Any:
    """A number of the kind that a dtype holds; anything else as it is."""
    if not isinstance(value, int | float):
        return value
    return bool(value) if dtype == torch.bool else float(value) if dtype.is_floating_point else value


@rule(*_FACTORIES)
def factory_placement(node: Node, match: RewriteContext) -> Outcome:
    """Options that say where memory lies go away. Other devices are left."""
    arguments = {name: value for name, value in node.arguments if name not in _PLACEMENT}
    if len(arguments) == len(node.arguments) or not _on_cpu(node):
        return None
    return match.remake(node.op.name, arguments)


def _on_cpu(node: Node) -> bool:
    device = node.argument("device")
    return device is None or torch.device(device).type == "cpu"


_LOGIC = {
    "aten.__and__.Tensor": AND,
    "aten.bitwise_and.Tensor": AND,
    "aten.__or__.Tensor": OR,
    "aten.bitwise_or.Tensor": OR,
    "aten.bitwise_not.default": "aten.logical_not.default",
}


@rule(*_LOGIC)
def logic_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``a & b``, ``a | b``, ``~a`` of booleans -> ``logical_and``, ``logical_or``, ``logical_not``."""
    if any(not isinstance(v, Node) or v.tensor_type.dtype != torch.bool for _, v in node.arguments):
        return None
    return match.node(_LOGIC[node.op.name], *node.inputs)


@rule(AND, OR)
def neutral_mask(node: Node, match: RewriteContext) -> Outcome:
    """``x & True`` and ``x | False`` -> ``x``, expanded where the neutral side was larger."""
    for neutral, other in (node.inputs[:2], node.inputs[1::-1]):
        if other.tensor_type.dtype == torch.bool and _filled_with(neutral) is (node.op.name == AND):
            same = same_type(other.type, node.type)
            return other if same else match.node("aten.expand", other, node.tensor_type.shape)
    return None


def _filled_with(node: Node) -> bool | None:
    """The boolean that a tensor is filled with, as far as that is plain."""
    if node.op.name == FULL and node.tensor_type.dtype == torch.bool:
        return bool(node.argument("fill_value"))
    if node.is_constant and node.tensor_type.dtype == torch.bool and node.tensor_type.numel() == 1:
        return bool(node.handle.tensor.item())
    return None


@rule("aten.index.Tensor")
def gather_by_position(node: Node, match: RewriteContext) -> Outcome:
    """``x[arange(a)[:, None], arange(b)[None, :]] -> reshape(x)``: every element is read at its own place, in order."""
    source, indices = source_of(node), node.argument("indices")
    if len(indices) != source.tensor_type.rank:
        return None
    last = -1
    for index, size in zip(indices, source.tensor_type.shape, strict=True):
        axis = _counted_axis(index, size)
        if axis is None:
            return None
        if same_dim(size, 1):
            continue
        axis += node.tensor_type.rank - index.tensor_type.rank
        if axis <= last:
            return None
        last = axis
    return match.node(RESHAPE, source, node.tensor_type.shape)


def _counted_axis(index: Any, size: Dim) -> int | None:
    """The axis along which an index counts 0, 1, ... up to a size (any axis for size 1); ``None`` where it does not."""
    if not isinstance(index, Node):
        return None
    base = index
    while base.op.name in RESHAPE_LIKE:
        base = source_of(base)
    if base.op.name != "aten.arange.default" or not same_dim(base.argument("end"), size):
        return None
    axes = [axis for axis, d in enumerate(index.tensor_type.shape) if not same_dim(d, 1)]
    if len(axes) == 1:
        return axes[0]
    return 0 if same_dim(size, 1) else None


MASK_RULES: tuple[Rule, ...] = (filled_tensor, factory_placement, logic_spelling, neutral_mask, gather_by_position)
