"""What a scheduler must know of an operator: its kind, its window, the axis along which it joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.graph import Node
from ...schedulers.scratchpad.problem import Window
from .fusion import VIEWS, Fused
from .layouts import Layout, is_simple

WHOLE = "whole: "
"""In front of the name of what needs all rows of what it reads."""

BINARY = {
    "aten.add.Tensor": "add",
    "aten.sub.Tensor": "sub",
    "aten.mul.Tensor": "mul",
    "aten.div.Tensor": "div",
    "aten.maximum.default": "maximum",
    "aten.minimum.default": "minimum",
}


SOFTMAX = ("instar.softmax_codes.default", "aten._softmax.default", "aten.softmax.int")
MATRICES = ("instar.matmul_sums.default", "instar.weighted_means.default", "aten.matmul.default", "aten.bmm.default")


@dataclass(frozen=True)
class Geometry:
    """See :class:`~instar.schedulers.scratchpad.problem.Operator`."""

    kind: str
    window: Window | None = None
    groups: int = 1
    axis: int | None = None


def geometry(fused: Fused, source: Layout, result: Layout) -> Geometry:
    """Of an operator, from the layouts of its first operand and its result. What is not known needs all rows."""
    node = fused.anchor
    whole = Geometry(WHOLE + node.op.short_name)
    name = node.op.name
    if any(part.op.name in VIEWS for part in fused.nodes) and not _one_row(result):
        return whole
    if name == "instar.conv_sums.default" or name in ("aten.conv1d.default", "aten.conv2d.default"):
        return _convolution(node, source)
    if name in POOLS:
        return _pooling(node, POOLS[name], source)
    if name in ("instar.linear_sums.default", "aten.linear.default"):
        return Geometry("fully_connected")
    if name in MATRICES:
        return Geometry("batch_matmul") if len(source.shape) == len(result.shape) else whole
    if name in SOFTMAX:
        within_rows = _last_axis(-1 if name == SOFTMAX[0] else node.argument("dim"), source)
        return Geometry("softmax") if within_rows else whole
    if name == "aten.layer_norm.default":
        return Geometry("layer_norm") if len(node.argument("normalized_shape")) == 1 and not source.image else whole
    if name == "aten.rms_norm.default":
        return Geometry("rms_norm") if len(node.argument("normalized_shape")) == 1 and not source.image else whole
    if name == "aten.cat.default":
        return _joining(fused, source, result)
    if name.startswith("aten.upsample_nearest2d"):
        whole_factor = all(b % a == 0 for a, b in zip(source.shape[2:], result.shape[2:], strict=True))
        return Geometry("resize_nearest_neighbor") if whole_factor else whole
    if is_simple(node):
        return Geometry(BINARY.get(name, "pointwise"))
    return whole


def _one_row(result: Layout) -> bool:
    return sum(size != 1 for size in result.shape) <= 1


def _convolution(node: Node, source: Layout) -> Geometry:
    weight = node.argument("weight").tensor_type.shape
    groups = int(node.argument("groups"))
    channels = source.shape[1]
    kind = "depthwise_conv_2d" if groups == channels and groups > 1 else "conv_2d"
    if not source.image or isinstance(node.argument("padding"), str):
        return Geometry(WHOLE + node.op.short_name)
    return Geometry(kind, _window(node, [int(size) for size in weight[2:]]), groups)


POOLS = {
    "aten.max_pool2d.default": "max_pool_2d",
    "aten.max_pool2d_with_indices.default": "max_pool_2d",
    "aten.avg_pool2d.default": "average_pool_2d",
    "aten.max_pool1d.default": "max_pool_2d",
    "aten.avg_pool1d.default": "average_pool_2d",
}


def _pooling(node: Node, kind: str, source: Layout) -> Geometry:
    kernel = _numbers(node.argument("kernel_size"), len(source.shape) - 2)
    return Geometry(kind, _window(node, kernel)) if source.image else Geometry(WHOLE + node.op.short_name)


def _window(node: Node, kernel: list[int]) -> Window:
    rank = len(kernel)
    stride = _numbers(node.argument("stride") or tuple(kernel), rank)
    pad = _numbers(node.argument("padding") or 0, rank)
    hole = _numbers(node.argument("dilation") or 1, rank)
    high, wide = ([1] * (2 - rank) + values for values in (kernel, stride)), [0] * (2 - rank) + pad
    kernels, strides = high
    holes = [1] * (2 - rank) + hole
    return Window(_pair(kernels), _pair(strides), _pair(holes), (wide[0], wide[0], wide[1], wide[1]))


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1]


def _numbers(value: Any, rank: int) -> list[int]:
    given = list(value) if isinstance(value, tuple) else [value]
    return [int(v) for v in given] * (rank if len(given) == 1 else 1)


def _last_axis(axis: Any, layout: Layout) -> bool:
    return not layout.image and int(axis) % len(layout.shape) == len(layout.shape) - 1


def _joining(fused: Fused, source: Layout, result: Layout) -> Geometry:
    """A concatenation of stored values as they are, along what is last in memory, leaves its parts where they are."""
    axis = int(fused.anchor.argument("dim") or 0) % len(result.shape)
    last = 1 if result.image else len(result.shape) - 1
    pure = len(fused.nodes) == 1 and len(set(fused.inputs)) == len(fused.anchor.argument("tensors"))
    if pure and axis == last and len(source.stored_shape) == len(result.stored_shape):
        return Geometry("concatenation", axis=len(result.stored_shape) - 1)
    return Geometry(WHOLE + "concatenation")
