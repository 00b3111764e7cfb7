"""Planned graph -> exact integer sums with simple ops behind them: what an accelerator's array and output stage do.

Between operators values are codes. A float chain between a sum and the next rounding is element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...ir.dialect import dequantize_static, quantize_static
from ...ir.evaluate import evaluate_node
from ...ir.graph import Graph, Node
from ...passes.base import PassResult
from ...passes.rewrite import RewriteContext, rewrite
from ...passes.rules import Outcome, refuse, rule
from ...passes.static_codes import BACK, QUANTIZE, codes_of_codes, split_static

STORED = ("instar.dequantize.default", "instar.dequantize_int8.default")


def _expanded(match: RewriteContext, weight: Any) -> tuple[Node, Node] | None:
    """The int8 weight in its own shape and its scale per row, of a stored weight without zero points."""
    if not isinstance(weight, Node) or weight.op.name not in STORED or weight.argument("zero") is not None:
        return None
    parts = [weight.argument(name) for name in ("codes", "scale", "zero", "bits", "group", "shape")]
    whole = match.context.node("instar.int8_weight", *parts, False)
    return match.context.item(whole, 0), match.context.item(whole, 1)


def _scaled(match: RewriteContext, sums: Node, source: Node, scale: Node, bias: Any, trailing: int) -> Node:
    """``sums * (scale of the input * scale of the row) + bias`` in float32; ``trailing`` axes follow the channels."""
    shape = (-1, *[1] * trailing)
    step = match.node("aten.mul.Scalar", scale, source.argument("scale"))
    step = match.node("aten.reshape", step, shape) if trailing else step
    value = match.node("aten.mul.Tensor", match.node("aten._to_copy", sums, dtype=torch.float32), step)
    if bias is None:
        return value
    return match.node("aten.add.Tensor", value, match.node("aten.reshape", bias, shape) if trailing else bias)


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def conv_sums(node: Node, match: RewriteContext) -> Outcome:
    """``conv(dequantize_static(codes), stored weight)`` -> sums, scaled."""
    source, padding = node.argument("input"), node.argument("padding")
    if source.op.name != BACK:
        return None
    found = _expanded(match, node.argument("weight"))
    if found is None or isinstance(padding, str):
        return refuse("the weight is not stored as signed integers, or its padding is a word")
    rank = len(node.tensor_type.shape) - 2
    if len(source.tensor_type.shape) != rank + 2:
        return refuse("the input has no batch axis")
    window = [_spread(node.argument(name), rank) for name in ("stride", "padding", "dilation")]
    sums = match.node(
        "instar.conv_sums", source.argument("codes"), source.argument("zero_point"), found[0], *window,
        node.argument("groups"),
    )  # fmt: skip
    return _scaled(match, sums, source, found[1], node.argument("bias"), rank)


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    given = value if isinstance(value, tuple) else (value,)
    return tuple(int(v) for v in given) * (rank if len(given) == 1 else 1)


@rule("aten.linear.default")
def linear_sums(node: Node, match: RewriteContext) -> Outcome:
    """``linear(dequantize_static(codes), stored weight)`` -> sums, scaled."""
    source = node.argument("input")
    if source.op.name != BACK:
        return None
    found = _expanded(match, node.argument("weight"))
    if found is None:
        return refuse("the weight is not stored as signed integers")
    sums = match.node("instar.linear_sums", source.argument("codes"), source.argument("zero_point"), found[0])
    return _scaled(match, sums, source, found[1], node.argument("bias"), 0)


@rule("aten.matmul.default", "aten.bmm.default")
def matmul_sums(node: Node, match: RewriteContext) -> Outcome:
    """The product of two dequantized values -> sums, scaled."""
    left, right = node.inputs if len(node.inputs) == 2 else (None, None)
    if left is None or right is None or left.op.name != BACK or right.op.name != BACK:
        return None
    codes = [side.argument(name) for side in (left, right) for name in ("codes", "zero_point")]
    sums = match.node("instar.matmul_sums", *codes)
    step = left.argument("scale") * right.argument("scale")
    return match.node("aten.mul.Scalar", match.node("aten._to_copy", sums, dtype=torch.float32), step)


@rule(QUANTIZE)
def quantize_parts(node: Node, match: RewriteContext) -> Outcome:
    """``quantize(cat(values))`` -> ``cat(quantize(values))``: parts can lie where they belong from the start."""
    joined = node.argument("x")
    if joined.op.name != "aten.cat.default" or match.use_count(joined) > 1:
        return None
    scale, zero = node.argument("scale"), node.argument("zero_point")
    parts = tuple(match.node("instar.quantize_static", part, scale, zero) for part in joined.argument("tensors"))
    return match.node("aten.cat", parts, joined.argument("dim"))


_NAMES = """
    sigmoid tanh exp expm1 log log1p erf gelu silu mish elu celu selu softplus log_sigmoid hardswish hardsigmoid
    leaky_relu sqrt rsqrt reciprocal sin cos
"""

FUNCTIONS = tuple(f"aten.{name}.default" for name in _NAMES.split())
"""Functions of one value that an accelerator looks up; some of torch's kernels for them round by position."""

LOOKUP = "instar.lookup.default"


@rule(*FUNCTIONS)
def looked_up(node: Node, match: RewriteContext) -> Outcome:
    """``f(dequantize(codes))`` -> one of 256 values."""
    source = node.inputs[0]
    if source.op.name == LOOKUP and source.argument("table").is_constant:
        codes, before = source.argument("codes"), source.argument("table").handle.tensor
    elif source.op.name == BACK:
        codes = source.argument("codes")
        before = dequantize_static(
            torch.arange(256).to(torch.uint8), source.argument("scale"), source.argument("zero_point")
        )
    else:
        return None
    table = evaluate_node(node, {source: before}, {})
    return match.node("instar.lookup", codes, match.constant(f"{node.op.packet.partition('.')[2]}.table", table))


@rule(QUANTIZE)
def looked_up_codes(node: Node, match: RewriteContext) -> Outcome:
    """``quantize(lookup(codes))`` -> codes from codes."""
    source = node.argument("x")
    if source.op.name != LOOKUP or not source.argument("table").is_constant:
        return None
    old = source.argument("table").handle
    table = quantize_static(old.tensor, node.argument("scale"), node.argument("zero_point"))
    return match.node("instar.lookup", source.argument("codes"), match.constant(old.name, table))


MOVING = ("aten.reshape.default", "aten.permute.default", "aten.transpose.int", "aten.expand.default")


@rule(*MOVING, "aten.unsqueeze.default", "aten.squeeze.dims", "aten.slice.Tensor", "aten.select.int")
def moved_codes(node: Node, match: RewriteContext) -> Outcome:
    """``move(dequantize(codes))`` -> ``dequantize(move(codes))``: codes are smaller, and products see them."""
    source = node.inputs[0]
    if source.op.name != BACK:
        return None
    moved = match.context.rebuild(node, {source: source.argument("codes")})
    return match.node("instar.dequantize_static", moved, source.argument("scale"), source.argument("zero_point"))


@rule("aten.matmul.default", "aten.bmm.default")
def weighted(node: Node, match: RewriteContext) -> Outcome:
    """``matmul(softmax(x), dequantize(codes))`` -> weights of 8 bits whose largest is 255, divided by their sum last.

    Their range needs no data. A softmax along another axis is rounded to steps of 1/255.
    """
    left, right = node.inputs if len(node.inputs) == 2 else (None, None)
    if left is None or right is None or right.op.name != BACK or left.op.name not in SOFTMAX:
        return None
    scores = left.inputs[0]
    if int(left.argument("dim")) % len(scores.tensor_type.shape) != len(scores.tensor_type.shape) - 1:
        codes = match.node("instar.quantize_static", left, PROBABILITY_STEP, 0)
        return match.context.rebuild(node, {left: match.node("instar.dequantize_static", codes, PROBABILITY_STEP, 0)})
    weights = match.node("instar.softmax_codes", scores)
    means = match.node("instar.weighted_means", weights, right.argument("codes"), right.argument("zero_point"))
    return match.node("aten.mul.Scalar", means, right.argument("scale"))


SOFTMAX = ("aten.softmax.int", "aten._softmax.default")
PROBABILITY_STEP = float(torch.tensor(1 / 255, dtype=torch.float32))

RULES = (
    split_static, codes_of_codes, quantize_parts, moved_codes, looked_up, looked_up_codes, conv_sums, linear_sums,
    weighted, matmul_sums,
)  # fmt: skip


@dataclass(frozen=True)
class IntegerForms:
    """Products of rounded values -> exact sums of integers; codes between operators.

    Lossy in the last place, where a float product of the same rounded values rounds its sum elsewhere, and in the
    weights of attention, which get 8 bits here.
    """

    name: ClassVar[str] = "integer-forms"
    exact: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rules."""
        return rewrite(graph, RULES)
