"""Products in float16 that ONNX Runtime dies of are written as sums of products.

From 1.23 to 1.32 the runtime crashes while it loads a file in which a transpose that moves the first axis, in float16,
reaches a product with a constant matrix: it computes the product in float32, and fuses the transpose through the
conversion it made itself. Other operators may stand between, because transposes are moved through them. An ``Einsum``
is not fused, and computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir

_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum")
"""Operators that no transpose is moved through."""

EQUATION = "...k,kn->...n"


def without_fused_transposes(model: onnx_ir.Model) -> onnx_ir.Model:
    """Writes every product with a constant matrix that a float16 transpose may be fused with as an ``Einsum``."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            if node.op_type == "MatMul" and node.domain == "" and _is_in_danger(*node.inputs):
                node.op_type = "Einsum"
                node.attributes["equation"] = onnx_ir.AttrString("equation", EQUATION)
    return model


def _is_in_danger(left: onnx_ir.Value | None, right: onnx_ir.Value | None) -> bool:
    if left is None or right is None or _rank(right) != 2:
        return False
    return any(map(_moves_first_axis, _before(left))) and all(map(_is_constant, _sources(right)))


def _moves_first_axis(node: onnx_ir.Node) -> bool:
    if node.op_type != "Transpose" or node.inputs[0] is None or node.inputs[0].dtype != onnx_ir.DataType.FLOAT16:
        return False
    order = node.attributes.get("perm")
    return order is None or order.as_ints()[0] != 0


def _before(value: onnx_ir.Value) -> Iterator[onnx_ir.Node]:
    """The nodes that a value is made by, back to products."""
    waiting, seen = [value], set[int]()
    while waiting:
        node = waiting.pop().producer()
        if node is None or id(node) in seen or node.op_type in _PRODUCTS:
            continue
        seen.add(id(node))
        yield node
        waiting += [each for each in node.inputs if each is not None]


def _sources(value: onnx_ir.Value) -> Iterator[onnx_ir.Value]:
    """The values without a producer that a value is made from."""
    if value.producer() is None:
        yield value
    for node in _before(value):
        yield from (each for each in node.inputs if each is not None and each.producer() is None)


def _is_constant(value: onnx_ir.Value) -> bool:
    return value.const_value is not None


def _rank(value: onnx_ir.Value) -> int | None:
    """Of a constant, or what a node without a type says of the constant that it transposes or converts."""
    if value.shape is not None:
        return value.shape.rank()
    if value.const_value is not None:
        return value.const_value.shape.rank()
    node = value.producer()
    passed = node is not None and node.op_type in ("Transpose", "Cast", "Identity") and node.inputs[0] is not None
    return _rank(node.inputs[0]) if node is not None and passed and node.inputs[0] is not None else None
