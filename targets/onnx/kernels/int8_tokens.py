"""Kernel ``int8_token``: linear layers with dynamic int8 activations, one scale for every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dialect import SMALLEST_STEP
from ....ir.graph import Node
from ....ir.layers import Layer
from ....ir.options import Activation, Arithmetic, Option
from ....passes.formats import Format
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ...base import Candidates
from .. import contrib
from ..emit import Value, byte, integers, op, scalar
from .base import Kernel, Written
from .offers import PRODUCT, integer_linear
from .weights import INT8_WEIGHT, dynamic_source, expand_int8, row_zeros, stored_weight

ACTIVATION = Activation.dynamic("token")


def _offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
    refused = integer_linear(layer, chosen)
    if refused is not None:
        return refused
    option = Option(chosen.spelling, encoder, ACTIVATION, "int8_token", Arithmetic.INT8_ROWS)
    return Candidates((option,) if ACTIVATION in allowed else ())


@rule("aten.linear.default")
def int8_linear_token(node: Node, match: RewriteContext) -> Outcome:
    """One quantization per token, shared by the value's consumers."""
    source, weight = dynamic_source(node.argument("input"), "token"), stored_weight(node.argument("weight"))
    if source is None or weight is None:
        return None
    if not source.argument("symmetric"):
        return refuse("the kernel quantizes tokens symmetrically; the value is quantized with a zero point")
    quantized = match.context.node("instar.quantize_tokens", source.argument("x"))
    parts = [match.context.item(quantized, i) for i in range(2)]
    matrix, scale, zero = expand_int8(match, weight, transpose=True)
    zeros = row_zeros(weight, zero)
    return match.context.node("instar.linear_int8_tokens", *parts, matrix, scale, zeros, node.argument("bias"))


def _write_quantize(x: Value) -> Any:
    largest = op.Max(op.ReduceMax(op.Abs(x), integers(-1), keepdims=1), scalar(SMALLEST_STEP))
    scale = op.Div(largest, scalar(127.0))
    codes = op.QuantizeLinear(op.Mul(x, op.Reciprocal(scale)), scalar(1.0), byte(128))
    return codes, scale


def _write(
    codes: Value, scale: Value, weight: Value, weight_scale: Value, weight_zero: Value = None, bias: Value = None
) -> Value:
    products = contrib.MatMulIntegerToFloat(codes, weight, scalar(1.0), weight_scale, byte(128), weight_zero, None)
    result = op.Mul(products, scale)
    return result if bias is None else op.Add(result, bias)


KERNEL = Kernel(
    "int8_token",
    "the same with one activation scale per token",
    (
        Written("instar.quantize_tokens", _write_quantize),
        Written("instar.linear_int8_tokens", _write, "MatMulIntegerToFloat", requires=(PRODUCT,)),
        INT8_WEIGHT,
    ),
    (int8_linear_token,),
    _offers,
)
