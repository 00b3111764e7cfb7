"""Kernel ``int8_conv``: runs of convolutions and additions between statically quantized values, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dialect import BIAS_LIMIT
from ....ir.graph import Node
from ....ir.layers import CONV, Layer
from ....ir.options import STATIC_INT8, Activation, Arithmetic, Option
from ....passes.formats import Format, IntFormat
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ....passes.static_codes import BACK, QUANTIZE, codes_of_codes, split_static
from ....passes.static_values import ADD
from ...base import Candidates
from .. import contrib
from ..emit import INT8, INT32, Value, byte, integers, op, scalar
from ..runtimes.needs import Requirement
from ..runtimes.table import CONTRIB
from .base import Kernel, Written
from .offers import saturates
from .weights import DEQUANTIZE, INT8_WEIGHT, expand_int8, stored_weight

_RELU = "aten.relu.default"
_CLIPS = ("aten.hardtanh.default", "aten.clamp.default")
_CONVS = tuple(f"aten.conv{rank}d.default" for rank in (1, 2, 3))
_POOLS = tuple(f"aten.max_pool{rank}d.default" for rank in (1, 2, 3))
_TRANSPOSED = ("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
_FLOATS = {**dict.fromkeys((*_CONVS, *_TRANSPOSED), 1), "aten.linear.default": -1}
"""Products with a weight, and the axis of their input that its columns go along."""

CHANNELS_AND_PLACES = 3
"""Axes of a convolution's values at least: samples, channels, places."""

ONE_STEP = 1.0 + 1e-6


@rule(QUANTIZE)
def integer_conv(node: Node, match: RewriteContext) -> Outcome:
    """``quantize(activation(conv(codes, weight)))`` -> ``QLinearConv``."""
    conv = _absorbed(node)
    if conv is None or conv.op.name not in _CONVS:
        return None
    source, weight = conv.argument("input"), stored_weight(conv.argument("weight"), "int8_conv")
    if source.op.name != BACK:
        return None
    if weight is None or weight.op.name != DEQUANTIZE:
        return refuse("the weight is not stored as integers")
    if weight.argument("scale").tensor_type.shape[1] != 1 or weight.argument("zero") is not None:
        return refuse("the weight has scales per group or zero points; QLinearConv takes one scale per channel")
    return _conv(conv, source, weight, node, match)


@rule(*_FLOATS)
def float_product(node: Node, match: RewriteContext) -> Outcome:
    """A product in float that reads codes -> the same with codes that are converted apart.

    Between ``DequantizeLinear`` and ``QuantizeLinear`` of one scale the runtime rounds the weights of a product to 8
    bits by itself (its WeightBiasQuantization), which no plan asked for and which saturates where products do.
    """
    source, weight, axis = node.argument("input"), node.argument("weight"), _FLOATS[node.op.name]
    pool = source if source.op.name in _POOLS else None  # which the runtime pulls in front of the conversion
    source = source if pool is None else pool.argument("self")
    if source.op.name != BACK or (node.op.name in _CONVS and stored_weight(weight, "int8_conv") is not None):
        return None
    codes, scale, zero = (source.argument(a) for a in ("codes", "scale", "zero_point"))
    apart = match.context.node("instar.dequantize_apart", codes, scale, zero, axis, codes.tensor_type.shape[axis])
    moved = {source: apart} if pool is None else {pool: match.context.rebuild(pool, {source: apart})}
    return match.context.rebuild(node, moved)


@rule(ADD)
def float_sum(node: Node, match: RewriteContext) -> Outcome:
    """A sum of codes and floats -> the same with codes that are converted apart.

    The runtime turns the layout of convolutions on integers, and where a plain ``DequantizeLinear`` follows it turns
    floats in place of codes, and rounds them once more to keep the pair.
    """
    sides = {name: node.argument(name) for name in ("self", "other")}
    back = [side for side in sides.values() if isinstance(side, Node) and side.op.name == BACK]
    if len(back) != 1 or len(back[0].tensor_type.shape) < CHANNELS_AND_PLACES:
        return None
    codes, scale, zero = (back[0].argument(a) for a in ("codes", "scale", "zero_point"))
    apart = match.context.node("instar.dequantize_apart", codes, scale, zero, 1, codes.tensor_type.shape[1])
    return match.context.rebuild(node, {back[0]: apart})


@rule(QUANTIZE)
def pooled_floats(node: Node, match: RewriteContext) -> Outcome:
    """Codes of a pool of floats -> the same, rounded apart.

    The runtime pulls a plain ``QuantizeLinear`` in front of the pool, and has slow pools of codes in the layout of
    floats (3 x 3 of 64 x 112 x 112: 7 ms in place of 0.4).
    """
    x = node.argument("x")
    pool = x.argument("self") if x.op.name == _RELU or x.op.name in _CLIPS else x
    if pool.op.name not in _POOLS or pool.argument("self").op.name == BACK:
        return None
    places = x.tensor_type.shape[1]
    return match.context.node(
        "instar.quantize_apart", x, node.argument("scale"), node.argument("zero_point"), 1, places
    )


def _conv(conv: Node, source: Node, weight: Node, node: Node, match: RewriteContext) -> Node:
    integers, scale, _ = expand_int8(match, weight, transpose=False)
    rank = len(weight.tensor_type.shape) - 2
    return match.context.node(
        "instar.conv_int8",
        source.argument("codes"), source.argument("scale"), source.argument("zero_point"),
        integers, scale, conv.argument("bias"),
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
    if total is None or total.op.name != ADD or total.argument("alpha", 1) != 1:
        return None
    sides = [total.argument("self"), total.argument("other")]
    if not all(isinstance(s, Node) and s.op.name == BACK for s in sides):
        return None
    parts = [s.argument(a) for s in sides for a in ("codes", "scale", "zero_point")]
    return match.context.node("instar.add_int8", *parts, node.argument("scale"), node.argument("zero_point"))


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


def _offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
    if not isinstance(chosen, IntFormat) or layer.kinds != {CONV} or STATIC_INT8 not in allowed:
        return Candidates(())
    reason = _refusal(layer, chosen)
    if reason:
        return Candidates((), (f"{chosen.spelling}: {reason}; it runs in float",))
    return Candidates((Option(chosen.spelling, encoder, STATIC_INT8, "int8_conv", Arithmetic.CODES),))


def _refusal(layer: Layer, chosen: IntFormat) -> str:
    if chosen.group is not None or chosen.asymmetric:
        return "QLinearConv takes one scale per output channel"
    if any(isinstance(use.node.argument("padding"), str) for use in layer.uses):
        return "padding given as a word is not lowered to QLinearConv"
    if any(len(use.input.tensor_type.shape) != len(layer.shape) for use in layer.uses):
        return "QLinearConv takes inputs with a batch axis"
    saturating = saturates(chosen)
    return f"kernel int8_conv: {saturating}" if saturating else ""


def _write_quantize(x: Value, scale: float, zero_point: int) -> Value:
    return op.QuantizeLinear(x, scalar(scale), byte(zero_point))


def _write_quantize_apart(x: Value, scale: float, zero_point: int, axis: int, places: int) -> Value:
    scales, zeros = (op.Expand(value, integers(places)) for value in (scalar(scale), byte(zero_point)))
    return op.QuantizeLinear(x, scales, zeros, axis=axis)


def _write_dequantize(codes: Value, scale: float, zero_point: int) -> Value:
    return op.DequantizeLinear(codes, scalar(scale), byte(zero_point))


def _write_apart(codes: Value, scale: float, zero_point: int, axis: int, places: int) -> Value:
    scales, zeros = (op.Expand(value, integers(places)) for value in (scalar(scale), byte(zero_point)))
    return op.DequantizeLinear(codes, scales, zeros, axis=axis)


def _write_requantize(codes: Value, scale: float, zero: int, out_scale: float, out_zero: int) -> Value:
    return _write_quantize(_write_dequantize(codes, scale, zero), out_scale, out_zero)


def _write_conv(
    codes: Value,
    scale: float,
    zero_point: int,
    weight: Value,
    weight_scale: Value,
    bias: Value,
    out_scale: float,
    out_zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    whole = None if bias is None else _integer_bias(bias, op.Mul(scalar(scale), weight_scale))
    return op.QLinearConv(
        codes,
        scalar(scale),
        byte(zero_point),
        weight,
        weight_scale,
        _zeros(weight_scale),
        scalar(out_scale),
        byte(out_zero_point),
        whole,
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
    )


def _zeros(weight_scale: Value) -> Value:
    """Zero points of the weight, of its own: two convolutions with one constant do not load with exact products.

    Where a session asks for them (``session.x64quantprecision``), the runtime makes unsigned weights, and of a shared
    constant twice one of the same name.
    """
    return op.Cast(op.Sub(weight_scale, weight_scale), to=INT8)


def _integer_bias(bias: Value, step: Value) -> Value:
    """:func:`instar.ir.dialect.integer_bias` in ONNX."""
    limit = scalar(BIAS_LIMIT)
    rounded = op.Round(op.Div(bias, step))
    return op.Cast(op.Max(op.Min(rounded, limit), op.Neg(limit)), to=INT32)


def _write_add(
    left: Value,
    left_scale: float,
    left_zero: int,
    right: Value,
    right_scale: float,
    right_zero: int,
    out_scale: float,
    out_zero_point: int,
) -> Value:
    return contrib.QLinearAdd(
        left,
        scalar(left_scale),
        byte(left_zero),
        right,
        scalar(right_scale),
        byte(right_zero),
        scalar(out_scale),
        byte(out_zero_point),
    )


QLINEAR_ADD = Requirement("QLinearAdd", CONTRIB, types=(("T", "uint8"),), inputs=8)
"""The operator of the runtime's own that this kernel emits."""

KERNEL = Kernel(
    "int8_conv",
    "QLinearConv: static int8 activations, runs of layers",
    (
        Written("instar.quantize_static", _write_quantize),
        Written("instar.quantize_apart", _write_quantize_apart),
        Written("instar.dequantize_static", _write_dequantize),
        Written("instar.dequantize_apart", _write_apart),
        Written("instar.requantize", _write_requantize),
        Written("instar.conv_int8", _write_conv, "QLinearConv", in_runs=True),
        Written("instar.add_int8", _write_add, "QLinearAdd", requires=(QLINEAR_ADD,)),
        INT8_WEIGHT,
    ),
    (split_static, codes_of_codes, integer_conv, integer_add, float_product, float_sum, pooled_floats),
    _offers,
)
