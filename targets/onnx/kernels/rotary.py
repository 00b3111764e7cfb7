"""Rotary positions as one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from .. import contrib
from ..emit import Value, integers
from ..runtimes.needs import Requirement
from ..runtimes.table import CONTRIB
from .base import Kernel, Written, reference


@rule("aten.add.Tensor")
def rotary_positions(node: Node, match: RewriteContext) -> Outcome:
    """``x * cos + cat(-x[half:], x[:half]) * sin`` with constant angles, each used for both halves."""
    products = [_product(node.argument(a)) for a in ("self", "other")]
    if node.argument("alpha", 1) != 1 or None in products:
        return None
    for (x, cos), (turned, sin) in (products, products[::-1]):  # pyright: ignore[reportGeneralTypeIssues]
        if _turned(turned) is x:
            return _rotary(x, cos, sin, match)
    return None


def _rotary(x: Node, cos: Node, sin: Node, match: RewriteContext) -> Outcome:
    shape = x.tensor_type.shape
    if len(shape) != 4 or str(x.tensor_type.dtype) != "torch.float32":
        return refuse("expected heads as f32[batch, heads, length, width], found {}", x.tensor_type)
    for angles in (cos, sin):
        found = angles.tensor_type.shape
        if any(d != 1 for d in found[:-2]) or tuple(found[-2:]) != tuple(shape[-2:]):
            return refuse("angles of {} are not one row per position of {}", angles.tensor_type, x.tensor_type)
        left, right = angles.handle.tensor.chunk(2, dim=-1)
        if not torch.equal(left, right):
            return refuse("angles differ between the two halves of a head")
    halves = [match.derive(a, "half", lambda t: t.flatten(0, -2).chunk(2, dim=-1)[0].contiguous()) for a in (cos, sin)]
    return match.context.node("instar_ort.rotary", x, *halves, 0)


def _product(node: Any) -> tuple[Node, Node] | None:
    """A value and the constant that it is multiplied with."""
    if not isinstance(node, Node) or node.op.name != "aten.mul.Tensor" or not isinstance(node.argument("other"), Node):
        return None
    value, constant = node.argument("self"), node.argument("other")
    if value.is_constant:
        value, constant = constant, value
    return (value, constant) if constant.is_constant else None


def _turned(node: Node) -> Node | None:
    """``x`` of ``cat([-x[..., half:], x[..., :half]], -1)``."""
    if node.op.name != "aten.cat.default" or len(node.argument("tensors")) != 2:
        return None
    last, width = len(node.tensor_type.shape) - 1, node.tensor_type.shape[-1]
    right, left = node.argument("tensors")
    if node.argument("dim") not in (-1, last) or right.op.name != "aten.neg.default":
        return None
    right = right.argument("self")
    if any(n.op.name != "aten.slice.Tensor" or n.argument("dim") not in (-1, last) for n in (left, right)):
        return None
    x = left.argument("self")
    whole = right.argument("self") is x and x.tensor_type.shape == node.tensor_type.shape
    return x if whole and isinstance(width, int) and (_span(left), _span(right)) == _halves(width) else None


def _halves(width: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (0, width // 2, 1), (width // 2, width, 1)


def _span(node: Node) -> tuple[Any, Any, Any]:
    """Start, end and step of a slice of the last axis."""
    width = node.argument("self").tensor_type.shape[-1]
    start, end = node.argument("start") or 0, node.argument("end")
    return start, width if end is None or end > width else end, node.argument("step", 1)


@reference("rotary")
def rotary(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """``com.microsoft.RotaryEmbedding``: halves of every head rotated by their position (Su et al., arXiv 2104.09864).

    Args:
        x: ``f32 [batch, heads, length, width]``, or ``[batch, length, heads * width]`` where ``heads`` is given.
        cos: ``f32 [length, width / 2]``.
        sin: ``f32 [length, width / 2]``.
        heads: 0 where they have an axis of their own.
    """
    left, right = heads_first(x, heads).chunk(2, dim=-1)
    return tokens_first(torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1), heads)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """``[batch, tokens, heads * width] -> [batch, heads, tokens, width]``, and as it is for 0 heads."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2) if heads else x


def tokens_first(x: Tensor, heads: int) -> Tensor:
    """The inverse, in memory of its own."""
    return (x.transpose(1, 2).flatten(2) if heads else x).clone(memory_format=torch.contiguous_format)


def _write(x: Value, cos: Value, sin: Value, heads: int) -> Value:
    split = {"num_heads": heads} if heads else {}
    return contrib.RotaryEmbedding(x, integers(0), cos, sin, **split)


REQUIRED = Requirement(
    "RotaryEmbedding", CONTRIB, types=(("M", "int64"), ("T", "float")), attributes=frozenset(("num_heads",)), inputs=4
)

KERNEL = Kernel(
    "rotary",
    "RotaryEmbedding: halves of every head rotated by their position",
    (Written("instar_ort.rotary", _write, "RotaryEmbedding", requires=(REQUIRED,)),),
    (rotary_positions,),
)
