"""Products with weights: everything that multiplies by a constant matrix from the right is a ``linear``."""

from __future__ import annotations

from typing import Any, cast

from ...ir.graph import Node
from ..rewrite import RewriteContext, same_shape
from ..rules import Outcome, Refused, Rule, refuse, rule
from .arithmetic import ADD
from .layout import PERMUTE, permutation_of, source_of

LINEAR = "aten.linear.default"
_RIGHT_OPERAND = {"aten.mm.default": "mat2", "aten.addmm.default": "mat2", "aten.matmul.default": "other"}


def linear_weight(operand: Node, match: RewriteContext) -> Node | Refused | None:
    """The ``[out, in]`` weight of a right operand ``[in, out]``: the constant under a transpose, or its transpose."""
    if operand.op.name == PERMUTE and source_of(operand).is_constant and permutation_of(operand) == (1, 0):
        return source_of(operand)
    if not operand.is_constant or operand.tensor_type.rank != 2 or not operand.tensor_type.dtype.is_floating_point:
        return None
    if any(not _only_right_operand(user, operand) for user in match.users(operand)):
        return refuse("{} is used by other ops too; transposing it would store it twice", operand)
    return match.derive(operand, "transpose", lambda weight: weight.t())


def _only_right_operand(user: Node, weight: Node) -> bool:
    name = _RIGHT_OPERAND.get(user.op.name)
    return name is not None and user.argument(name) is weight and user.inputs.count(weight) == 1


@rule("aten.mm.default", "aten.matmul.default")
def product_to_linear(node: Node, match: RewriteContext) -> Outcome:
    """``x @ W -> linear(x, W.T)`` for a constant W ``[in, out]`` or a transposed constant."""
    weight = linear_weight(node.inputs[1], match)
    if not isinstance(weight, Node):
        return weight
    return match.node(LINEAR, source_of(node), weight)


@rule("aten.addmm.default")
def addmm_to_linear(node: Node, match: RewriteContext) -> Outcome:
    """``addmm(b, x, W) -> linear(x, W.T, b)``; a bias of another shape is added behind. Only with both factors 1."""
    if node.argument("beta") != 1 or node.argument("alpha") != 1:
        return refuse("beta is {} and alpha is {}", node.argument("beta"), node.argument("alpha"))
    weight = linear_weight(node.argument("mat2"), match)
    if not isinstance(weight, Node):
        return weight
    x, bias = node.argument("mat1"), node.argument("self")
    if same_shape(bias.tensor_type.shape, node.tensor_type.shape[-1:]):
        return match.node(LINEAR, x, weight, bias)
    return match.node(ADD, match.node(LINEAR, x, weight), bias)


@rule(ADD)
def bias_into_linear(node: Node, match: RewriteContext) -> Outcome:
    """``linear(x, W) + b -> linear(x, W, b)`` for a constant b ``[out]`` where nothing else uses the product."""
    product, bias = source_of(node), node.argument("other")
    if product.op.name != LINEAR or product.argument("bias") is not None or not isinstance(bias, Node):
        return None
    if not bias.is_constant or node.argument("alpha") != 1 or match.use_count(product) != 1:
        return None
    weight = product.argument("weight")
    if bias.tensor_type.dtype != weight.tensor_type.dtype or bias.tensor_type.shape != weight.tensor_type.shape[:1]:
        return None
    return match.node(LINEAR, source_of(product), weight, bias)


@rule("aten.convolution.default")
def convolution_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``convolution(...) -> conv1d/2d/3d`` or ``conv_transpose1d/2d/3d``."""
    a = node.argument
    spatial = a("weight").tensor_type.rank - 2
    if spatial not in (1, 2, 3):
        return None
    operands = (a("input"), a("weight"), a("bias"), a("stride"), a("padding"))
    if not a("transposed"):
        return match.node(f"aten.conv{spatial}d", *operands, a("dilation"), a("groups"))
    overload = "" if spatial == 1 else ".input"
    name = f"aten.conv_transpose{spatial}d{overload}"
    return match.node(name, *operands, a("output_padding"), a("groups"), a("dilation"))


@rule("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def padding_by_name(node: Node, match: RewriteContext) -> Outcome:
    """``padding="same"`` or ``"valid"`` -> numbers; left where "same" pads one side more than the other."""
    kernel = cast(tuple[int, ...], node.argument("weight").tensor_type.shape[2:])
    given: Any = node.argument("dilation")
    dilation: tuple[int, ...] = given if len(given) == len(kernel) else given * len(kernel)
    total = [d * (k - 1) if node.argument("padding") == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    if any(t % 2 for t in total):
        return refuse("padding 'same' of kernel {} is not symmetric", list(kernel))
    arguments = {**dict(node.arguments), "padding": tuple(t // 2 for t in total)}
    return match.remake(node.op.name.removesuffix(".padding"), arguments)


@rule("aten.embedding.default")
def embedding_training_options(node: Node, match: RewriteContext) -> Outcome:
    """``embedding(W, ids, padding_idx, ...) -> embedding(W, ids)``: the options only matter to gradients."""
    return match.node("aten.embedding", node.argument("weight"), node.argument("indices"))


PRODUCT_RULES: tuple[Rule, ...] = (
    product_to_linear,
    addmm_to_linear,
    bias_into_linear,
    convolution_spelling,
    padding_by_name,
    embedding_training_options,
)
