"""Rules for shapes: sizes that are copied or left to the runtime need no arithmetic on shapes while a model runs."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node
from ...passes.rewrite import RewriteContext
from ...passes.rules import Outcome, Rule, refuse, rule
from . import dialect_float as _dialect_float

_ = _dialect_float  # importing registers the ops


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


SHAPE_RULES: tuple[Rule, ...] = (constant_reshape, repeated_axis)
