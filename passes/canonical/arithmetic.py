"""Arithmetic with numbers: one spelling, numbers and constants second, what leaves a value as it is goes away."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import torch

from ...ir.graph import Node
from ..rewrite import RewriteContext, same_type
from ..rules import Outcome, Rule, rule
from .layout import source_of

ADD, SUB, MUL, DIV = "aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor"

_SPELLINGS = {
    "aten.add.Scalar": ADD,
    "aten.sub.Scalar": SUB,
    "aten.subtract.Tensor": SUB,
    "aten.subtract.Scalar": SUB,
    "aten.mul.Scalar": MUL,
    "aten.multiply.Tensor": MUL,
    "aten.multiply.Scalar": MUL,
    "aten.div.Scalar": DIV,
    "aten.divide.Tensor": DIV,
    "aten.divide.Scalar": DIV,
    "aten.true_divide.Tensor": DIV,
    "aten.true_divide.Scalar": DIV,
}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether an argument is a plain number, not a boolean and not a symbolic size."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@rule(*_SPELLINGS)
def arithmetic_spelling(node: Node, match: RewriteContext) -> Outcome:
    """``add.Scalar``, ``subtract``, ``true_divide``, ... -> ``add.Tensor``, ``sub.Tensor``, ``div.Tensor``, ..."""
    return match.remake(_SPELLINGS[node.op.name], dict(node.arguments))


@rule(ADD, SUB)
def fold_alpha(node: Node, match: RewriteContext) -> Outcome:
    """``add(x, 3, alpha=2) -> add(x, 6)``."""
    other, alpha = node.argument("other"), node.argument("alpha")
    if alpha == 1 or not is_number(other) or not is_number(alpha):
        return None
    return match.node(node.op.name, source_of(node), other * alpha)


@rule("aten.rsub.Scalar", "aten.rsub.Tensor")
def reversed_subtraction(node: Node, match: RewriteContext) -> Outcome:
    """``rsub(x, y) -> sub(y, x)``; a number becomes a constant of rank 0 where the result's dtype holds it exactly."""
    other, alpha = node.argument("other"), node.argument("alpha")
    if isinstance(other, Node):
        return match.node(SUB, other, source_of(node), alpha=alpha)
    dtype = node.tensor_type.dtype
    if not is_number(other) or torch.tensor(other, dtype=dtype).item() != other:
        return None
    return match.node(SUB, match.scalar(other, dtype), source_of(node), alpha=alpha)


@rule(SUB)
def subtract_a_number(node: Node, match: RewriteContext) -> Outcome:
    """``sub(x, 3.0) -> add(x, -3.0)`` for floating x."""
    other = node.argument("other")
    if not is_number(other) or not node.tensor_type.dtype.is_floating_point or node.argument("alpha") != 1:
        return None
    return match.node(ADD, source_of(node), -other)


@rule(DIV)
def divide_by_a_power_of_two(node: Node, match: RewriteContext) -> Outcome:
    """``div(x, 8) -> mul(x, 0.125)``: only where the reciprocal is exact, in the dtype of the result too."""
    other, dtype = node.argument("other"), node.tensor_type.dtype
    if not is_number(other) or other == 0 or not math.isfinite(other) or not dtype.is_floating_point:
        return None
    reciprocal = 1.0 / other
    exact = abs(math.frexp(other)[0]) == 0.5 and abs(reciprocal) >= torch.finfo(dtype).tiny
    fits = abs(other) >= torch.finfo(dtype).tiny and abs(reciprocal) <= torch.finfo(dtype).max
    return match.node(MUL, source_of(node), reciprocal) if exact and fits else None


@rule(ADD, SUB, MUL, DIV)
def constant_scalar_to_number(node: Node, match: RewriteContext) -> Outcome:
    """``mul(x, @c) -> mul(x, 2.0)`` for a constant of rank 0 that is not a parameter of the model."""
    other = node.argument("other")
    if not isinstance(other, Node) or not other.is_constant or other.handle.kind == "parameter":
        return None
    if other.tensor_type.shape != () or other.tensor_type.dtype in (torch.bool, torch.complex64, torch.complex128):
        return None
    replacement = match.remake(node.op.name, {**dict(node.arguments), "other": other.handle.tensor.item()})
    return replacement if same_type(replacement.type, node.type) else None


@rule(ADD, MUL)
def constant_second(node: Node, match: RewriteContext) -> Outcome:
    """``add(@c, x) -> add(x, @c)``, the same for ``mul``."""
    first, second = source_of(node), node.argument("other")
    if not first.is_constant or not isinstance(second, Node) or second.is_constant or node.argument("alpha", 1) != 1:
        return None
    return match.node(node.op.name, second, first)


_NEUTRAL = {ADD: 0, SUB: 0, MUL: 1, DIV: 1, "aten.pow.Tensor_Scalar": 1}


@rule(*_NEUTRAL)
def neutral_operand(node: Node, match: RewriteContext) -> Outcome:
    """``x + 0``, ``x - 0``, ``x * 1``, ``x / 1``, ``x ** 1`` -> ``x`` where the dtype stays."""
    del match
    other = node.argument("exponent") if node.op.name == "aten.pow.Tensor_Scalar" else node.argument("other")
    if not is_number(other) or other != _NEUTRAL[node.op.name] or not same_type(source_of(node).type, node.type):
        return None
    return source_of(node)


@rule("aten.neg.default")
def double_negation(node: Node, match: RewriteContext) -> Outcome:
    """``neg(neg(x)) -> x``."""
    del match
    inner = source_of(node)
    return source_of(inner) if inner.op.name == "aten.neg.default" else None


ARITHMETIC_RULES: tuple[Rule, ...] = (
    arithmetic_spelling,
    fold_alpha,
    reversed_subtraction,
    constant_scalar_to_number,
    subtract_a_number,
    divide_by_a_power_of_two,
    constant_second,
    neutral_operand,
    double_negation,
)
