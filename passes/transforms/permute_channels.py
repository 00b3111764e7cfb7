"""Channels that share a scale with others like them: hidden channels are put in another order, once and for all.

A permutation of what a layer computes is undone by the columns of the layers that read it, so that the network computes
what it did, bit by bit but for the order of sums. Blocks of columns that share a scale or an exponent then hold
channels of one magnitude, and large ones crush no small ones (K-sort, arXiv 2403.20137, sorts rows for block floating
point; JLCM, arXiv 2309.17361, absorbs the permutation in the next layer). In the order of falling second moments groups
of GPTQ are fitted when act-order would visit them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import PassError
from ...ir.graph import Graph, Node
from ...ir.layers import MATMUL, Layer, layer_name
from ..base import PassResult
from ..rewrite import settle_names, with_replaced_outputs
from .base import Found
from .evidence import Evidence, Subject
from .hidden import Hidden, hidden_channels, weight_of
from .scales import refusals, replacement

LEAST_GAIN = 0.01
"""Share of the predicted loss below which a smaller loss is no reason to move channels."""


@dataclass(frozen=True)
class PermuteChannels:
    """Another order of hidden channels: a transform before encoding, see the module.

    Orders are by the largest magnitude of a channel's weights in what reads it, and by what its changes cost; for each
    set of channels the one of least predicted loss is taken, with the encoder that the readers will have, or none.
    """

    name: ClassVar[str] = "permute-channels"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Hidden], Mapping[str, str]]:
        """First layer that reads the channels -> the channels, and layer -> why those it reads keep their order."""
        found: dict[str, Hidden] = {}
        reasons: dict[str, str] = {}
        for hidden in hidden_channels(graph, layers):
            names = [layer_name(w.handle.name) for w in hidden.weights(list(hidden.readers))]
            if hidden.reasons:
                reasons |= dict.fromkeys(names, hidden.reasons[0])
            else:
                found[names[0]] = hidden
        covered = {layer_name(weight_of(r).handle.name) for hidden in found.values() for r in hidden.readers}
        return found, {x.name: reasons.get(x.name, _NOT_HIDDEN) for x in layers if x.name not in covered}

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Channels -> their order, where one lowers the predicted loss."""
        by_weight = {layer.weight: layer for layer in layers}
        found: dict[str, Found] = {}
        for name, hidden in self.sites(graph, layers)[0].items():
            owners = [by_weight[w] for w in hidden.weights(list(hidden.readers)) if w in by_weight]
            readers = [s for layer in owners if (s := Subject.of(layer, evidence)) is not None]
            best = _best_order(readers, hidden.size) if readers else None
            if best is not None:
                found[name] = best
        return found

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """Put channels into the orders ``[channels]``.

        Raises:
            PassError: an order for what is no site, or that is no permutation of its channels.
        """
        sites, reasons = self.sites(graph, layers)
        changed: dict[Node, Tensor] = {}
        for name, order in fitted.items():
            size = sites[name].size if name in sites else 0
            if not size or not torch.equal(order.sort().values.long(), torch.arange(size)):
                raise PassError(
                    f"{self.name}: {name}: expected a permutation of hidden channels of this graph; found an order of "
                    f"{order.numel()} for {size} channels"
                )
            _move(sites[name], order.long(), changed)
        refused = refusals(self.name, layers, reasons)
        if not changed:
            return PassResult(graph, refused=refused)
        done: dict[Node, Node] = {}
        for node in graph.nodes():
            new = changed.get(node)
            done[node] = graph.context.rebuild(node, done) if new is None else replacement(graph, node, new)
        moved = settle_names(with_replaced_outputs(graph, done))
        return PassResult(moved, Counter({self.name: len(fitted)}), refused)


_NOT_HIDDEN = "what it reads is not computed by layers alone"


def _move(hidden: Hidden, order: Tensor, changed: dict[Node, Tensor]) -> None:
    """Rows and biases of what computes the channels, columns of what reads them; a layer may do both."""

    def select(constant: Node, axis: int) -> None:
        changed[constant] = changed.get(constant, constant.handle.tensor).index_select(axis, order)

    for node in hidden.writers:
        role = node.op.facts.weight
        select(weight_of(node), 1 if role is not None and role.kind == MATMUL else 0)
        if node.argument("bias") is not None:
            select(node.argument("bias"), 0)
    for node in hidden.readers:
        role = node.op.facts.weight
        select(weight_of(node), 0 if role is not None and role.kind == MATMUL else 1)


def _best_order(readers: Sequence[Subject], channels: int) -> Found | None:
    before = sum(_loss(subject, torch.arange(channels)) for subject in readers)
    tried = [(sum(_loss(subject, order) for subject in readers), place, order)
             for place, order in enumerate(_orders(readers, channels))]  # fmt: skip
    after, _, order = min(tried, key=lambda each: each[:2])
    if not after < before * (1.0 - LEAST_GAIN):
        return None
    return Found(order.to(torch.int32), {"before": before, "after": after})


def _orders(readers: Sequence[Subject], channels: int) -> list[Tensor]:
    """Channels by falling largest magnitude, and by falling cost."""
    largest, cost = torch.zeros(channels), torch.zeros(channels)
    for subject in readers:
        by_channel = subject.matrix.abs().reshape(len(subject.matrix), channels, -1)
        largest = torch.maximum(largest, by_channel.amax(dim=(0, 2)))
        known = None if subject.statistics is None else subject.statistics.importance
        if known is not None:
            cost += known.float().reshape(channels, -1).sum(dim=1)
    scores = [largest, cost] if bool(cost.any()) else [largest]
    return [score.argsort(descending=True, stable=True) for score in scores]


def _loss(subject: Subject, order: Tensor) -> float:
    """Of storing the weight with its channels in an order; windows of a convolution move with their channel."""
    positions = subject.matrix.shape[1] // order.numel()
    columns = (order.unsqueeze(1) * positions + torch.arange(positions)).flatten()
    known = subject.statistics
    if known is not None and known.second_moment is not None:
        known = replace(known, second_moment=known.second_moment[columns][:, columns], halves=None)
    return Subject(subject.matrix[:, columns], known, subject.option).error()
