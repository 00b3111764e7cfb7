"""IR -> legal ops: quantized patterns become ops that stand for ONNX Runtime kernels, slow spellings become fast ones.

What is not matched stays as it is and has a translation of its own: a weight that only floats compute with is expanded
while the model loads, a quantization that no kernel absorbs is written as QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...ir.graph import Graph, Node
from ...passes.base import Pass, PassResult
from ...passes.cancel_layout import CancelLayout
from ...passes.fuse_attention import FuseAttention
from ...passes.rewrite import RewriteContext, rewrite
from ...passes.rules import Outcome, Rule, refuse, rule
from . import dialect as _dialect
from . import dialect_conv as _dialect_conv
from .legalize_attention import ATTENTION_RULES, CLAMP_RULES, PLAIN, ROTARY_RULES
from .legalize_conv import STATIC_RULES
from .legalize_fused import FUSED, FUSED_RULES
from .legalize_shapes import SHAPE_RULES
from .weights import refuses_nbits

_ = (_dialect, _dialect_conv)  # importing registers the ops

ACCURACY_LEVEL = 4
"""``MatMulNBits`` multiplies int8 activations."""

DEQUANTIZE = "instar.dequantize.default"
DEQUANTIZE_INT8 = "instar.dequantize_int8.default"
DYNAMIC = "instar.fake_quantize_dynamic.default"


def passes(options: Mapping[str, Any]) -> tuple[Pass, ...]:
    """What brings a planned graph into ops that stand for the runtime's kernels, in order."""
    level = int(options.get("accuracy_level") or ACCURACY_LEVEL)
    last = Legalize(level, options.get("masked_softmax") != PLAIN)
    if options.get("attention") != FUSED:
        return FuseAttention(causal_only=True), last
    return FuseAttention(), RotaryPositions(), AttentionKernel(), CancelLayout(), last


@dataclass(frozen=True)
class RotaryPositions:
    """``x * cos + turned(x) * sin`` -> ``RotaryEmbedding``, on its own before attention is matched behind it."""

    name: ClassVar[str] = "onnx-rotary-positions"
    exact: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rule."""
        return rewrite(graph, ROTARY_RULES)


@dataclass(frozen=True)
class AttentionKernel:
    """``scaled_dot_product_attention`` -> one ``Attention`` over ``[batch, tokens, heads * width]``."""

    name: ClassVar[str] = "onnx-attention-kernel"
    exact: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> PassResult:
        """Apply the rule."""
        return rewrite(graph, FUSED_RULES)


@dataclass(frozen=True)
class Legalize:
    """Rewrite a planned graph into ops that ONNX Runtime runs as intended.

    * ``linear(fake_quantize_dynamic(x, tensor), dequantize(w))`` -> one shared ``DynamicQuantizeLinear`` and
      ``MatMulIntegerToFloat`` over weights that are expanded to int8 at load; per token likewise.
    * ``linear(fake_quantize_dynamic(x, group:n), dequantize(w, group n))`` -> ``MatMulNBits``.
    * ``embedding(dequantize(table))`` -> a gather of packed rows.
    * convolutions and additions between statically quantized values -> ``QLinearConv``, ``QLinearAdd``.
    * ``layer_norm(a + b)`` -> a sum that is not fused into the slow ``SkipLayerNormalization``; ``softmax`` of masked
      scores -> scores are first clamped so that no exponential is denormal.

    Lossy only in the last place: kernels round like the quantization ops of the IR.

    Attributes:
        accuracy_level: of ``MatMulNBits``: 4 multiplies int8 activations.
    """

    name: ClassVar[str] = "legalize-onnx"
    exact: ClassVar[bool] = False

    accuracy_level: int = 4
    clamp_softmax: bool = True
    rules: tuple[Rule, ...] = field(default=(), compare=False, repr=False)

    def __call__(self, graph: Graph) -> PassResult:
        """Apply all rules."""
        clamping = CLAMP_RULES if self.clamp_softmax else ()
        return rewrite(graph, self.rules or (*LEGALIZE_RULES, *clamping))


def _weight(node: Any) -> Node | None:
    """The dequantization of constants that computes a weight, or None."""
    if isinstance(node, Node) and node.op.name in (DEQUANTIZE, DEQUANTIZE_INT8):
        return node if all(i.is_constant for i in node.inputs) else None
    return None


def _dynamic(node: Any, granularity: str) -> Node | None:
    """The value that ``node`` quantizes dynamically to 8 bits with this granularity, or None."""
    if not isinstance(node, Node) or node.op.name != DYNAMIC or node.argument("bits") != 8:
        return None
    return node if str(node.argument("granularity")).startswith(granularity) else None


def expand(match: RewriteContext, weight: Node, *, transpose: bool) -> tuple[Node, Node, Node]:
    """Nodes of the int8 weight, its scale per row and its zero point per row."""
    expanded = match.context.node(
        "instar_ort.expand_int8",
        weight.argument("codes"),
        weight.argument("scale"),
        weight.argument("zero"),
        weight.argument("bits"),
        weight.argument("group"),
        weight.argument("shape"),
        transpose,
    )
    return tuple(match.context.item(expanded, i) for i in range(3))  # pyright: ignore[reportReturnType]


@rule("aten.linear.default")
def int8_linear(node: Node, match: RewriteContext) -> Outcome:
    """One dynamic quantization of the whole value, shared by its consumers."""
    source, weight = _dynamic(node.argument("input"), "tensor"), _weight(node.argument("weight"))
    if source is None or weight is None:
        return None
    if source.argument("symmetric"):
        return refuse("DynamicQuantizeLinear is asymmetric; the value is quantized symmetrically")
    quantized = match.context.node("instar_ort.dynamic_quantize", source.argument("x"))
    parts = [match.context.item(quantized, i) for i in range(3)]
    matrix, scale, zero = expand(match, weight, transpose=True)
    zeros = zero if weight.argument("zero") is not None and _one_group(weight) else None
    return match.context.node("instar_ort.int8_linear", *parts, matrix, scale, zeros, node.argument("bias"))


@rule("aten.linear.default")
def int8_linear_token(node: Node, match: RewriteContext) -> Outcome:
    """One quantization per token, shared by the value's consumers."""
    source, weight = _dynamic(node.argument("input"), "token"), _weight(node.argument("weight"))
    if source is None or weight is None:
        return None
    if not source.argument("symmetric"):
        return refuse("the kernel quantizes tokens symmetrically; the value is quantized with a zero point")
    quantized = match.context.node("instar_ort.token_quantize", source.argument("x"))
    parts = [match.context.item(quantized, i) for i in range(2)]
    matrix, scale, zero = expand(match, weight, transpose=True)
    zeros = zero if weight.argument("zero") is not None and _one_group(weight) else None
    return match.context.node("instar_ort.int8_linear_token", *parts, matrix, scale, zeros, node.argument("bias"))


def _one_group(weight: Node) -> bool:
    return weight.argument("scale").tensor_type.shape[1] == 1


@rule("aten.linear.default")
def matmul_nbits(node: Node, match: RewriteContext) -> Outcome:
    """Blocks of activations times blocks of weights."""
    source, weight = _dynamic(node.argument("input"), "group:"), _weight(node.argument("weight"))
    if source is None or weight is None or weight.op.name != DEQUANTIZE:
        return None
    group = int(str(source.argument("granularity")).split(":")[1])
    if group != weight.argument("group"):
        return refuse("activations have blocks of {}, the weight of {}", group, weight.argument("group"))
    reason = refuses_nbits(weight.argument("bits"), group)
    if reason is not None:
        return refuse("{}", reason)
    codes = blocked_codes(match, weight)
    columns = int(weight.argument("shape")[1])
    return match.context.node(
        "instar_ort.matmul_nbits",
        source.argument("x"), codes, weight.argument("scale"), weight.argument("zero"), node.argument("bias"),
        weight.argument("bits"), group, columns, 4,
    )  # fmt: skip


def blocked_codes(match: RewriteContext, weight: Node) -> Node:
    """The stored codes as a constant in the kernel's layout."""
    from .weights import block_codes

    stored = weight.argument("codes").handle
    columns = int(weight.argument("shape")[1])
    blocks = block_codes(stored.tensor, weight.argument("bits"), weight.argument("group"), columns)
    return match.constant(f"{stored.name}.blocks", blocks)


@rule("aten.embedding.default")
def packed_embedding(node: Node, match: RewriteContext) -> Outcome:
    """Rows are gathered packed and unpacked after."""
    weight = _weight(node.argument("weight"))
    if weight is None or weight.op.name != DEQUANTIZE:
        return None
    bits, group, columns = weight.argument("bits"), weight.argument("group"), int(weight.argument("shape")[1])
    block = bits in (4, 8) and group >= 16 and columns % group == 0 and weight.argument("zero") is None
    name = "instar_ort.gather_block_quantized" if block else "instar_ort.gather_packed"
    stored = [weight.argument(a) for a in ("codes", "scale", "zero")]
    return match.context.node(name, stored[0], node.argument("indices"), stored[1], stored[2], bits, group, columns)


@rule("aten.embedding.default")
def half_embedding(node: Node, match: RewriteContext) -> Outcome:
    """Rows of a float16 table are widened after the gather."""
    weight = node.argument("weight")
    if weight.op.name != "aten._to_copy.default" or not weight.argument("self").is_constant:
        return None
    table = weight.argument("self")
    if str(table.tensor_type.dtype) != "torch.float16" or str(weight.tensor_type.dtype) != "torch.float32":
        return None
    return match.context.node("instar_ort.gather_half", table, node.argument("indices"))


@rule("aten.add.Tensor")
def residual_norm(node: Node, match: RewriteContext) -> Outcome:
    """``layer_norm(a + b)``: keep the runtime from forming SkipLayerNormalization."""
    left, right = node.argument("self"), node.argument("other")
    if not any(user.op.name == "aten.layer_norm.default" for user in match.users(node)):
        return None
    if not isinstance(right, Node) or node.argument("alpha", 1) != 1:
        return None
    if left.tensor_type != right.tensor_type or left.is_constant or right.is_constant:
        return None
    return match.context.node("instar_ort.residual_add", left, right)


LEGALIZE_RULES: tuple[Rule, ...] = (
    int8_linear,
    int8_linear_token,
    matmul_nbits,
    packed_embedding,
    half_embedding,
    residual_norm,
    *ATTENTION_RULES,
    *SHAPE_RULES,
    *STATIC_RULES,
)
