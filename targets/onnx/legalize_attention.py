"""Rules for what surrounds attention: rotary positions, masks, softmax of masked scores."""

from __future__ import annotations

from typing import Any

import torch

from ...ir.graph import Node
from ...passes.rewrite import RewriteContext
from ...passes.rules import Outcome, Rule, refuse, rule
from . import dialect_float as _dialect_float

CLAMPED, PLAIN = "clamped", "plain"
"""How masked scores enter the softmax."""

HIDES = -1e3
"""What is added to a score to hide it; a bias is smaller."""

_NO_MASK = ("aten.matmul", "aten.linear", "aten.softmax", "aten.embedding", "aten.conv")

MASK_NODES = 64
"""A mask is made of few nodes; what is made of more is something else."""

_ = _dialect_float  # importing registers the ops


@rule("aten.add.Tensor")
def rotary(node: Node, match: RewriteContext) -> Outcome:
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


@rule("aten.masked_fill.Scalar")
def additive_mask(node: Node, match: RewriteContext) -> Outcome:
    """Scores filled with minus infinity under a constant mask: adding a constant is faster than selecting."""
    scores, mask = node.argument("self"), node.argument("mask")
    if (
        node.argument("value") != float("-inf")
        or not mask.is_constant
        or str(scores.tensor_type.dtype) != "torch.float32"
    ):
        return None
    added = match.derive(mask, "additive", lambda m: torch.zeros(m.shape).masked_fill(m, float("-inf")))
    return match.context.node("aten.add.Tensor", scores, added)


@rule("aten.softmax.int", "aten._softmax.default")
def masked_softmax(node: Node, match: RewriteContext) -> Outcome:
    """Softmax of scores that a mask, constant or computed at run time, sets to minus infinity or nearly so."""
    source = node.argument("self")
    if not _masked(source) or str(source.tensor_type.dtype) != "torch.float32":
        return None
    return match.context.node("instar_ort.softmax_clamped", source, node.argument("dim"))


def _masked(node: Node) -> bool:
    """Whether a value comes out of masked_fill or where, or is a sum with a mask."""
    if node.op.name.startswith(("aten.masked_fill", "aten.where")):
        return True
    if node.op.name != "aten.add.Tensor":
        return False
    other = node.argument("other")
    return isinstance(other, Node) and any(_of_constants(n) or _hides(n) for n in (node.argument("self"), other))


def _of_constants(node: Node) -> bool:
    return node.is_constant or (bool(node.inputs) and all(_of_constants(i) for i in node.inputs))


def _hides(node: Node) -> bool:
    """Whether a value is made, without a product or another softmax, of a number large enough to hide a score."""
    seen, pending = {node}, [node]
    found = False
    while pending and len(seen) <= MASK_NODES:
        value = pending.pop()
        if value.op.name.startswith(_NO_MASK):
            return False
        numbers = [a for _, a in value.arguments if isinstance(a, int | float)]
        if value.is_constant and value.tensor_type.dtype.is_floating_point and value.tensor_type.numel() == 1:
            numbers.append(float(value.handle.tensor.reshape(())))
        found = found or any(abs(n) >= -HIDES for n in numbers)
        fresh = [i for i in value.inputs if i not in seen]
        seen.update(fresh)
        pending += fresh
    return found and not pending


ROTARY_RULES: tuple[Rule, ...] = (rotary,)
ATTENTION_RULES: tuple[Rule, ...] = (*ROTARY_RULES, additive_mask)
CLAMP_RULES: tuple[Rule, ...] = (masked_softmax,)
