"""Normalizations and softmax: the spelling that the user wrote, with one result."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.op import GETITEM
from ..rewrite import RewriteContext
from ..rules import Outcome, Rule, rule

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
    softmax_spelling,
    softmax_dtype,
)
