"""Kernel ``int8_token``: linear layers with dynamic int8 activations, one scale for every token."""

from __future__ import annotations

from typing import Any

from ....ir.dialect import SMALLEST_STEP
from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, rule
from .. import contrib
from ..emit import Value, byte, integers, op, scalar
from .base import Kernel, Written
from .offers import PRODUCT, linear_offers
from .weights import INT8_WEIGHT, own_operands, quantized_linear

NAME = "int8_token"


@rule("aten.linear.default")
def int8_linear_token(node: Node, match: RewriteContext) -> Outcome:
    """One quantization per token, shared by the value's consumers."""
    return quantized_linear(node, match, NAME, "token", "instar.quantize_tokens", "instar.linear_int8_tokens")


def _write_quantize(x: Value) -> Any:
    largest = op.Max(op.ReduceMax(op.Abs(x), integers(-1), keepdims=1), scalar(SMALLEST_STEP))
    scale = op.Div(largest, scalar(127.0))
    codes = op.QuantizeLinear(op.Mul(x, op.Reciprocal(scale)), scalar(1.0), byte(128))
    return codes, scale


def _write(
    codes: Value, scale: Value, weight: Value, weight_scale: Value, weight_zero: Value = None, bias: Value = None
) -> Value:
    weight, zeros = own_operands(weight, weight_zero)
    products = contrib.MatMulIntegerToFloat(codes, weight, scalar(1.0), weight_scale, byte(128), zeros, None)
    result = op.Mul(products, scale)
    return result if bias is None else op.Add(result, bias)


KERNEL = Kernel(
    NAME,
    "the same with one activation scale per token",
    (
        Written("instar.quantize_tokens", _write_quantize),
        Written("instar.linear_int8_tokens", _write, "MatMulIntegerToFloat", requires=(PRODUCT,)),
        INT8_WEIGHT,
    ),
    (int8_linear_token,),
    linear_offers(NAME, "token"),
)
