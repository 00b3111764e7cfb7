"""Normalizations and softmax: the spelling that the user wrote, with one result."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.op import GETITEM
from ..rewrite import RewriteContext
from ..rules import Outcome, Rule, refuse, rule

BATCH_NORM = "aten.batch_norm.default"
_MOMENTUM = 0.1
_NATIVE = ("aten._native_batch_norm_legit_no_training.default", "aten.native_batch_norm.default")


@rule(GETITEM.name)
def batch_norm_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``_native_batch_norm_legit_no_training(...)[0] -> batch_norm(..., training=False)``."""
    value = node.argument("value")
    if value.op.name not in _NATIVE or node.argument("index") != 0 or value.argument("training", False):
        return None
    return _batch_norm(value, match)


@rule(BATCH_NORM)
def batch_norm_options(node: Node, match: RewriteContext) -> Outcome:
    """Options that only matter to training get one value."""
    return None if node.argument("training") else _batch_norm(node, match)


def _batch_norm(node: Node, match: RewriteContext) -> Node:
    a = node.argument
    operands = (a("input"), a("weight"), a("bias"), a("running_mean"), a("running_var"))
    return match.node(BATCH_NORM, *operands, False, _MOMENTUM, a("eps"), False)


@rule(GETITEM.name)
def layer_norm_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``native_layer_norm(...)[0] -> layer_norm(...)``."""
    value = node.argument("value")
    if value.op.name != "aten.native_layer_norm.default" or node.argument("index") != 0:
        return None
    return _layer_norm(value, match)


@rule("aten.layer_norm.default")
def layer_norm_options(node: Node, match: RewriteContext) -> Outcome:
    """The flag that picks a library goes away."""
    return _layer_norm(node, match)


def _layer_norm(node: Node, match: RewriteContext) -> Node:
    a = node.argument
    return match.node("aten.layer_norm", a("input"), a("normalized_shape"), a("weight"), a("bias"), a("eps"))


@rule("aten.mul.Tensor")
def rms_norm_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``x * rsqrt(mean(x^2) + eps) * w -> rms_norm(x, w, eps)``: over the last axis, as models write it out."""
    scaled, weight = node.argument("self"), node.argument("other")
    if not isinstance(weight, Node):
        return None
    if not weight.is_constant:
        scaled, weight = weight, scaled
    source, eps = _root_mean_square(scaled)
    if source is None or not weight.is_constant:
        return None
    width, dtype = source.tensor_type.shape[-1], source.tensor_type.dtype
    if weight.tensor_type.shape != (width,) or not isinstance(width, int) or weight.tensor_type.dtype != dtype:
        return refuse("the factor is {} and no weight per element of the last axis", weight.tensor_type)
    return match.node("aten.rms_norm.default", source, (width,), weight, eps)


def _root_mean_square(scaled: Node) -> tuple[Node, float] | tuple[None, None]:
    """``x`` and ``eps`` of ``x * rsqrt(mean(x^2, -1, keepdim) + eps)``."""
    if scaled.op.name != "aten.mul.Tensor" or not isinstance(scaled.argument("other"), Node):
        return None, None
    factors = (scaled.argument("self"), scaled.argument("other"))
    for source, root in (factors, factors[::-1]):
        if root.op.name != "aten.rsqrt.default":
            continue
        shifted = root.argument("self")
        eps = shifted.argument("other") if shifted.op.name == "aten.add.Tensor" else None
        if isinstance(eps, float) and _mean_of_squares(shifted.argument("self"), source):
            return source, eps
    return None, None


def _mean_of_squares(mean: Node, source: Node) -> bool:
    if mean.op.name != "aten.mean.dim" or not mean.argument("keepdim"):
        return False
    last = len(source.tensor_type.shape) - 1
    if tuple(mean.argument("dim") or ()) not in ((-1,), (last,)) or mean.argument("dtype") is not None:
        return False
    square = mean.argument("self")
    if square.op.name == "aten.pow.Tensor_Scalar":
        return square.argument("self") is source and square.argument("exponent") == 2
    return square.op.name == "aten.mul.Tensor" and all(
        i is source for i in (square.argument("self"), square.argument("other"))
    )


@rule("aten._softmax.default", "aten._log_softmax.default", "aten.special_softmax.int")
def softmax_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``_softmax(x, d, False) -> softmax(x, d)``, the same for the logarithm."""
    if node.argument("half_to_float", False):
        return None
    name = "aten.log_softmax.int" if "log" in node.op.name else "aten.softmax.int"
    return match.node(name, node.argument("self"), node.argument("dim"), node.argument("dtype"))


@rule("aten.softmax.int", "aten.log_softmax.int")
def softmax_dtype(node: Node, match: RewriteContext) -> Outcome:
    """``softmax(x, d, dtype) -> softmax(x, d)`` where x has that dtype."""
    source = node.inputs[0]
    if node.argument("dtype") is None or source.tensor_type.dtype != node.tensor_type.dtype:
        return None
    return match.node(node.op.name, source, node.argument("dim"))


NORM_RULES: tuple[Rule, ...] = (
    batch_norm_spelling,
    batch_norm_options,
    layer_norm_spelling,
    layer_norm_options,
    rms_norm_spelling,
    softmax_spelling,
    softmax_dtype,
)
