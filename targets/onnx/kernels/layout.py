"""Layout: sizes that are copied or left to the runtime, sums before a norm; the same values in faster words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ..emit import Value, integers, op
from .base import Kernel, Written, reference


@rule("aten.reshape.default")
def constant_reshape(node: Node, match: RewriteContext) -> Outcome:
    """A dynamic shape whose sizes are copied from the input, but for one at most."""
    source = node.argument("self")
    found, before = node.tensor_type.shape, source.tensor_type.shape
    if all(isinstance(size, int) for size in found):
        return None
    if any(size == 0 for size in (*found, *before)):
        return refuse("a size is 0, which would be read as a copy")
    shape = [_size(size, before[axis : axis + 1]) for axis, size in enumerate(found)]
    if shape.count(-1) > 1:
        return refuse("{} sizes of {} are not copied from {}", shape.count(-1), node.tensor_type, source.tensor_type)
    return match.context.node("instar_ort.reshape", source, tuple(shape))


def _size(size: Any, before: tuple[Any, ...]) -> int:
    if isinstance(size, int):
        return size
    return 0 if before == (size,) else -1


@rule("aten.repeat_interleave.self_int")
def repeated_axis(node: Node, match: RewriteContext) -> Outcome:
    """Repeats along an axis, at most one size behind which is dynamic."""
    source, times, axis = node.argument("self"), node.argument("repeats"), node.argument("dim")
    shape = source.tensor_type.shape
    if axis is None or not isinstance(times, int) or times < 1:
        return None
    axis = axis % len(shape)
    if not isinstance(shape[axis], int) or sum(not isinstance(s, int) for s in shape[axis + 1 :]) > 1:
        return refuse("sizes of {} from axis {} on are dynamic", source.tensor_type, axis)
    return match.context.node("instar_ort.repeat", source, times, axis)


@rule("aten.add.Tensor")
def residual_norm(node: Node, match: RewriteContext) -> Outcome:
    """``layer_norm(a + b)``: keep the runtime from forming SkipLayerNormalization."""
    left, right = node.argument("self"), node.argument("other")
    if not any(user.op.name == "aten.layer_norm.default" for user in match.users(node)):
        return None
    if not isinstance(right, Node) or node.argument("alpha", 1) != 1:
        return None
    if left.tensor_type != right.tensor_type or left.is_constant or right.is_constant:
        return None
    return match.context.node("instar_ort.residual_add", left, right)


@reference("reshape")
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``Reshape`` with a constant shape: 0 copies the size of that axis, one -1 takes what is left."""
    return x.reshape(_sizes(x, shape)).clone()


def _sizes(x: Tensor, shape: Sequence[int]) -> list[int]:
    return [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]


@reference("repeat")
def repeat(x: Tensor, times: int, axis: int) -> Tensor:
    """Every slice along an axis ``times`` times in a row, as heads of keys that several queries share."""
    return x.repeat_interleave(times, axis).clone()


@reference("residual_add")
def residual_add(left: Tensor, right: Tensor) -> Tensor:
    """A sum before a layer norm, written so that the runtime does not form its slow SkipLayerNormalization."""
    return left + right


def _write_reshape(x: Value, shape: Sequence[int]) -> Value:
    return op.Reshape(x, integers(*shape))


def write_repeat(value: Value, times: int, axis: int) -> Value:
    """Every slice along an axis ``times`` times in a row; at most one size behind the axis is dynamic."""
    if times == 1:
        return value
    rank = len(value.shape)
    ones = [1] * (rank + 1)
    ones[axis + 1] = times
    stretched = op.Expand(op.Unsqueeze(value, integers(axis + 1)), integers(*ones))
    behind = [int(size) if isinstance(size, int) else -1 for size in value.shape[axis + 1 :]]
    return op.Reshape(stretched, integers(*[0] * axis, int(value.shape[axis]) * times, *behind))


def _write_residual(left: Value, right: Value) -> Value:
    return op.Sum(left, right)


KERNEL = Kernel(
    "layout",
    "reshapes with constant shapes, repeats by broadcasting, sums that no slow fusion takes",
    (
        Written("instar_ort.reshape", _write_reshape),
        Written("instar_ort.repeat", write_repeat),
        Written("instar_ort.residual_add", _write_residual),
    ),
    (residual_norm, constant_reshape, repeated_axis),
)
