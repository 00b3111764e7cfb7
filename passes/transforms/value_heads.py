"""Value channels of attention: within a head their order is free, for all heads of queries that share the head.

Attention mixes tokens, each head with weights of its own, so that a channel of the values may stand anywhere in its
head as long as the layer behind reads it there. Queries and keys are left as they are: nothing that is stored has
blocks along their channels (their weights' rows), and rotary positions would have to move in pairs with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ir.graph import Graph, Node
from ...ir.layers import CONV, MATMUL, Layer
from .free_channels import FreeChannels, weight_of, written_axis
from .reach import FOREIGN, Consumer, Terrain, follow


def value_heads(graph: Graph, layers: Sequence[Layer]) -> list[FreeChannels]:
    """For every layer that computes values the channels of its heads, in the order of the graph."""
    terrain, known = Terrain(graph), {layer.weight for layer in layers}
    found: list[FreeChannels] = []
    for node in graph.nodes():
        site = _site(terrain, node)
        if site is not None and any(weight in known for weight in site.columns):
            found.append(site)
    return found


def _site(terrain: Terrain, node: Node) -> FreeChannels | None:
    role, axis = node.op.facts.weight, written_axis(node)
    if role is None or axis is None or role.kind == CONV or node.op.packet == "aten.embedding":
        return None
    weight, bias = weight_of(node), node.argument("bias")
    if not terrain.alone(weight) or not (bias is None or terrain.alone(bias)):
        return None
    reach = follow(terrain, node, axis)
    groups = torch.where(reach.blocked, FOREIGN, reach.heads)
    consumers = [c for c in reach.consumers if _reads(c, groups)]
    if not consumers:
        return None
    rows = {weight: 1 if role.kind == MATMUL else 0} | ({} if bias is None else {bias: 0})
    site = FreeChannels(groups.numel(), groups, rows, {c.weight: c.columns for c in consumers})
    if reach.uneven:
        site.reasons.append("a product treats channels of a head differently")
    elif not all(_reads_whole(c, groups) for c in consumers):
        site.reasons.append("a layer reads a part of a head")
    return site


def _reads(consumer: Consumer, groups: Tensor) -> bool:
    """Whether a weight reads channels that have a head."""
    own = consumer.columns[consumer.columns != FOREIGN]
    return bool((groups[own] != FOREIGN).any())


def _reads_whole(consumer: Consumer, groups: Tensor) -> bool:
    """Whether a weight reads the channels of each head equally often."""
    own = consumer.columns[consumer.columns != FOREIGN]
    counts = torch.bincount(own, minlength=groups.numel())
    heads = groups[groups != FOREIGN].unique()
    return all(int(counts[groups == head].unique().numel()) == 1 for head in heads)
