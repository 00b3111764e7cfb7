"""Fold batch norm into the weights of the convolution or linear layer next to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..ir.graph import Graph, Node
from .base import PassResult
from .canonical.layout import source_of
from .canonical.norms import BATCH_NORM
from .canonical.products import LINEAR
from .channels import Affine, after, before, may_commute
from .rewrite import RewriteContext, rewrite
from .rules import Outcome, Refused, Rule, refuse, rule

CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
TRANSPOSED = ("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
LAYERS = (LINEAR, *CONVOLUTIONS, *TRANSPOSED)
_SPATIAL = re.compile(r"conv(?:_transpose)?([123])d")


@dataclass(frozen=True)
class FoldBatchNorm:
    """Batch norm in evaluation is a scale and a shift per channel: they go into the weights. Exact up to rounding.

    Rewrites (before -> after), for ``conv1d/2d/3d``, ``conv_transpose1d/2d/3d`` and ``linear``:

    * ``batch_norm(conv(x, W, b))`` -> ``conv(x, W * s, b * s + t)``
    * ``conv(batch_norm(x), W, b)`` -> ``conv(x, W * s, b + W t)``, without padding or with ``t = 0``

    and across permutes, reshapes, reflection and replication padding, average pooling, resampling, and max pooling
    where the scale is positive. New weights are computed in float64 and rounded once.

    Refuses, with the reason: batch norm in training mode or with statistics that are computed; a weight that is
    computed, or shared with other layers; a value in between that something else uses; another op in between; a reshape
    that mixes channels; zero padding between batch norm and the layer behind it; a scale that is not finite.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite to the fixed point."""
        return rewrite(graph, RULES)


@rule(BATCH_NORM)
def into_the_layer_before(node: Node, match: RewriteContext) -> Outcome:
    """``batch_norm(between(layer(x))) -> between(layer'(x))``."""
    affine = affine_of(node)
    if isinstance(affine, Refused):
        return affine
    between: list[Node] = []
    below = node.inputs[0]
    while below.op.name not in LAYERS:
        moved = before(below, affine) if below.inputs else refuse("no convolution or linear layer comes before it")
        if isinstance(moved, Refused):
            return moved
        if objection := _used_elsewhere(below, match):
            return objection
        affine = moved
        between.append(below)
        below = source_of(below)
    folded = _fold_output(below, affine, match)
    return folded if isinstance(folded, Refused) else _rebuild(between, below, folded, match)


@rule(*LAYERS)
def into_the_layer_behind(node: Node, match: RewriteContext) -> Outcome:
    """``layer(between(batch_norm(x))) -> layer'(between(x))``."""
    between: list[Node] = []
    below = source_of(node)
    while below.op.name != BATCH_NORM and may_commute(below):
        between.append(below)
        below = source_of(below)
    if below.op.name != BATCH_NORM:
        return None
    affine = affine_of(below)
    if objection := next((r for r in (_used_elsewhere(n, match) for n in (below, *between)) if r), None):
        return objection
    for step in reversed(between):
        affine = affine if isinstance(affine, Refused) else after(step, affine)
    folded = affine if isinstance(affine, Refused) else _fold_input(node, affine, match)
    if isinstance(folded, Refused):
        return folded
    source = _rebuild(between, below, source_of(below), match)
    return match.remake(folded.op.name, {**dict(folded.arguments), folded.op.parameters[0]: source})


def _rebuild(between: list[Node], old: Node, new: Node, match: RewriteContext) -> Node:
    """The nodes in between, nearest to the batch norm first, on top of a new value."""
    replaced = {old: new}
    for step in reversed(between):
        replaced[step] = match.context.rebuild(step, replaced)
    return replaced[between[0]] if between else new


def _used_elsewhere(node: Node, match: RewriteContext) -> Refused | None:
    count = match.use_count(node)
    return refuse("the result of {} has {} uses", node.op.short_name, count) if count > 1 else None


def affine_of(node: Node) -> Affine | Refused:
    """The scale and shift of a batch norm in evaluation, in float64."""
    if node.argument("training"):
        return refuse("the batch norm is in training mode")
    given = [node.argument(name) for name in ("weight", "bias", "running_mean", "running_var")]
    computed = [g for g in given if g is not None and not g.is_constant]
    if computed:
        return refuse("{} is computed, not a constant", computed[0].op.short_name)
    weight, bias, mean, variance = (_float64(g) for g in given)
    scale = torch.rsqrt(variance + node.argument("eps")) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    if not bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        return refuse("its statistics give a scale or shift that is not finite")
    return Affine(scale, shift, 1)


def _float64(constant: Node | None) -> Any:
    """The value of a constant; ``None`` for a weight or bias that the batch norm does not have."""
    return None if constant is None else constant.handle.tensor.to(torch.float64)


# ------------------------------------------------------------------------------------------------ new weights
def _fold_output(layer: Node, affine: Affine, match: RewriteContext) -> Node | Refused:
    if objection := _layer_objection(layer, affine, layer.tensor_type.rank, match):
        return objection
    if objection := _used_elsewhere(layer, match):
        return objection
    groups = layer.argument("groups", 1)
    scale_weight = _scale_transposed_output if layer.op.name in TRANSPOSED else _scale_rows
    bias = _bias(layer, affine.scale.numel())
    return _with_weights(
        layer, scale_weight(_weight(layer), affine.scale, groups), bias * affine.scale + affine.shift, match
    )


def _fold_input(layer: Node, affine: Affine, match: RewriteContext) -> Node | Refused:
    if objection := _layer_objection(layer, affine, source_of(layer).tensor_type.rank, match):
        return objection
    if bool((affine.shift != 0).any()) and (objection := _border_objection(layer)):
        return objection
    weight, groups = _weight(layer), layer.argument("groups", 1)
    if layer.op.name in TRANSPOSED:
        outputs = weight.shape[1] * groups
        return _with_weights(layer, _scale_rows(weight, affine.scale, groups), _bias(layer, outputs), match)
    columns = _by_column(affine.shift, weight, groups)
    bias = _bias(layer, weight.shape[0]) + (weight * columns).flatten(1).sum(1)
    return _with_weights(layer, weight * _by_column(affine.scale, weight, groups), bias, match)


def _layer_objection(layer: Node, affine: Affine, rank: int, match: RewriteContext) -> Refused | None:
    weight, bias = layer.argument("weight"), layer.argument("bias")
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        return refuse("the weight or bias of {} is computed, not a constant", layer.op.short_name)
    if match.use_count(weight) > 1:
        return refuse("{} has {} uses; folding would store it twice", weight, match.use_count(weight))
    axis = rank - 1 - _spatial(layer)
    if affine.axis != axis:
        return refuse("batch norm works along axis {}, the channels are axis {}", affine.axis, axis)
    return None


def _border_objection(layer: Node) -> Refused | None:
    """Zeros that the layer adds around its input would have to be shifted too."""
    if layer.op.name in TRANSPOSED:
        return refuse("a transposed convolution meets zeros at its borders, which batch norm would have shifted")
    if layer.op.name == LINEAR or not any(layer.argument("padding")):
        return None
    return refuse(
        "the convolution pads with zeros ({}), which batch norm would have shifted", layer.argument("padding")
    )


def _spatial(layer: Node) -> int:
    match = _SPATIAL.search(layer.op.name)
    return int(match[1]) if match else 0


def _weight(layer: Node) -> torch.Tensor:
    return layer.argument("weight").handle.tensor.to(torch.float64)


def _bias(layer: Node, channels: int) -> torch.Tensor:
    bias = layer.argument("bias")
    return torch.zeros(channels, dtype=torch.float64) if bias is None else bias.handle.tensor.to(torch.float64)


def _scale_rows(weight: torch.Tensor, scale: torch.Tensor, groups: int) -> torch.Tensor:
    """``weight[i] * scale[i]``."""
    del groups
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))


def _scale_transposed_output(weight: torch.Tensor, scale: torch.Tensor, groups: int) -> torch.Tensor:
    """Weight ``[in, out / groups, ...]`` with output channel ``g * out / groups + j`` scaled."""
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return (split * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def _by_column(values: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Values per input channel as a tensor that broadcasts over a weight ``[out, in / groups, ...]``."""
    rows = values.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], -1, *[1] * (weight.dim() - 2))


def _with_weights(layer: Node, weight: torch.Tensor, bias: torch.Tensor, match: RewriteContext) -> Node:
    old = layer.argument("weight").handle
    dtype = layer.argument("weight").tensor_type.dtype
    given = layer.argument("bias")
    stem = old.name.removesuffix(".weight")
    name = given.handle.name if given is not None else f"{stem}.bias"
    arguments = {
        **dict(layer.arguments),
        "weight": match.constant(old.name, weight.to(dtype), old.kind),
        "bias": match.constant(name, bias.to(dtype), old.kind),
    }
    with match.context.origin(layer.origin):
        return match.remake(layer.op.name, arguments)


RULES: tuple[Rule, ...] = (into_the_layer_before, into_the_layer_behind)
