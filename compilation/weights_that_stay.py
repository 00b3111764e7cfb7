"""What holds the bytes of the smallest artifact, for a user whose size budget cannot be met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.graph import Graph, Node
from ..ir.layers import Layer, Skipped, layer_name
from .pricing_stage import LayerPrices

SHOWN = 4
"""Weights that a refusal names, largest first."""

LEAST_SHARE = 0.02
"""Of the smallest artifact: what holds less is not named."""


@dataclass(frozen=True)
class Weight:
    """Bytes that no decision takes away, and why."""

    name: str
    nbytes: int
    reason: str


def fixed_weights(graph: Graph, layers: Sequence[Layer], skipped: Sequence[Skipped]) -> tuple[Weight, ...]:
    """The constants that are no layers, with the reason."""
    decided = {layer.weight for layer in layers}
    reasons = {entry.name: entry.reason for entry in skipped}
    users, outputs = graph.users(), set(graph.output_nodes)
    found: list[Weight] = []
    for node in graph.constants():
        if node not in decided:
            name = layer_name(node.handle.name)
            reason = reasons.get(name) or _reason(node, users[node], outputs)
            found.append(Weight(name, node.handle.nbytes, reason))
    return tuple(found)


def _reason(constant: Node, users: Sequence[Node], outputs: set[Node]) -> str:
    """Why a constant is no layer, in words."""
    if constant in outputs:
        return "it is an output of the model"
    named = {user: role.weight for user in users for role in user.op.facts.weights}
    if users and len(named) == len(set(users)):
        places = {name for user in users for name, value in user.arguments if value is constant}
        if not places & set(named.values()):
            return f"{_names(users)} reads it as {', '.join(sorted(places)) or 'a part'}, which no format is for"
    return f"{_names(users)} reads it, which layers are not made of"


def _names(users: Sequence[Node]) -> str:
    return ", ".join(dict.fromkeys(user.op.short_name for user in users))


def heaviest(fixed: Sequence[Weight], around: int, prices: Sequence[LayerPrices], total: float) -> str:
    """What holds most of ``total`` bytes where every layer is as small as it gets, one a line.

    Args:
        fixed: constants that are no layers.
        around: bytes of the artifact that are no weights: operators, names, shapes.
        prices: of the layers.
        total: bytes of the smallest artifact.
    """
    held = [*fixed, *(_least(entry) for entry in prices)]
    named = sorted((w for w in held if w.nbytes >= LEAST_SHARE * total), key=lambda w: (-w.nbytes, w.name))
    lines = [f"{w.name} holds {_bytes(w.nbytes)}: {w.reason}" for w in named[:SHOWN]]
    if around >= LEAST_SHARE * total:
        lines.append(f"operators and their names hold {_bytes(around)}, which no format makes smaller")
    return "".join(f"\n  {line}" for line in lines)


def _least(entry: LayerPrices) -> Weight:
    option = min(entry.options, key=lambda o: o.nbytes)
    smallest = f"{option.option.format} is the smallest that it may become"
    if option.option.unchanged and entry.refused:
        smallest += f" ({entry.refused[-1]})"
    return Weight(entry.layer.name, option.nbytes, entry.forced or smallest)


def _bytes(value: int) -> str:
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value} B"
