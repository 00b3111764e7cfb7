"""Attention as one kernel: products, mask and softmax in one node (``Attention`` of opset 23)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from onnxscript import opset23
from torch import Tensor

from ....ir.graph import Node
from ....passes.canonical.layout import PERMUTE, RESHAPE, permutation_of, source_of
from ....passes.fuse_attention import ATTENTION
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ..emit import Value, integers, later, op
from ..runtimes.kept import ATTENTION as REQUIRED
from .base import Kernel, Written, reference
from .rotary import heads_first, tokens_first

_op23: Any = cast(Any, opset23)
"""The operators of opset 23; their stubs do not describe tracing."""

FUSED, UNFUSED = "fused", "unfused"
"""How attention is written: as one kernel, or as products around a softmax."""

LOWEST = -1e30
"""Stands for minus infinity in a mask: no infinity may be subtracted from another where a whole row is hidden.

The kernel takes a row of the least float32 for hidden, which models write for infinity and attend to all of.
"""

MODERATE = 1e15
"""Products of two numbers up to this one stay above ``LOWEST``."""

_LEAST = torch.finfo(torch.float32).max
"""Beyond it are infinities alone."""

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
    elif not _within(mask, MODERATE):
        if not _within(mask, _LEAST):
            some = match.node("aten.ge.Scalar", match.node("aten.amax", mask, (-1,), True), -_LEAST)
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


def _within(value: Any, limit: float) -> bool:
    """Whether a mask is made of whole numbers, booleans and constants within a limit, by arithmetic."""
    if not isinstance(value, Node):
        return not isinstance(value, int | float) or abs(value) <= limit
    if not value.tensor_type.dtype.is_floating_point:
        return True
    if value.is_constant:
        return bool((value.handle.tensor.abs() <= limit).all())
    if value.op.name in _SAME_VALUES:
        return _within(source_of(value), limit)
    if value.op.name == "aten._to_copy.default":
        return _within(value.argument("self"), limit)
    return value.op.name in _ARITHMETIC and all(_within(a, limit) for _, a in value.arguments)


@reference("attention")
def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, heads: int, key_heads: int
) -> Tensor:
    """``Attention`` of opset 23: ``softmax(query @ key^T * scale + mask) @ value``.

    Args:
        query: ``f32 [batch, heads, queries, width]``, or ``[batch, queries, heads * width]`` where ``heads`` is given.
        key: alike, with as many heads or a divisor of them.
        value: alike, its width may differ.
        mask: ``f32 [batch or 1, heads or 1, queries, keys]``, finite.
        scale: above 0.
        heads: of queries, 0 where they have an axis of their own.
        key_heads: of keys and values, 0 likewise.
    """
    return _attention(query, key, value, mask, scale, heads, key_heads, False)


@reference("causal_attention")
def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, heads: int, key_heads: int) -> Tensor:
    """:func:`attention` in which no query sees a later key, as ``Attention`` on blocks of queries and what they see."""
    return _attention(query, key, value, None, scale, heads, key_heads, True)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    heads: int,
    key_heads: int,
    causal: bool,
) -> Tensor:
    query = heads_first(query, heads)
    key, value = (heads_first(t, key_heads) for t in (key, value))
    shared = query.shape[1] != key.shape[1]
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=shared
    )
    return tokens_first(found, heads)


LEAST_ROWS, MOST_BLOCKS = 32, 16
"""Causal queries of a static length are taken in blocks of at least so many, and in at most so many blocks."""


def _write(query: Value, key: Value, value: Value, mask: Value, scale: float, heads: int, key_heads: int) -> Value:
    return _kernel(query, key, value, mask, scale, _split(heads, key_heads))


def _write_causal(query: Value, key: Value, value: Value, scale: float, heads: int, key_heads: int) -> Value:
    """Blocks of queries with the keys up to their last one; a dynamic length is one block under the kernel's mask."""
    axis = 1 if heads else 2
    length, split = query.shape[axis], _split(heads, key_heads)
    if not isinstance(length, int) or key.shape[axis] != length:
        return _kernel(query, key, value, None, scale, {**split, "is_causal": 1})
    rows = block_rows(length)
    parts: list[Value] = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        block = _positions(query, start, end, axis)
        keys, values = (_positions(x, 0, end, axis) for x in (key, value))
        parts.append(_kernel(block, keys, values, later(query, end - start, end, start), scale, split))
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)


def block_rows(length: int) -> int:
    """Queries in one block: a multiple of the least number, and no more blocks than the most."""
    return max(1, -(-length // (LEAST_ROWS * MOST_BLOCKS))) * LEAST_ROWS


def _positions(x: Value, start: int, end: int, axis: int) -> Value:
    whole = (start, end) == (0, x.shape[axis])
    return x if whole else op.Slice(x, integers(start), integers(end), integers(axis))


def _split(heads: int, key_heads: int) -> dict[str, int]:
    return {"q_num_heads": heads, "kv_num_heads": key_heads} if heads else {}


def _kernel(query: Value, key: Value, value: Value, mask: Value, scale: float, options: dict[str, int]) -> Value:
    """The first of four results; the others are for caches of keys and values, and are not asked for."""
    return _op23.Attention(query, key, value, mask, scale=scale, **options)[0]


KERNEL = Kernel(
    "attention",
    "Attention: products, mask and softmax in one node",
    (
        Written("instar_ort.attention", _write, "Attention", requires=(REQUIRED,)),
        Written("instar_ort.causal_attention", _write_causal, "Attention", requires=(REQUIRED,)),
    ),
    (fused_attention,),
)
