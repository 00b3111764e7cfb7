"""Legalisation of statically quantized values: convolutions and additions in integers."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node
from ...passes.rewrite import RewriteContext
from ...passes.rules import Outcome, Rule, refuse, rule

STATIC = "instar.fake_quantize_static.default"
QUANTIZE = "instar_ort.quantize.default"
BACK = "instar_ort.dequantize.default"

_RELU = "aten.relu.default"
_CLIPS = ("aten.hardtanh.default", "aten.clamp.default")
ONE_STEP = 1.0 + 1e-6


@rule(STATIC)
def split_static(node: Node, match: RewriteContext) -> Outcome:
    """``fake_quantize_static(x)`` -> codes and back."""
    if node.argument("symmetric") or node.argument("bits") != 8:
        return refuse("codes are {}-bit {}; the kernels take unsigned 8-bit codes", node.argument("bits"), "signed")
    scale, zero = node.argument("scale"), node.argument("zero_point")
    codes = match.context.node("instar_ort.quantize", node.argument("x"), scale, zero)
    return match.context.node("instar_ort.dequantize", codes, scale, zero)


@rule(QUANTIZE)
def quantize_of_codes(node: Node, match: RewriteContext) -> Outcome:
    """Codes that were dequantized with the same scale are the codes themselves."""
    del match
    source = node.argument("x")
    if source.op.name != BACK or not _same_scale(source, node):
        return None
    return source.argument("codes")


def _same_scale(a: Node, b: Node) -> bool:
    return a.argument("scale") == b.argument("scale") and a.argument("zero_point") == b.argument("zero_point")


@rule(QUANTIZE)
def integer_conv(node: Node, match: RewriteContext) -> Outcome:
    """``quantize(activation(conv(codes, weight)))`` -> ``QLinearConv``."""
    conv = _absorbed(node)
    if conv is None or conv.op.name not in ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default"):
        return None
    source, weight = conv.argument("input"), conv.argument("weight")
    if source.op.name != BACK:
        return None
    if weight.op.name != "instar.dequantize.default":
        return refuse("the weight is not stored as integers")
    if weight.argument("scale").tensor_type.shape[1] != 1 or weight.argument("zero") is not None:
        return refuse("the weight has scales per group or zero points; QLinearConv takes one scale per channel")
    return _conv(conv, source, weight, node, match)


def _conv(conv: Node, source: Node, weight: Node, node: Node, match: RewriteContext) -> Node:
    stored = [weight.argument(a) for a in ("codes", "scale", "zero", "bits", "group", "shape")]
    expanded = match.context.node("instar_ort.expand_int8", *stored, False)
    rank = len(weight.tensor_type.shape) - 2
    return match.context.node(
        "instar_ort.int8_conv",
        source.argument("codes"), source.argument("scale"), source.argument("zero_point"),
        match.context.item(expanded, 0), match.context.item(expanded, 1), conv.argument("bias"),
        node.argument("scale"), node.argument("zero_point"),
        *(_spread(conv.argument(a), rank) for a in ("stride", "padding", "dilation")), conv.argument("groups"),
    )  # fmt: skip


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    given = value if isinstance(value, tuple) else (value,)
    return tuple(int(v) for v in given) * (rank if len(given) == 1 else 1)


@rule(QUANTIZE)
def integer_add(node: Node, match: RewriteContext) -> Outcome:
    """``quantize(activation(a + b))`` of two dequantized values -> ``QLinearAdd``."""
    total = _absorbed(node)
    if total is None or total.op.name != "aten.add.Tensor" or total.argument("alpha", 1) != 1:
        return None
    sides = [total.argument("self"), total.argument("other")]
    if not all(isinstance(s, Node) and s.op.name == BACK for s in sides):
        return None
    parts = [s.argument(a) for s in sides for a in ("codes", "scale", "zero_point")]
    return match.context.node("instar_ort.int8_add", *parts, node.argument("scale"), node.argument("zero_point"))


def _absorbed(node: Node) -> Node | None:
    """What is quantized, behind an activation that the saturation of the codes already is."""
    source: Node = node.argument("x")
    zero, top = node.argument("zero_point"), node.argument("scale") * (255 - node.argument("zero_point"))
    if source.op.name == _RELU:
        return source.argument("self") if zero == 0 else None
    if source.op.name in _CLIPS:
        low, high = _bounds(source)
        fits = zero == 0 and low == 0 and (high is None or top <= high * ONE_STEP)
        return source.argument("self") if fits else None
    return source


def _bounds(node: Node) -> tuple[float | None, float | None]:
    if node.op.name.startswith("aten.hardtanh"):
        return node.argument("min_val"), node.argument("max_val")
    return node.argument("min"), node.argument("max")


STATIC_RULES: tuple[Rule, ...] = (split_static, quantize_of_codes, integer_conv, integer_add)
