"""Softmax of masked scores: masks are added, and scores clamped so that no exponential is a denormal number."""

from __future__ import annotations

import torch
from torch import Tensor

from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, rule
from ..emit import Value, integers, op, scalar
from .base import Kernel, Written, reference

CLAMPED, PLAIN = "clamped", "plain"
"""How masked scores enter the softmax."""

HIDES = -1e3
"""What is added to a score to hide it; a bias is smaller."""

_NO_MASK = ("aten.matmul", "aten.linear", "aten.softmax", "aten.embedding", "aten.conv")

MASK_NODES = 64
"""A mask is made of few nodes; what is made of more is something else."""

SOFTMAX_FLOOR = 60.0
"""Scores further than this below their row's maximum are raised to it: ``exp(-60)`` is no denormal and adds 1e-26."""


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


@reference("softmax_clamped")
def softmax_clamped(x: Tensor, dim: int) -> Tensor:
    """Softmax whose scores are first raised to 60 below their maximum.

    Masked scores (``-inf`` or hugely negative) otherwise become denormal numbers, at which this runtime's softmax is
    ten times slower. No probability changes by more than ``exp(-60)``. A slice of nothing but ``-inf`` gives NaN, as
    softmax does.
    """
    floor = x.amax(dim=dim, keepdim=True) - SOFTMAX_FLOOR
    return torch.softmax(torch.maximum(x, floor), dim=dim)


def _write_clamped(x: Value, dim: int) -> Value:
    floor = op.Sub(op.ReduceMax(x, integers(dim), keepdims=1), scalar(SOFTMAX_FLOOR))
    return op.Softmax(op.Max(x, floor), axis=dim)


MASKS = Kernel("mask", "masks that are added to scores", (), (additive_mask,))

CLAMPED_SOFTMAX = Kernel(
    "masked_softmax",
    "softmax of scores that are first raised to 60 below their maximum",
    (Written("instar_ort.softmax_clamped", _write_clamped),),
    (masked_softmax,),
)
