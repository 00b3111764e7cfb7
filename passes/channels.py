"""Per-channel affine functions and the ops that they commute with."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.graph import Node
from ..ir.types import Dim
from .canonical.layout import PERMUTE, RESHAPE_LIKE, permutation_of, source_of
from .rewrite import same_dim
from .rules import Refused, refuse

_PADS = re.compile(r"aten\.(reflection|replication)_pad([123])d\.default")
_RESAMPLES = re.compile(r"aten\.upsample_(?:nearest|linear|bilinear|bicubic|trilinear)([123])d\.\w+")
_AVERAGES = re.compile(r"aten\.(adaptive_)?avg_pool([123])d\.default")
_MAXIMA = re.compile(r"aten\.max_pool([123])d\.default")


@dataclass(frozen=True)
class Affine:
    """``y = scale * x + shift`` along one axis.

    Attributes:
        scale: float64 ``[channels]``.
        shift: float64 ``[channels]``.
        axis: the axis of the value that the channels are.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    axis: int


def before(node: Node, affine: Affine) -> Affine | Refused:
    """The function of the node's input that gives ``affine`` of its result; refused where there is none."""
    return _move(node, affine, forward=False)


def after(node: Node, affine: Affine) -> Affine | Refused:
    """The function of the node's result that ``affine`` of its input gives; refused where there is none."""
    return _move(node, affine, forward=True)


def _move(node: Node, affine: Affine, *, forward: bool) -> Affine | Refused:
    name = node.op.name
    if name == PERMUTE:
        order = permutation_of(node)
        return Affine(affine.scale, affine.shift, order.index(affine.axis) if forward else order[affine.axis])
    if name in RESHAPE_LIKE:
        above, below = source_of(node).tensor_type.shape, node.tensor_type.shape
        return carry(above, below, affine) if forward else carry(below, above, affine)
    return affine if (reason := _objection(node, affine)) is None else reason


def _objection(node: Node, affine: Affine) -> Refused | None:
    """Why an op over the last axes does not commute with the function; ``None`` where it does."""
    name = node.op.name
    spatial = _spatial_axes(name)
    if spatial is None:
        return refuse("{} stands between them", node.op.short_name)
    if affine.axis >= node.tensor_type.rank - spatial:
        return refuse("{} works along the axis of the channels", node.op.short_name)
    if _AVERAGES.fullmatch(name) and not _averages_values_only(node):
        return refuse("{} counts its zero padding", node.op.short_name)
    if _MAXIMA.fullmatch(name) and not bool((affine.scale > 0).all()):
        return refuse("{} does not commute with a scale that is not positive", node.op.short_name)
    return None


def may_commute(node: Node) -> bool:
    """Whether a per-channel function may move through a node, depending on its axis and options."""
    return node.op.name == PERMUTE or node.op.name in RESHAPE_LIKE or _spatial_axes(node.op.name) is not None


@functools.cache
def _spatial_axes(name: str) -> int | None:
    for pattern in (_PADS, _RESAMPLES, _AVERAGES, _MAXIMA):
        if match := pattern.fullmatch(name):
            return int(match.groups()[-1])
    return None


def _averages_values_only(node: Node) -> bool:
    padding: Any = node.argument("padding", 0)
    padded = any(padding) if isinstance(padding, tuple) else padding != 0
    return node.argument("divisor_override") is None and (not padded or not node.argument("count_include_pad"))


def carry(source: Sequence[Dim], target: Sequence[Dim], affine: Affine) -> Affine | Refused:
    """The same function after a reshape from ``source`` to ``target``.

    The axis may stay one axis, or be merged with neighbours into one: then each channel is repeated.
    """
    for axis in range(len(target)):
        for first in range(affine.axis, -1, -1):
            for last in range(affine.axis, len(source)):
                if _covers(source, first, last, target, axis):
                    return _merged(source[first : last + 1], affine, affine.axis - first, axis)
    return refuse("a reshape from {} to {} mixes the channels", list(source), list(target))


def _covers(source: Sequence[Dim], first: int, last: int, target: Sequence[Dim], axis: int) -> bool:
    """Whether axes ``first`` to ``last`` of the source are exactly one axis of the target."""
    return (
        same_dim(_product(source[first : last + 1]), target[axis])
        and same_dim(_product(source[:first]), _product(target[:axis]))
        and same_dim(_product(source[last + 1 :]), _product(target[axis + 1 :]))
        and not any(same_dim(d, 0) for d in source)
    )


def _product(sizes: Sequence[Dim]) -> Any:
    return math.prod(sizes)


def _merged(group: Sequence[Dim], affine: Affine, position: int, axis: int) -> Affine | Refused:
    if len(group) == 1:
        return Affine(affine.scale, affine.shift, axis)
    if not all(isinstance(d, int) for d in group):
        return refuse("a reshape merges the channels with a dynamic size in {}", list(group))
    sizes = [int(d) for d in group]

    def spread(values: torch.Tensor) -> torch.Tensor:
        shape = [-1 if i == position else 1 for i in range(len(sizes))]
        return values.reshape(shape).expand(sizes).reshape(-1)

    return Affine(spread(affine.scale), spread(affine.shift), axis)
