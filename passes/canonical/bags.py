"""Bags of embeddings, of one length or with offsets: rows are looked up, then summed, averaged or maximised."""

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

    What ``nn.EmbeddingBag`` computes of indices ``[bags, length]``.
    """
    bag = node.argument("value")
    if bag.op.packet != "aten.embedding_bag" or node.argument("index") != 0:
        return None
    ids = _rows_of_ids(bag)
    if ids is None:
        return None
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


@rule("getitem")
def bags_with_offsets(node: Node, match: RewriteContext) -> Outcome:
    """``embedding_bag(W, ids, offsets)[0] -> scatter(zeros, bag of each index, embedding(W, ids))``.

    The exporter's own translation loops over bags, and for averages ONNX Runtime ends the whole process over it.
    """
    bag = node.argument("value")
    if bag.op.packet != "aten.embedding_bag" or node.argument("index") != 0 or _rows_of_ids(bag) is not None:
        return None
    mode, places = int(bag.argument("mode") or 0), _bag_of_each(match, bag)
    rows, ones = _entries(match, bag, mode)
    shape, kind = node.tensor_type.shape, node.tensor_type.dtype
    if mode == _SUM:
        return match.node("aten.index_add", _filled(match, shape, 0.0, kind), 0, places, rows)
    counts = match.node("aten.index_add", _filled(match, shape[:1], 0.0, kind), 0, places, ones)
    counts = match.node("aten.unsqueeze", counts, 1)
    if mode == _MAX:
        index = match.node("aten.expand", match.node("aten.unsqueeze", places, 1), rows.tensor_type.shape)
        most = match.node("aten.scatter_reduce.two", _filled(match, shape, -math.inf, kind), 0, index, rows, "amax")
        return match.node("aten.where.ScalarOther", match.node("aten.gt.Scalar", counts, 0), most, 0.0)
    total = match.node("aten.index_add", _filled(match, shape, 0.0, kind), 0, places, rows)
    return match.node("aten.div.Tensor", total, match.node("aten.clamp", counts, 1))


def _entries(match: RewriteContext, bag: Node, mode: int) -> tuple[Node, Node]:
    """The row of every index, without weight where it is padding, and 1 for each that is none."""
    ids, weights, padding = (bag.argument(name) for name in ("indices", "per_sample_weights", "padding_idx"))
    rows = match.node("aten.embedding", bag.argument("weight"), ids)
    kind = rows.tensor_type.dtype
    if weights is not None:
        rows = match.node("aten.mul.Tensor", rows, match.node("aten.unsqueeze", weights, 1))
    if not isinstance(padding, int) or padding < 0:
        return rows, _filled(match, ids.tensor_type.shape, 1.0, kind)
    kept = match.node("aten.ne.Scalar", ids, padding)
    hidden = -math.inf if mode == _MAX else 0.0
    rows = match.node("aten.where.ScalarOther", match.node("aten.unsqueeze", kept, 1), rows, hidden)
    return rows, _as(match, kept, kind)


def _bag_of_each(match: RewriteContext, bag: Node) -> Node:
    """int64 ``[indices]``: bags that have begun at or before each index, less one: empty ones begin with the next."""
    offsets, total = _as(match, bag.argument("offsets"), torch.int64), bag.argument("indices").tensor_type.shape[0]
    if bag.argument("include_last_offset"):
        offsets = match.node("aten.slice.Tensor", offsets, 0, 0, -1)
    one = _filled(match, offsets.tensor_type.shape, 1, torch.int64)
    begun = match.node("aten.index_add", _filled(match, (total + 1,), 0, torch.int64), 0, offsets, one)
    so_far = match.node("aten.slice.Tensor", match.node("aten.cumsum", begun, 0), 0, 0, total)
    return match.node("aten.sub.Scalar", so_far, 1)


def _filled(match: RewriteContext, shape: tuple[Any, ...], value: float, dtype: torch.dtype) -> Node:
    return match.node("aten.full", shape, value, dtype=dtype, device=torch.device("cpu"), pin_memory=False)


def _as(match: RewriteContext, value: Node, dtype: torch.dtype) -> Node:
    return value if value.tensor_type.dtype == dtype else match.node("aten._to_copy", value, dtype=dtype)


BAG_RULES: tuple[Rule, ...] = (bags_of_one_length, bags_with_offsets)
