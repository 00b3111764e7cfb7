"""Rules for the runtime's attention kernel: one node for products, mask and softmax (``Attention``, opset 23)."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ir.graph import Node
from ...passes.canonical.layout import PERMUTE, RESHAPE, permutation_of, source_of
from ...passes.fuse_attention import ATTENTION
from ...passes.rewrite import RewriteContext
from ...passes.rules import Outcome, Rule, refuse, rule
from . import dialect_float as _dialect_float

_ = _dialect_float  # importing registers the ops

FUSED, UNFUSED = "fused", "unfused"
"""How attention is written: as one kernel, or as products around a softmax."""

LOWEST = -1e30
"""Stands for minus infinity in a mask: no infinity may be subtracted from another where a whole row is hidden."""

HEADS_FIRST = (0, 2, 1, 3)

ROTARY = "instar_ort.rotary.default"


@rule(ATTENTION)
def fused_attention(node: Node, match: RewriteContext) -> Outcome:
    """Attention as one kernel; tokens stay in rows where heads were only split off for it."""
    query, key, value = (node.argument(a) for a in ("query", "key", "value"))
    if query.tensor_type.rank != 4 or query.tensor_type.dtype != torch.float32:
        return refuse("expected heads as f32[batch, heads, tokens, width], found {}", query.tensor_type)
    given = node.argument("scale")
    scale = float(given) if given is not None else 1.0 / math.sqrt(int(query.tensor_type.shape[-1]))
    if node.argument("is_causal", False):
        return _over_tokens("instar_ort.causal_attention", (query, key, value), (scale,), None, match)
    mask, some = _mask(node.argument("attn_mask"), query, key, match)
    return _over_tokens("instar_ort.attention", (query, key, value), (mask, scale), some, match)


def _over_tokens(
    name: str, heads: tuple[Node, Node, Node], rest: tuple[Any, ...], some: Node | None, match: RewriteContext
) -> Node:
    """The kernel over ``[batch, tokens, heads * width]`` where all three come from there, else over heads."""
    flat = [_flat(x, match) for x in heads]
    if any(x is None for x in flat):
        mixed = match.node(name, *heads, *rest, 0, 0)
        return mixed if some is None else match.node("aten.mul.Tensor", mixed, some)
    query, key, value = (x.tensor_type.shape for x in heads)
    found = match.node(name, *flat, *rest, int(query[1]), int(key[1]))
    apart = match.node(RESHAPE, found, (query[0], query[2], query[1], value[3]))
    if some is not None:
        apart = match.node("aten.mul.Tensor", apart, _tokens_first(some, match))
    return match.node(PERMUTE, apart, HEADS_FIRST)


def _tokens_first(some: Node, match: RewriteContext) -> Node:
    """``[batch, heads, tokens, 1] -> [batch, tokens, heads, 1]``."""
    batch, heads, tokens, _ = some.tensor_type.shape
    return match.node(PERMUTE, some, HEADS_FIRST) if heads != 1 else match.node(RESHAPE, some, (batch, tokens, 1, 1))


def _flat(node: Node, match: RewriteContext) -> Node | None:
    """``[batch, tokens, heads * width]`` behind a permute to heads first, perhaps under rotary positions, or None."""
    if node.op.name == ROTARY and not node.argument("heads"):
        x = _flat(node.argument("x"), match)
        angles = node.argument("cos"), node.argument("sin")
        return None if x is None else match.node(ROTARY, x, *angles, int(node.tensor_type.shape[1]))
    if node.op.name != PERMUTE or permutation_of(node) != HEADS_FIRST:
        return None
    batch, tokens, heads, width = source_of(node).tensor_type.shape
    return match.node(RESHAPE, source_of(node), (batch, tokens, int(heads) * int(width)))


# ---------------------------------------------------------------------------------------------------- masks
def _mask(mask: Node | None, query: Node, key: Node, match: RewriteContext) -> tuple[Node | None, Node | None]:
    """The mask as numbers that are added, full in its last two axes, and 0 for rows that it hides entirely.

    The second is None where no row can be hidden.
    """
    if mask is None:
        return None, None
    some: Node | None = None
    if mask.tensor_type.dtype == torch.bool:
        some = match.node("aten.any.dim", mask, -1, True)
        mask = match.node("aten.where.ScalarOther", mask, match.scalar(0.0, torch.float32), LOWEST)
    elif not _finite(mask):
        some = match.node("aten.gt.Scalar", match.node("aten.amax", mask, (-1,), True), LOWEST)
        mask = match.node("aten.clamp", mask, LOWEST)
    counts = None if some is None else match.node("aten._to_copy", _four(some, match), dtype=torch.float32)
    return _full(_four(mask, match), query, key, match), counts


def _four(node: Node, match: RewriteContext) -> Node:
    """With axes of size 1 in front up to four."""
    shape = node.tensor_type.shape
    return node if len(shape) == 4 else match.node(RESHAPE, node, (*[1] * (4 - len(shape)), *shape))


def _full(mask: Node, query: Node, key: Node, match: RewriteContext) -> Node:
    """The kernel takes one number for every query and key."""
    wanted = (*mask.tensor_type.shape[:2], query.tensor_type.shape[2], key.tensor_type.shape[2])
    return mask if tuple(mask.tensor_type.shape) == wanted else match.node("aten.expand", mask, wanted)


_SAME_VALUES = frozenset((PERMUTE, RESHAPE, "aten.expand.default", "aten.unsqueeze.default", "aten.slice.Tensor"))
_ARITHMETIC = frozenset(
    ("aten.add.Tensor", "aten.sub.Tensor", "aten.rsub.Scalar", "aten.mul.Tensor", "aten.neg.default")
)


def _finite(value: Any) -> bool:
    """Whether a mask can hold no infinity: made of whole numbers, booleans and finite constants by arithmetic."""
    if not isinstance(value, Node):
        return not isinstance(value, int | float) or math.isfinite(value)
    if not value.tensor_type.dtype.is_floating_point:
        return True
    if value.is_constant:
        return bool(torch.isfinite(value.handle.tensor).all())
    if value.op.name in _SAME_VALUES:
        return _finite(source_of(value))
    if value.op.name == "aten._to_copy.default":
        return _finite(value.argument("self"))
    return value.op.name in _ARITHMETIC and all(_finite(a) for _, a in value.arguments)


FUSED_RULES: tuple[Rule, ...] = (fused_attention,)
