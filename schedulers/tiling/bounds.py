"""What no tiling can go below: closed forms, which are proofs or published, and the curve of what tilings reach.

Sources: the product bound is Smith, Lowery, Langou, van de Geijn (arXiv 1702.02017): ``C += A B`` of ``M N K`` loads at
least ``2 M N K / sqrt(S) - 2 S`` elements with ``S`` of fast memory. It counts loads of ``C``, of which those of a sum
that starts at zero fall away, at most as many as there are results, which are stored: so loads and stores together stay
above it. The form that adds the stores once more is right for large matrices and what published tables compare with.
With a window that reads the same input ``R`` times the form is ``2 macs / sqrt(R S)`` (HPCA 2020, Chen et al.).
Attention: Saha and Ye, arXiv 2402.07443, give orders of magnitude, so what is printed there is a ratio and not a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .problem import Limits, TilingProblem


@dataclass(frozen=True)
class Bounds:
    """Bytes that must move.

    Attributes:
        compulsory_bytes: every input that is used once, every result once.
        closed_form_bytes: the published form for this kind of operator, at least ``compulsory_bytes``.
        large_form_bytes: the form for large products, which small ones can go below; 0 for other operators.
        attention_order_bytes: attention: ``N^2 d^2 / M`` or below ``d^2`` elements ``N^2 d / sqrt(M)``, without the
            constant that the theory leaves open, at least ``compulsory_bytes``; otherwise 0. Not a bound.
    """

    compulsory_bytes: int
    closed_form_bytes: int
    large_form_bytes: int = 0
    attention_order_bytes: int = 0


def bounds(problem: TilingProblem, limits: Limits) -> Bounds:
    """The bounds of a problem with that much fast memory."""
    least = compulsory_bytes(problem)
    if problem.bound == "product":
        loads, stored = _product_bytes(problem, limits.budget_bytes)
        return Bounds(least, max(least, loads), max(least, loads + stored))
    if problem.bound == "attention":
        return Bounds(least, least, 0, max(least, _attention_bytes(problem, limits.budget_bytes)))
    return Bounds(least, least)


def compulsory_bytes(problem: TilingProblem) -> int:
    """Bytes of every input element that is used and of every result."""
    moved = [operand for operand in problem.operands if operand.role != "scratch"]
    return sum(-(-operand.used_elements * operand.item_bits // 8) for operand in moved)


def _product_bytes(problem: TilingProblem, budget_bytes: int) -> tuple[int, int]:
    """Bytes of the bound, and of the results. Counts elements as the smallest operand stores them, for mixed widths."""
    bits = min(operand.item_bits for operand in problem.operands)
    capacity = max(1, budget_bytes * 8 // bits)
    results = [operand for operand in problem.operands if operand.role == "output"]
    stored = sum(operand.used_elements * operand.item_bits for operand in results)
    loads = 2 * problem.macs / math.sqrt(problem.window_reuse * capacity) - 2 * capacity
    return math.floor(max(0.0, loads) * bits / 8), stored // 8


def _attention_bytes(problem: TilingProblem, budget_bytes: int) -> int:
    heads, queries, keys = problem.extents
    depth = problem.operands[0].elements
    item_bytes = problem.operands[0].item_bits / 8
    capacity = max(1.0, budget_bytes / item_bytes)
    order = queries * keys * depth * (depth / capacity if capacity >= depth**2 else 1 / math.sqrt(capacity))
    return math.floor(heads * order * item_bytes)
