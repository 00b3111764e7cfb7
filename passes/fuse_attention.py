"""Causal attention that a model spells out becomes one op, so that a target can skip what the mask hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..ir.graph import Graph, Node
from .base import PassResult
from .rewrite import RewriteContext, rewrite
from .rules import Outcome, Rule, refuse, rule

ATTENTION = "aten.scaled_dot_product_attention.default"

HIDDEN = -1e30
"""A score that is this far below all others has weight 0 in every float type."""


@rule("aten.matmul.default")
def causal_attention(node: Node, match: RewriteContext) -> Outcome:
    """``softmax(q @ k^T * scale + causal mask) @ v``, keys and values perhaps repeated for groups of queries."""
    weights, values = node.argument("self"), node.argument("other")
    if weights.op.name != "aten.softmax.int" or weights.argument("dim") not in (-1, 3):
        return None
    scores, mask = _unmasked(weights.argument("self"))
    if scores is None or mask is None:
        return None
    product, scale = _unscaled(scores)
    keys = product.argument("other") if product.op.name == "aten.matmul.default" else None
    if keys is None or keys.op.name != "aten.permute.default" or tuple(keys.argument("dims")) != (0, 1, 3, 2):
        return refuse("the scores are no product of queries with transposed keys, but {}", product.op.name)
    if not _is_causal(mask, weights):
        return refuse("the mask {} does not hide exactly what comes later", mask.handle.name)
    query, key = product.argument("self"), keys.argument("self")
    plain_key, plain_value = _unrepeated(key), _unrepeated(values)
    grouped = plain_key is not key and plain_key.tensor_type == plain_value.tensor_type
    if grouped:
        key, values = plain_key, plain_value
    return match.node(ATTENTION, query, key, values, None, 0.0, True, scale=scale, enable_gqa=grouped)


def _unmasked(node: Node) -> tuple[Node, Node] | tuple[None, None]:
    """Scores and the constant mask over them."""
    if node.op.name == "aten.masked_fill.Scalar" and node.argument("value") <= HIDDEN:
        mask = node.argument("mask")
    elif node.op.name == "aten.add.Tensor" and node.argument("alpha", 1) == 1:
        mask = node.argument("other")
    else:
        return None, None
    return (node.argument("self"), mask) if isinstance(mask, Node) and mask.is_constant else (None, None)


def _unscaled(node: Node) -> tuple[Node, float]:
    """A product and the number that it is multiplied with."""
    factor: Any = node.argument("other") if node.op.name in ("aten.mul.Tensor", "aten.div.Tensor") else None
    if not isinstance(factor, int | float) or factor == 0:
        return node, 1.0
    return node.argument("self"), float(factor) if node.op.name == "aten.mul.Tensor" else 1.0 / factor


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


def _unrepeated(node: Node) -> Node:
    if node.op.name != "aten.repeat_interleave.self_int" or node.argument("dim") != 1:
        return node
    return node.argument("self")


FUSE_RULES: tuple[Rule, ...] = (causal_attention,)


@dataclass(frozen=True)
class FuseAttention:
    """``softmax(q @ k^T * scale + mask) @ v -> scaled_dot_product_attention(q, k, v, is_causal=True)``. Exact.

    Refuses masks that are not causal, and leaves those alone that are computed at run time.
    """

    name: ClassVar[str] = "fuse-attention"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite to the fixed point."""
        return rewrite(graph, FUSE_RULES)
