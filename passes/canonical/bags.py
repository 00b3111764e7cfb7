"""Bags of embeddings, all of one length: rows are looked up, then summed, averaged or maximised."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ir.graph import Node
from ..rewrite import RewriteContext, same_dim, same_shape
from ..rules import Outcome, Rule, refuse, rule

_SUM, _MEAN, _MAX = range(3)


@rule("getitem")
def bags_of_one_length(node: Node, match: RewriteContext) -> Outcome:
    """``embedding_bag(W, ids.reshape(-1), arange(0, n, length))[0] -> reduce(embedding(W, ids))``.

    What ``nn.EmbeddingBag`` computes of indices ``[bags, length]``. Bags with offsets of their own stay as they are.
    """
    bag = node.argument("value")
    if bag.op.packet != "aten.embedding_bag" or node.argument("index") != 0:
        return None
    ids = _rows_of_ids(bag)
    if ids is None:
        return refuse("its bags have offsets of their own")
    looked_up = match.node("aten.embedding", bag.argument("weight"), ids)
    weights = bag.argument("per_sample_weights")
    if weights is not None:
        shape = (*ids.tensor_type.shape, 1)
        looked_up = match.node("aten.mul.Tensor", looked_up, match.node("aten.reshape", weights, shape))
    result = _reduced(match, looked_up, ids, int(bag.argument("mode") or 0), bag.argument("padding_idx"))
    if not same_shape(result.tensor_type.shape, node.tensor_type.shape):
        return refuse("the number of bags depends on sizes in another way")
    return result


def _rows_of_ids(bag: Node) -> Node | None:
    """The indices ``[bags, length]``, where the offsets say that every bag is one row of them."""
    flat, offsets = bag.argument("indices"), bag.argument("offsets")
    if flat.op.name != "aten.reshape.default" or bag.argument("include_last_offset"):
        return None
    ids = flat.argument("self")
    if ids.tensor_type.rank != 2 or ids.tensor_type.dtype not in (torch.int64, torch.int32):
        return None
    count, length = ids.tensor_type.shape
    if offsets.is_constant:
        even = isinstance(count, int) and isinstance(length, int) and length > 0
        known = offsets.handle.tensor
        return ids if even and torch.equal(known, torch.arange(count).to(known.dtype) * length) else None
    start, step = offsets.argument("start"), offsets.argument("step")
    is_range = offsets.op.name == "aten.arange.start_step" and start == 0
    return ids if is_range and same_dim(step, length) else None


def _reduced(match: RewriteContext, rows: Node, ids: Node, mode: int, padding: Any) -> Node:
    """Over the entries of a bag that are no padding; 0 where there is none."""
    padded = isinstance(padding, int) and padding >= 0
    if not padded:
        name = {_SUM: "aten.sum.dim_IntList", _MEAN: "aten.mean.dim", _MAX: "aten.amax"}[mode]
        return match.node(name, rows, (1,))
    kept = match.node("aten.unsqueeze", match.node("aten.ne.Scalar", ids, padding), 2)
    count = match.node("aten.sum.dim_IntList", match.node("aten._to_copy", kept, dtype=rows.tensor_type.dtype), (1,))
    if mode == _MAX:
        hidden = match.node("aten.where.ScalarOther", kept, rows, -math.inf)
        most, some = match.node("aten.amax", hidden, (1,)), match.node("aten.gt.Scalar", count, 0)
        return match.node("aten.where.ScalarOther", some, most, 0.0)
    total = match.node("aten.sum.dim_IntList", match.node("aten.where.ScalarOther", kept, rows, 0.0), (1,))
    if mode == _SUM:
        return total
    return match.node("aten.div.Tensor", total, match.node("aten.clamp", count, 1))


BAG_RULES: tuple[Rule, ...] = (bags_of_one_length,)
