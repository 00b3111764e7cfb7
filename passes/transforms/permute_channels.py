"""Channels that share a scale with others like them: channels are put in another order, once and for all.

A permutation of what layers compute is undone by the columns of the layers that read it, so that the network computes
what it did, bit by bit but for the order of sums. Blocks of columns that share a scale or an exponent then hold
channels of one magnitude, and large ones crush no small ones (K-sort, arXiv 2403.20137, sorts rows for block floating
point; JLCM, arXiv 2309.17361, absorbs the permutation in the next layer). In the order of falling second moments groups
of GPTQ are fitted when act-order would visit them.

Three kinds of channels have an order that is free: hidden ones between layers and residual streams with their norms,
look-ups and depthwise convolutions (:mod:`.free_channels`), and value channels within the heads of attention
(:mod:`.value_heads`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...ir.constants import ConstantHandle
from ...ir.errors import PassError
from ...ir.graph import Graph, Node
from ...ir.layers import MATMUL, Layer, layer_name
from ..base import PassResult
from ..rewrite import settle_names
from .base import Found
from .evidence import Evidence, Subject
from .free_channels import FreeChannels, free_channels, moved_columns
from .reach import FOREIGN
from .scales import refusals, replacement
from .value_heads import value_heads

LEAST_GAIN = 0.01
"""Share of the predicted loss below which a smaller loss is no reason to move channels."""

SEARCHED_ROWS, JUDGED_ROWS = 512, 4096
"""Rows of a weight on which orders are tried, and on which the best one is held against none."""

Reader = tuple[Subject, Tensor]
"""A weight, and the channel of every column."""


@dataclass(frozen=True)
class PermuteChannels:
    """Another order of channels: a transform before encoding, see the module.

    Orders are by the largest magnitude of a channel's weights in what reads it, and by what its changes cost; for each
    set of channels the one of least predicted loss is taken, with the encoder that the readers will have, or none.

    Attributes:
        put_back: where the model returns the channels, put them back into their order by one look-up.
    """

    name: ClassVar[str] = "permute-channels"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    put_back: bool = True

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, FreeChannels], Mapping[str, str]]:
        """First layer that reads the channels -> the channels, and layer -> why those it reads keep their order."""
        found: dict[str, FreeChannels] = {}
        reasons: dict[str, str] = {}
        for site in (*value_heads(graph, layers), *free_channels(graph, layers)):
            names = [layer_name(weight.handle.name) for weight in site.columns]
            returned = ["the model returns them"] if site.returned and not self.put_back else []
            if site.reasons or returned:
                reasons |= dict.fromkeys(names, (*site.reasons, *returned)[0])
            else:
                found[names[0]] = site
        covered = {layer_name(weight.handle.name) for site in found.values() for weight in site.columns}
        return found, {x.name: reasons.get(x.name, _NOT_FREE) for x in layers if x.name not in covered}

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Channels -> their order, where one lowers the predicted loss."""
        by_weight = {layer.weight: layer for layer in layers}
        found: dict[str, Found] = {}
        for name, site in self.sites(graph, layers)[0].items():
            readers = [
                (subject, columns)
                for weight, columns in site.columns.items()
                if weight in by_weight and (subject := _subject(by_weight[weight], evidence)) is not None
            ]
            best = _best_order(readers, site.groups) if readers else None
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
        returned: dict[Node, tuple[int, Tensor]] = {}
        for name, order in fitted.items():
            site = self._checked(name, sites.get(name), order.long())
            _move(graph, site, order.long(), changed)
            returned |= {node: (axis, order.long().argsort()) for node, axis in site.returned.items()}
        refused = refusals(self.name, layers, reasons)
        if not changed:
            return PassResult(graph, refused=refused)
        return PassResult(_rebuilt(graph, changed, returned), Counter({self.name: len(fitted)}), refused)

    def _checked(self, name: str, site: FreeChannels | None, order: Tensor) -> FreeChannels:
        if site is not None and torch.equal(order.sort().values, torch.arange(site.size)):
            stays = site.groups == FOREIGN
            if bool((site.groups[order] == site.groups).all()) and bool(
                (order == torch.arange(site.size))[stays].all()
            ):
                return site
        size = 0 if site is None else site.size
        raise PassError(
            f"{self.name}: {name}: expected a permutation of channels of this graph that are free, each within its "
            f"head; found an order of {order.numel()} for {size} channels"
        )


_NOT_FREE = "what it reads is not computed by layers alone"


def _move(graph: Graph, site: FreeChannels, order: Tensor, changed: dict[Node, Tensor]) -> None:
    """Entries of parameters, and columns of what reads the channels; a weight may have both."""
    for constant, axis in site.rows.items():
        changed[constant] = changed.get(constant, constant.handle.tensor).index_select(axis, order)
    for weight, channels in site.columns.items():
        value, places = changed.get(weight, weight.handle.tensor), moved_columns(channels, order)
        role = graph.users()[weight][0].op.facts.weight
        if role is not None and role.kind == MATMUL:
            changed[weight] = value.index_select(0, places)
        else:
            changed[weight] = value.flatten(1).index_select(1, places).reshape(value.shape)


def _rebuilt(graph: Graph, changed: Mapping[Node, Tensor], returned: Mapping[Node, tuple[int, Tensor]]) -> Graph:
    done: dict[Node, Node] = {}
    for node in graph.nodes():
        new = changed.get(node)
        done[node] = graph.context.rebuild(node, done) if new is None else replacement(graph, node, new)

    def output(given: Any) -> Any:
        if not isinstance(given, Node):
            return given
        return _put_back(graph, done[given], *returned[given]) if given in returned else done[given]

    return settle_names(graph.with_outputs(tuple(output(o) for o in graph.outputs)))


def _put_back(graph: Graph, value: Node, axis: int, places: Tensor) -> Node:
    """``index_select(value, axis, @places)``: the channels of an output in their old order."""
    handle = ConstantHandle.of("order_of_outputs", places, "derived")
    with graph.context.origin(value.origin):
        return graph.context.node("aten.index_select", value, axis, graph.context.constant_of(handle))


# ------------------------------------------------------------------------------------------------ the order
def _subject(layer: Layer, evidence: Evidence) -> Subject | None:
    """The layer under its coarsest option; the rows of a table have blocks like those of any weight."""
    option = evidence.coarsest(layer)
    return None if option is None else Subject(layer.matrix(), evidence.weights.get(layer.name), option)


def _best_order(readers: Sequence[Reader], groups: Tensor) -> Found | None:
    searched = [(subject.thinned(SEARCHED_ROWS), columns) for subject, columns in readers]
    tried = [(_loss(searched, order), place, order) for place, order in enumerate(_orders(readers, groups))]
    order = min(tried, key=lambda each: each[:2])[2]
    judged = [(subject.thinned(JUDGED_ROWS), columns) for subject, columns in readers]
    before, after = _loss(judged, torch.arange(groups.numel())), _loss(judged, order)
    if not after < before * (1.0 - LEAST_GAIN):
        return None
    return Found(order.to(torch.int32), {"before": before, "after": after})


def _orders(readers: Sequence[Reader], groups: Tensor) -> list[Tensor]:
    """Channels by falling largest magnitude, and by falling cost, each within its group."""
    largest, cost = torch.zeros(groups.numel()), torch.zeros(groups.numel())
    for subject, columns in readers:
        own = columns != FOREIGN
        largest.scatter_reduce_(0, columns[own], subject.matrix.abs().amax(dim=0)[own], "amax")
        known = None if subject.statistics is None else subject.statistics.importance
        if known is not None:
            cost.index_add_(0, columns[own], known.float()[own])
    scores = [largest, cost] if bool(cost.any()) else [largest]
    return [_within(groups, score) for score in scores]


def _within(groups: Tensor, score: Tensor) -> Tensor:
    """Every group's channels by falling score, in the places that the group has."""
    order = torch.arange(groups.numel())
    for group in groups[groups != FOREIGN].unique():
        places = (groups == group).nonzero().flatten()
        order[places] = places[score[places].argsort(descending=True, stable=True)]
    return order


def _loss(readers: Sequence[Reader], order: Tensor) -> float:
    """Of storing the weights with their channels in an order."""
    return sum(_moved(subject, moved_columns(columns, order)).error() for subject, columns in readers)


def _moved(subject: Subject, places: Tensor) -> Subject:
    known = subject.statistics
    if known is not None and known.second_moment is not None:
        known = replace(known, second_moment=known.second_moment[places][:, places], halves=None)
    return Subject(subject.matrix[:, places], known, subject.option)
