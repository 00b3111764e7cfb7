"""Layout: one spelling for transposes and one for views; what leaves a value as it is goes away."""

from __future__ import annotations

from typing import Any, cast

import torch

from ...ir.graph import Node
from ...ir.op import GETITEM
from ...ir.types import TensorType
from ..rewrite import RewriteContext, same_type
from ..rules import Outcome, Rule, rule

PERMUTE = "aten.permute.default"
RESHAPE = "aten.reshape.default"
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)

PERMUTATIONS = (
    "aten.t.default",
    "aten.transpose.int",
    "aten.swapaxes.default",
    "aten.swapdims.default",
    "aten.mT.default",
    "aten.numpy_T.default",
    "aten.movedim.int",
    "aten.movedim.intlist",
    "aten.moveaxis.int",
    "aten.moveaxis.intlist",
    PERMUTE,
)
VIEWS = (
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten._reshape_alias.default",
    "aten.reshape_as.default",
    "aten.view_as.default",
    "aten.flatten.using_ints",
    "aten.ravel.default",
    "aten.unflatten.int",
    RESHAPE,
)
UNIT_AXES = ("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.unsqueeze.default")
RESHAPE_LIKE = frozenset((*VIEWS, *UNIT_AXES))
"""Ops that keep the elements in order and change only the shape."""

CASTS = (
    "aten._to_copy.default",
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten.to.other",
    "aten.type_as.default",
)
IDENTITIES = (
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.lift_fresh.default",
    "aten.lift_fresh_copy.default",
    "aten.positive.default",
    "aten.resolve_conj.default",
    "aten.resolve_neg.default",
    "aten.expand.default",
    "aten.expand_as.default",
    "aten.broadcast_to.default",
    "aten.repeat.default",
    *UNIT_AXES,
    *VIEWS,
)
"""Ops that leave a value as it is whenever the type of the result is the type of the first argument."""


def source_of(node: Node) -> Node:
    """The first input of a node."""
    return node.inputs[0]


def permutation_of(node: Node) -> tuple[int, ...]:
    """Result axis ``i`` of a permutation is axis ``permutation_of(node)[i]`` of its input.

    Spellings other than ``permute`` are run on a tensor whose sizes are all different.
    """
    rank = source_of(node).tensor_type.rank
    if node.op.name == PERMUTE:
        return tuple(axis % rank for axis in node.argument("dims"))
    probe = torch.empty(_PRIMES[:rank], device="meta")
    rest = [list(cast(Any, v)) if isinstance(v, tuple) else v for _, v in node.arguments[1:]]
    moved = cast(Any, node.op.overload)(probe, *rest)
    return tuple(_PRIMES.index(size) for size in moved.shape)


@rule(*PERMUTATIONS)
def to_permute(node: Node, match: RewriteContext) -> Outcome:
    """Any transpose -> ``permute`` with non-negative axes; the identity goes away."""
    if source_of(node).tensor_type.rank > len(_PRIMES):
        return None
    order = permutation_of(node)
    if order == tuple(range(len(order))):
        return source_of(node)
    return match.node(PERMUTE, source_of(node), order)


@rule(PERMUTE)
def permute_of_permute(node: Node, match: RewriteContext) -> Outcome:
    """``permute(permute(x, p), q) -> permute(x, p[q])``."""
    inner = source_of(node)
    if inner.op.name != PERMUTE:
        return None
    first, second = permutation_of(inner), permutation_of(node)
    return match.node(PERMUTE, source_of(inner), tuple(first[axis] for axis in second))


@rule(*VIEWS)
def to_reshape(node: Node, match: RewriteContext) -> Outcome:
    """Any view -> ``reshape`` with the full shape, so that -1 and equal views are one spelling."""
    return match.node(RESHAPE, source_of(node), node.tensor_type.shape)


@rule(RESHAPE, *UNIT_AXES)
def reshape_of_reshape(node: Node, match: RewriteContext) -> Outcome:
    """``reshape(reshape(x)) -> reshape(x)``, with squeeze and unsqueeze too; ``x`` where its shape is back."""
    inner = source_of(node)
    if inner.op.name not in RESHAPE_LIKE:
        return None
    base = source_of(inner)
    if same_type(base.type, node.type):
        return base
    if RESHAPE not in (node.op.name, inner.op.name):
        return None
    return match.node(RESHAPE, base, node.tensor_type.shape)


@rule(*IDENTITIES)
def no_op(node: Node, match: RewriteContext) -> Outcome:
    """``f(x) -> x`` where f only changes what a type does not hold: memory, autograd, a shape that is already there."""
    del match
    return source_of(node) if same_type(source_of(node).type, node.type) else None


@rule(*CASTS)
def to_cast(node: Node, match: RewriteContext) -> Outcome:
    """Any conversion -> ``_to_copy(x, dtype)``; to the dtype that is there -> ``x``. Other devices are left."""
    device = node.argument("device")
    if device is not None and torch.device(device).type != "cpu":
        return None
    if same_type(source_of(node).type, node.type):
        return source_of(node)
    return match.node("aten._to_copy", source_of(node), dtype=node.tensor_type.dtype)


_WIDER = {
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
    torch.int32: (torch.int64,),
}


@rule("aten._to_copy.default")
def cast_there_and_back(node: Node, match: RewriteContext) -> Outcome:
    """``x.wider().narrow() -> x`` where x was narrow: widening loses nothing."""
    del match
    inner = source_of(node)
    if inner.op.name != "aten._to_copy.default" or not same_type(source_of(inner).type, node.type):
        return None
    wide = inner.tensor_type.dtype in _WIDER.get(node.tensor_type.dtype, ())
    return source_of(inner) if wide else None


@rule("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def to_expand(node: Node, match: RewriteContext) -> Outcome:
    """``expand`` with the full shape; ``expand(expand(x)) -> expand(x)``."""
    source = source_of(node)
    base = source_of(source) if source.op.name == "aten.expand.default" else source
    return match.node("aten.expand", base, node.tensor_type.shape)


@rule("aten.slice.Tensor")
def slice_range(node: Node, match: RewriteContext) -> Outcome:
    """Slices of a fixed size count from the front and leave out an end that is the size; the full range -> ``x``."""
    source = source_of(node)
    if same_type(source.type, node.type) and node.argument("step") == 1:
        return source
    dim = node.argument("dim") % source.tensor_type.rank
    size = source.tensor_type.shape[dim]
    start, end = node.argument("start"), node.argument("end")
    if not isinstance(size, int) or not all(v is None or isinstance(v, int) for v in (start, end)):
        return None
    first = 0 if start is None else max(start + size, 0) if start < 0 else min(start, size)
    last = None if end is None or end >= size else max(end + size, 0) if end < 0 else end
    return match.node("aten.slice.Tensor", source, dim, first, last, node.argument("step"))


@rule("aten.slice_scatter.default")
def whole_slice_scatter(node: Node, match: RewriteContext) -> Outcome:
    """``slice_scatter(x, value, 0, 0, end)`` over the full range -> ``value``."""
    del match
    value = node.argument("src")
    return value if same_type(value.type, node.type) else None


@rule("aten.copy.default")
def copy_of_values(node: Node, match: RewriteContext) -> Outcome:
    """``copy(x, value)``, what a write leaves in ``x``, -> ``value`` in the dtype and shape of ``x``: derivable."""
    value = node.argument("src")
    if value.tensor_type.dtype != node.tensor_type.dtype:
        value = match.node("aten._to_copy", value, dtype=node.tensor_type.dtype)
    if value.tensor_type.shape != node.tensor_type.shape:
        value = match.node("aten.expand", value, node.tensor_type.shape)
    return value


@rule("aten.narrow.default")
def narrow_to_slice(node: Node, match: RewriteContext) -> Outcome:
    """``narrow(x, d, start, length) -> slice(x, d, start, start + length)``."""
    source, dim, start = source_of(node), node.argument("dim"), node.argument("start")
    if isinstance(start, Node):
        return None
    if isinstance(start, int) and start < 0:
        start += source.tensor_type.shape[dim]
    return match.node("aten.slice.Tensor", source, dim, start, start + node.argument("length"))


@rule("aten.chunk.default")
def chunk_to_split(node: Node, match: RewriteContext) -> Outcome:
    """``chunk(x, n, d) -> split(x, size, d)`` with the size of the first piece, which all pieces but the last have."""
    dim = node.argument("dim")
    size = cast("tuple[TensorType, ...]", node.type)[0].shape[dim]
    return match.node("aten.split.Tensor", source_of(node), size, dim) if size != 0 else None


@rule("aten.cat.default", "aten.stack.default")
def join_of_one(node: Node, match: RewriteContext) -> Outcome:
    """``cat([x]) -> x``; ``stack([x], d) -> unsqueeze(x, d)``."""
    if len(node.argument("tensors")) != 1:
        return None
    (source,) = node.argument("tensors")
    return source if node.op.name == "aten.cat.default" else match.node("aten.unsqueeze", source, node.argument("dim"))


_PADDED_RANKS = {"reflect": "reflection", "replicate": "replication"}


@rule("aten.pad.default")
def pad_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``pad(x, p, mode)`` -> ``constant_pad_nd``, ``reflection_pad2d``, ``replication_pad2d``; "circular" stays."""
    source, sizes, mode = source_of(node), node.argument("pad"), node.argument("mode")
    if mode == "constant":
        return match.node("aten.constant_pad_nd", source, sizes, node.argument("value") or 0)
    spatial = len(sizes) // 2
    if mode not in _PADDED_RANKS or spatial not in (1, 2, 3):
        return None
    return match.node(f"aten.{_PADDED_RANKS[mode]}_pad{spatial}d", source, sizes)


@rule("aten.constant_pad_nd.default")
def empty_pad(node: Node, match: RewriteContext) -> Outcome:
    """``pad(x, zeros) -> x``."""
    del match
    return source_of(node) if all(p == 0 for p in node.argument("pad")) else None


_DROPOUTS = (
    "aten.dropout.default",
    "aten.feature_dropout.default",
    "aten.alpha_dropout.default",
    "aten.feature_alpha_dropout.default",
)


@rule(*_DROPOUTS)
def dropout_in_evaluation(node: Node, match: RewriteContext) -> Outcome:
    """``dropout(x, p, train=False) -> x``, and with ``p = 0``."""
    del match
    return source_of(node) if not node.argument("train") or node.argument("p") == 0 else None


@rule(GETITEM.name)
def native_dropout_in_evaluation(node: Node, match: RewriteContext) -> Outcome:
    """``native_dropout(x, p, False)[0] -> x``."""
    del match
    value = node.argument("value")
    if value.op.name != "aten.native_dropout.default" or node.argument("index") != 0:
        return None
    return source_of(value) if not value.argument("train") else None


_ONE_AXIS = (
    "aten.cat.default",
    "aten.chunk.default",
    "aten.cumsum.default",
    "aten.glu.default",
    "aten.log_softmax.int",
    "aten.select.int",
    "aten.softmax.int",
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.squeeze.dim",
    "aten.unbind.int",
)
_NEW_AXIS = ("aten.stack.default", "aten.unsqueeze.default")
_AXES = ("aten.amax.default", "aten.amin.default", "aten.mean.dim", "aten.squeeze.dims", "aten.sum.dim_IntList")


@rule(*_ONE_AXIS, *_NEW_AXIS, *_AXES)
def axis_from_front(node: Node, match: RewriteContext) -> Outcome:
    """Axes count from the front."""
    rank = source_of(node).tensor_type.rank + (node.op.name in _NEW_AXIS)
    given = node.argument("dim")
    axes = given if isinstance(given, tuple) else (given,)
    if rank == 0 or all(a is None or a >= 0 for a in axes):
        return None
    front = tuple(a % rank for a in axes)
    arguments = {**dict(node.arguments), "dim": front if isinstance(given, tuple) else front[0]}
    return match.remake(node.op.name, arguments)


LAYOUT_RULES: tuple[Rule, ...] = (
    no_op,
    to_permute,
    permute_of_permute,
    to_reshape,
    reshape_of_reshape,
    to_cast,
    cast_there_and_back,
    to_expand,
    slice_range,
    narrow_to_slice,
    whole_slice_scatter,
    copy_of_values,
    chunk_to_split,
    join_of_one,
    pad_spelling,
    empty_pad,
    dropout_in_evaluation,
    native_dropout_in_evaluation,
    axis_from_front,
)
