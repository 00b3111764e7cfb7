"""Where a graph computes attention: scaled dot products, or a softmax between two products of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Origin

WHOLE = "aten.scaled_dot_product_attention"
PRODUCTS = ("aten.matmul", "aten.bmm", "aten.baddbmm", "aten.einsum")
SOFTMAX = ("aten.softmax", "aten._softmax")
_NAMES = """
    add sub mul div where masked_fill clamp clamp_min maximum tanh nan_to_num _to_copy to type_as clone contiguous
    view reshape flatten unflatten expand unsqueeze squeeze slice dropout
"""
BETWEEN = frozenset(f"aten.{name}" for name in _NAMES.split())
"""What may lie between the softmax and the products: scales, masks, casts, views."""


@dataclass(frozen=True)
class AttentionSite:
    """One attention.

    Attributes:
        origin: the user's module and line.
        form: ``softmax`` between two products, or one ``scaled_dot_product_attention``.
    """

    origin: Origin
    form: str


def attention_sites(graph: Graph) -> tuple[AttentionSite, ...]:
    """Every attention of a graph, in order."""
    users = graph.users()
    found: list[AttentionSite] = []
    for node in graph.nodes():
        name = packet(node)
        if name == WHOLE:
            found.append(AttentionSite(node.origin, "scaled_dot_product_attention"))
        elif name in SOFTMAX and _before(node) and _behind(node, users):
            found.append(AttentionSite(node.origin, "softmax"))
    return tuple(found)


def packet(node: Node) -> str:
    """The op's name without its overload."""
    return ".".join(node.op.name.split(".")[:2])


def _before(softmax: Node) -> bool:
    return _reaches_product(softmax.inputs, lambda node: node.inputs)


def _behind(softmax: Node, users: Mapping[Node, tuple[Node, ...]]) -> bool:
    return _reaches_product(users[softmax], lambda node: users[node])


def _reaches_product(start: Iterable[Node], step: Callable[[Node], Iterable[Node]]) -> bool:
    """Whether a product of two activations is reached through nothing but scales, masks, casts and views."""
    waiting, seen = list(start), set[Node]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if packet(node) in PRODUCTS and not any(n.is_constant for n in node.inputs):
            return True
        if packet(node) in BETWEEN:
            waiting += step(node)
    return False
