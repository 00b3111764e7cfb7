"""Attention that a model spells out becomes one op: a target can run it as one kernel, or skip what is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..ir.graph import Graph, Node
from .base import PassResult
from .canonical.layout import PERMUTE, RESHAPE, permutation_of, source_of
from .rewrite import RewriteContext, rewrite, same_shape
from .rules import Outcome, Rule, refuse, rule

ATTENTION = "aten.scaled_dot_product_attention.default"

HIDDEN = -1e30
"""A score that is this far below all others has weight 0 in every float type."""


@dataclass(frozen=True)
class _Scores:
    """``query @ key^T * scale``, and what hides some of it.

    Attributes:
        product: ``query @ key^T``.
        scale: the number that it is multiplied with.
        mask: what is added to the scores, or, of booleans, where they are hidden; None for nothing.
    """

    product: Node
    scale: float
    mask: Node | None


@rule("aten.matmul.default")
def causal_attention(node: Node, match: RewriteContext) -> Outcome:
    """``softmax(q @ k^T * scale + causal mask) @ v``, keys and values perhaps repeated for groups of queries."""
    weights = _weights(node)
    found = [s for s in _scores(weights) if s.mask is not None and s.mask.is_constant] if weights else []
    if weights is None or not found:
        return None
    scores = found[0]
    keys = _keys(scores.product, match)
    if keys is None:
        return refuse("the scores are no product of queries with transposed keys, but {}", scores.product.op.name)
    if scores.mask is None or not _is_causal(scores.mask, weights):
        return refuse("the mask {} does not hide exactly what comes later", scores.mask and scores.mask.handle.name)
    key, value, grouped = _shared(keys, node.argument("other"))
    query = scores.product.argument("self")
    return match.node(ATTENTION, query, key, value, None, 0.0, True, scale=scores.scale, enable_gqa=grouped)


@rule("aten.matmul.default")
def any_attention(node: Node, match: RewriteContext) -> Outcome:
    """``softmax(q @ k^T * scale + mask) @ v`` with a mask that may be computed at run time, or with none."""
    weights = _weights(node)
    if weights is None:
        return None
    for scores in _scores(weights):
        keys = _keys(scores.product, match)
        if keys is None:
            continue
        reason = _unfit(scores, weights, node)
        if reason is not None:
            return refuse("{}", reason)
        key, value, grouped = _shared(keys, node.argument("other"))
        query, mask = scores.product.argument("self"), _attended(scores.mask, match)
        return match.node(ATTENTION, query, key, value, mask, 0.0, False, scale=scores.scale, enable_gqa=grouped)
    return refuse("the scores are no product of queries with transposed keys, but {}", source_of(weights).op.name)


def _weights(node: Node) -> Node | None:
    """The softmax over the last of four axes whose result mixes the values."""
    weights = node.argument("self")
    over_keys = weights.op.name == "aten.softmax.int" and weights.argument("dim") in (-1, 3)
    return weights if over_keys and weights.tensor_type.rank == 4 else None


def _scores(weights: Node) -> Iterator[_Scores]:
    """Ways to read what goes into the softmax, the most likely first."""
    node = source_of(weights)
    if node.op.name == "aten.masked_fill.Scalar" and node.argument("value") <= HIDDEN:
        yield _Scores(*_unscaled(node.argument("self")), node.argument("mask"))
    elif node.op.name == "aten.add.Tensor" and node.argument("alpha", 1) == 1:
        left, right = node.argument("self"), node.argument("other")
        if isinstance(right, Node):
            yield _Scores(*_unscaled(left), right)
            yield _Scores(*_unscaled(right), left)
    else:
        yield _Scores(*_unscaled(node), None)


def _unscaled(node: Node) -> tuple[Node, float]:
    """A product and the number that it is multiplied with."""
    factor: Any = node.argument("other") if node.op.name in ("aten.mul.Tensor", "aten.div.Tensor") else None
    if not isinstance(factor, int | float) or factor == 0:
        return node, 1.0
    return node.argument("self"), float(factor) if node.op.name == "aten.mul.Tensor" else 1.0 / factor


def _keys(product: Node, match: RewriteContext) -> Node | None:
    """The keys ``[batch, heads, keys, width]`` of ``query @ key^T``; None where it is something else."""
    turned = product.argument("other") if product.op.name == "aten.matmul.default" else None
    if turned is None or turned.op.name != PERMUTE or turned.tensor_type.rank != 4:
        return None
    order = permutation_of(turned)
    order = (*order[:2], order[3], order[2])
    return source_of(turned) if order == (0, 1, 2, 3) else match.node(PERMUTE, source_of(turned), order)


def _unfit(scores: _Scores, weights: Node, mixed: Node) -> str | None:
    """Why this is not attention as the op has it, or None."""
    sides = (scores.product.argument("self"), scores.product.argument("other"), mixed.argument("other"))
    if any(not same_shape(side.tensor_type.shape[:2], weights.tensor_type.shape[:2]) for side in sides):
        return "queries, keys and values differ in batch or heads"
    if scores.scale <= 0:
        return f"the scale {scores.scale} is not positive"
    kind = weights.tensor_type.dtype
    if scores.mask is not None and scores.mask.tensor_type.dtype not in (torch.bool, kind):
        return f"the mask is of {scores.mask.tensor_type.dtype}, the scores of {kind}"
    return None


def _attended(mask: Node | None, match: RewriteContext) -> Node | None:
    """The op wants two axes, and booleans where a score counts; a model's fill says where it does not."""
    if mask is None:
        return None
    shape = mask.tensor_type.shape
    if len(shape) < 2:
        mask = match.node(RESHAPE, mask, (*[1] * (2 - len(shape)), *shape))
    return match.node("aten.logical_not", mask) if mask.tensor_type.dtype == torch.bool else mask


def _is_causal(mask: Node, weights: Node) -> bool:
    """Whether a mask leaves the scores of every position with itself and what comes before, and hides all others."""
    rows, columns = weights.tensor_type.shape[-2:]
    shape = mask.tensor_type.shape
    if not isinstance(rows, int) or rows != columns:
        return False
    if tuple(shape[-2:]) != (rows, rows) or any(size != 1 for size in shape[:-2]):
        return False
    values = mask.handle.tensor.reshape(rows, rows)
    later = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    if values.dtype == torch.bool:
        return torch.equal(values, later)
    return bool((values[later] <= HIDDEN).all()) and not bool(values[~later].any())


def _shared(key: Node, value: Node) -> tuple[Node, Node, bool]:
    """Keys and values before they were repeated for groups of queries, and whether they were."""
    plain_key, plain_value = _unrepeated(key), _unrepeated(value)
    grouped = plain_key is not key and plain_key.tensor_type == plain_value.tensor_type
    return (plain_key, plain_value, True) if grouped else (key, value, False)


def _unrepeated(node: Node) -> Node:
    if node.op.name != "aten.repeat_interleave.self_int" or node.argument("dim") != 1:
        return node
    return node.argument("self")


CAUSAL_RULES: tuple[Rule, ...] = (causal_attention,)
ALL_RULES: tuple[Rule, ...] = (causal_attention, any_attention)


@dataclass(frozen=True)
class FuseAttention:
    """``softmax(q @ k^T * scale + mask) @ v -> scaled_dot_product_attention(q, k, v, mask)``. Exact.

    A mask that hides exactly what comes later becomes ``is_causal=True``. Refuses where queries, keys and values differ
    in batch or heads, and masks of another type than the scores. The one difference: a row that minus infinity hides
    entirely is NaN where it is spelled out, and zero in the op.

    Attributes:
        causal_only: leave all other masks, and attention without one, spelled out.
    """

    name: ClassVar[str] = "fuse-attention"
    exact: ClassVar[bool] = True

    causal_only: bool = False

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite to the fixed point."""
        return rewrite(graph, CAUSAL_RULES if self.causal_only else ALL_RULES)
