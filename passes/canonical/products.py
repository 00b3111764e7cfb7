"""Products with weights: everything that multiplies by a constant matrix from the right is a ``linear``."""

from __future__ import annotations

from typing import Any, cast

import torch

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
    """``padding="same"`` or ``"valid"`` -> numbers; where "same" pads the end by one more, a padding before it does."""
    kernel = cast(tuple[int, ...], node.argument("weight").tensor_type.shape[2:])
    given: Any = node.argument("dilation")
    dilation: tuple[int, ...] = given if len(given) == len(kernel) else given * len(kernel)
    total = [d * (k - 1) if node.argument("padding") == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    arguments = {**dict(node.arguments), "padding": tuple(t // 2 for t in total)}
    if any(t % 2 for t in total):
        more = tuple(side for t in reversed(total) for side in (0, t % 2))
        arguments["input"] = match.node("aten.constant_pad_nd", node.argument("input"), more)
    return match.remake(node.op.name.removesuffix(".padding"), arguments)


GROUPS = 256
"""Most experts whose products are written one by one."""


@rule("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")
def grouped_product(node: Node, match: RewriteContext) -> Outcome:
    """``grouped_mm(x, W[g], ends)``, rows of x multiplied by the matrix of their group, -> a sum of masked products.

    Row ``t`` belongs to the group ``g`` with ``ends[g - 1] <= t < ends[g]``. Every product runs over all rows: what a
    runtime without grouped products can do with sizes that do not depend on values.
    """
    rows, weights = (node.argument(name) for name in node.op.parameters[:2])
    ends = node.argument("offs")
    if not isinstance(ends, Node) or rows.tensor_type.rank != 2 or weights.tensor_type.rank != 3:
        return refuse("only rows times one matrix a group have a plain spelling")
    count = weights.tensor_type.shape[0]
    if not isinstance(count, int) or not 0 < count <= GROUPS:
        return refuse("a product of {} groups would be {} products", count, count)
    places = match.node("aten.arange", rows.tensor_type.shape[0], device=torch.device("cpu"), pin_memory=False)
    behind = match.node(
        "aten.ge.Tensor", match.node("aten.unsqueeze", places, 1), match.node("aten.unsqueeze", ends, 0)
    )
    group = match.node("aten.unsqueeze", match.node("aten.sum.dim_IntList", behind, (1,)), 1)
    total: Node | None = None
    for number in range(count):
        product = match.node("aten.matmul", rows, match.node("aten.select.int", weights, 0, number))
        part = match.node("aten.where.ScalarOther", match.node("aten.eq.Scalar", group, number), product, 0.0)
        total = part if total is None else match.node("aten.add.Tensor", total, part)
    return total


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
    grouped_product,
    embedding_training_options,
)
