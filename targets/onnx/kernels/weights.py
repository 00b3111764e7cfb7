"""Stored weights as a rule finds them in a planned graph, expanded to what an integer kernel multiplies with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnx.numpy_helper

from ....ir.dialect import SMALLEST_STEP
from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse
from ..emit import (
    INT8,
    Groups,
    Value,
    as_float,
    constant,
    integers,
    op,
    product,
    scalar,
    unpack_signed,
)
from .base import Written

DEQUANTIZE = "instar.dequantize.default"
DEQUANTIZE_INT8 = "instar.dequantize_int8.default"
DYNAMIC = "instar.fake_quantize_dynamic.default"


def stored_weight(node: Any, kernel: str = "") -> Node | None:
    """The dequantization of constants that computes a weight, or None.

    Args:
        node: what a rule found as the weight.
        kernel: whose rule asks; None is the answer where a plan chose another one. Empty for a rule of none.
    """
    if not isinstance(node, Node) or node.op.name not in (DEQUANTIZE, DEQUANTIZE_INT8):
        return None
    others = kernel and node.argument("kernel") not in ("", kernel)
    return node if not others and all(i.is_constant for i in node.inputs) else None


def quantized_linear(
    node: Node, match: RewriteContext, kernel: str, granularity: str, quantize: str, product: str
) -> Outcome:
    """``linear(fake_quantize_dynamic(x), weight)`` -> an integer product of codes, quantized once for all consumers.

    Args:
        node: the linear layer.
        match: where nodes are made.
        kernel: whose rule asks.
        granularity: what shares a scale; tensors have a zero point, others have none.
        quantize: the op that gives codes and their parameters.
        product: the op that multiplies.
    """
    source = dynamic_source(node.argument("input"), granularity)
    weight = stored_weight(node.argument("weight"), kernel)
    if source is None or weight is None:
        return None
    if source.argument("symmetric") is (granularity == "tensor"):
        words = ("with a zero point", "symmetrically")
        return refuse(
            "{} quantizes {}; the value is quantized {}", kernel, *(words if granularity == "tensor" else words[::-1])
        )
    codes = match.context.node(quantize, source.argument("x"))
    parts = [match.context.item(codes, i) for i in range(len(cast("tuple[object, ...]", codes.type)))]
    matrix, scale, zero = expand_int8(match, weight, transpose=True)
    return match.context.node(product, *parts, matrix, scale, row_zeros(weight, zero), node.argument("bias"))


def dynamic_source(node: Any, granularity: str) -> Node | None:
    """The value that ``node`` quantizes dynamically to 8 bits with this granularity, or None."""
    if not isinstance(node, Node) or node.op.name != DYNAMIC or node.argument("bits") != 8:
        return None
    return node if str(node.argument("granularity")).startswith(granularity) else None


def expand_int8(match: RewriteContext, weight: Node, *, transpose: bool) -> tuple[Node, Node, Node]:
    """Nodes of the int8 weight, its scale per row and its zero point per row."""
    expanded = match.context.node(
        "instar.int8_weight",
        weight.argument("codes"),
        weight.argument("scale"),
        weight.argument("zero"),
        weight.argument("bits"),
        weight.argument("group"),
        weight.argument("shape"),
        transpose,
    )
    return tuple(match.context.item(expanded, i) for i in range(3))  # pyright: ignore[reportReturnType]


def own_operands(weight: Value, weight_zero: Value) -> tuple[Value, Value]:
    """An int8 weight ``[columns, rows]`` and its zero points as a product takes them: no other product has the same.

    Where a session asks for exact products (``session.x64quantprecision``) the runtime makes a weight with codes of 8
    bits unsigned and moves its zero points, once for every product that reads them, and refuses the file at the second
    one. So products after the first read a copy, which is made while the model loads. Zero points are always written:
    releases before 1.31 that find none end the process or go on with products that saturate.
    """
    number = _products(weight)
    own = copied(weight, number, (0, 1)) if number else weight
    if weight_zero is None:
        empty = onnx.numpy_helper.from_array(np.zeros(1, np.int8))
        zeros = op.ConstantOfShape(op.Shape(own, start=1), value=empty)
        return own, copied(zeros, number, (0,)) if number else zeros
    read = _products(weight_zero)
    return own, copied(weight_zero, read, (0,)) if read else weight_zero


def _products(value: Value) -> int:
    """How many integer products read a value, or a copy of it, so far."""
    return sum(node.op_type in ("MatMulIntegerToFloat", "Slice") for node in value.consumers())


def copied(value: Value, number: int, axes: Sequence[int]) -> Value:
    """The same values from other nodes for every number: turned round twice, to ends that differ and are all beyond."""
    for end in (-(1 << 30) - number, -(1 << 30)):
        sides = [integers(*[side] * len(axes)) for side in (-1, end)]
        value = op.Slice(value, *sides, integers(*axes), integers(*[-1] * len(axes)))
    return value


def row_zeros(weight: Node, zero: Node) -> Node | None:
    """The zero points of a weight whose rows have one each; other weights are expanded without."""
    one_group = weight.argument("scale").tensor_type.shape[1] == 1
    return zero if weight.argument("zero") is not None and one_group else None


def write_int8_weight(
    codes: Value, scale: Value, zero: Value, bits: int, group: int, shape: Sequence[int], transpose: bool
) -> Any:
    """Folded while the model loads."""
    rows, columns = int(shape[0]), product(shape[1:])
    groups = Groups(columns, group, rank=2)
    signed = unpack_signed(codes, bits, columns, 2)
    scale = as_float(scale)
    offsets = None if zero is None else unpack_signed(zero, bits, groups.count, 2)
    zeros = constant(np.zeros(rows, dtype=np.int8))
    if groups.count > 1:
        offsets = None if offsets is None else as_float(offsets)
        channel = _row_scale(scale, offsets, bits)
        ratio = op.Div(scale, op.Unsqueeze(channel, integers(1)))
        signed = groups.scaled(signed, ratio, offsets, finish=lambda x: op.Cast(op.Round(x), to=INT8))
    else:
        channel = op.Reshape(scale, integers(rows))
        zeros = zeros if offsets is None else op.Reshape(offsets, integers(rows))
    weight = op.Transpose(signed, perm=[1, 0]) if transpose else op.Reshape(signed, integers(*shape))
    return weight, channel, zeros


def _row_scale(scale: Value, offsets: Value, bits: int) -> Value:
    """:func:`instar.ir.dialect.row_scale` in ONNX."""
    half = scalar(float(1 << (bits - 1)))
    most = half if offsets is None else op.Max(op.Add(half, offsets), op.Sub(half, offsets))
    largest = op.ReduceMax(op.Mul(op.Abs(scale), most), integers(1), keepdims=0)
    return op.Max(op.Div(largest, scalar(127.0)), scalar(SMALLEST_STEP))


INT8_WEIGHT = Written("instar.int8_weight", write_int8_weight)
