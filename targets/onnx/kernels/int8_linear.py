"""Kernel ``int8``: linear layers with dynamic int8 activations, one scale for the whole value."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, rule
from .. import contrib
from ..emit import Value, op
from .base import Kernel, Written
from .offers import PRODUCT, linear_offers
from .weights import INT8_WEIGHT, own_operands, quantized_linear

NAME = "int8"


@rule("aten.linear.default")
def int8_linear(node: Node, match: RewriteContext) -> Outcome:
    """One dynamic quantization of the whole value, shared by its consumers."""
    return quantized_linear(node, match, NAME, "tensor", "instar.quantize_dynamic", "instar.linear_int8")


def _write_quantize(x: Value) -> Any:
    return op.DynamicQuantizeLinear(x)


def _write(
    codes: Value,
    scale: Value,
    zero_point: Value,
    weight: Value,
    weight_scale: Value,
    weight_zero: Value = None,
    bias: Value = None,
) -> Value:
    weight, zeros = own_operands(weight, weight_zero)
    return contrib.MatMulIntegerToFloat(codes, weight, scale, weight_scale, zero_point, zeros, bias)


KERNEL = Kernel(
    NAME,
    "MatMulIntegerToFloat: int8 activations quantized per tensor, int8 weights (expanded at load from few bits)",
    (
        Written("instar.quantize_dynamic", _write_quantize),
        Written("instar.linear_int8", _write, "MatMulIntegerToFloat|DynamicQuantizeMatMul", requires=(PRODUCT,)),
        INT8_WEIGHT,
    ),
    (int8_linear,),
    linear_offers(NAME, "tensor"),
)
