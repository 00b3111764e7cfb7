"""Values that were rounded with calibrated steps as the codes that they are. Every integer target starts with this."""

from __future__ import annotations

from ..ir.graph import Node
from .rewrite import RewriteContext
from .rules import Outcome, refuse, rule

STATIC = "instar.fake_quantize_static.default"
QUANTIZE = "instar.quantize_static.default"
BACK = "instar.dequantize_static.default"


@rule(STATIC)
def split_static(node: Node, match: RewriteContext) -> Outcome:
    """``fake_quantize_static(x)`` -> codes and back."""
    if node.argument("symmetric") or node.argument("bits") != 8:
        return refuse("codes are {}-bit {}; the kernels take unsigned 8-bit codes", node.argument("bits"), "signed")
    scale, zero = node.argument("scale"), node.argument("zero_point")
    codes = match.context.node("instar.quantize_static", node.argument("x"), scale, zero)
    return match.context.node("instar.dequantize_static", codes, scale, zero)


@rule(QUANTIZE)
def codes_of_codes(node: Node, match: RewriteContext) -> Outcome:
    """Codes that were dequantized are the codes themselves, or the same values in another scale."""
    source = node.argument("x")
    if source.op.name != BACK:
        return None
    if _same_scale(source, node):
        return source.argument("codes")
    old, new = ([n.argument(a) for a in ("scale", "zero_point")] for n in (source, node))
    return match.node("instar.requantize", source.argument("codes"), *old, *new)


def _same_scale(a: Node, b: Node) -> bool:
    return a.argument("scale") == b.argument("scale") and a.argument("zero_point") == b.argument("zero_point")
