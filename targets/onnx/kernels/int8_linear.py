"""Kernel ``int8``: linear layers with dynamic int8 activations, one scale for the whole value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.graph import Node
from ....ir.layers import Layer
from ....ir.options import Activation, Arithmetic, Option
from ....passes.formats import Format
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ...base import Candidates
from .. import contrib
from ..emit import Value, op
from .base import Kernel, Written
from .offers import PRODUCT, integer_linear
from .weights import INT8_WEIGHT, dynamic_source, expand_int8, row_zeros, stored_weight

ACTIVATION = Activation.dynamic("tensor")


def _offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
    refused = integer_linear(layer, chosen)
    if refused is not None:
        return refused
    option = Option(chosen.spelling, encoder, ACTIVATION, "int8", Arithmetic.INT8_ROWS)
    return Candidates((option,) if ACTIVATION in allowed else ())


@rule("aten.linear.default")
def int8_linear(node: Node, match: RewriteContext) -> Outcome:
    """One dynamic quantization of the whole value, shared by its consumers."""
    source, weight = dynamic_source(node.argument("input"), "tensor"), stored_weight(node.argument("weight"))
    if source is None or weight is None:
        return None
    if source.argument("symmetric"):
        return refuse("DynamicQuantizeLinear is asymmetric; the value is quantized symmetrically")
    quantized = match.context.node("instar.quantize_dynamic", source.argument("x"))
    parts = [match.context.item(quantized, i) for i in range(3)]
    matrix, scale, zero = expand_int8(match, weight, transpose=True)
    zeros = row_zeros(weight, zero)
    return match.context.node("instar.linear_int8", *parts, matrix, scale, zeros, node.argument("bias"))


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
    return contrib.MatMulIntegerToFloat(codes, weight, scale, weight_scale, zero_point, weight_zero, bias)


KERNEL = Kernel(
    "int8",
    "MatMulIntegerToFloat: int8 activations quantized per tensor, int8 weights (expanded at load from few bits)",
    (
        Written("instar.quantize_dynamic", _write_quantize),
        Written("instar.linear_int8", _write, "MatMulIntegerToFloat|DynamicQuantizeMatMul", requires=(PRODUCT,)),
        INT8_WEIGHT,
    ),
    (int8_linear,),
    _offers,
)
