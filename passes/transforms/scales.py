"""Scales of channels: what a norm, a layer or an extra product divides, the weights that read it multiply.

``(x / s) (W diag(s))^T = x W^T``: the fold that AWQ (arXiv 2306.00978) and SmoothQuant (arXiv 2211.10438) share. All
consumers of a value take the scale, or none does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.constants import ConstantHandle
from ...ir.errors import PassError
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, LINEAR, MATMUL, Layer, layer_name
from ..base import PassResult, Refusal
from ..rewrite import settle_names, with_replaced_outputs
from .reach import Consumer, Terrain, follow

NORM, LAYER, EXPLICIT = "norm", "layer", "product"
"""What takes the inverse scale: the affine part of a norm, the rows of a weight, or a product that is added."""

_NORMS = ("aten.layer_norm", "aten.rms_norm")


@dataclass(frozen=True)
class ScaleSite:
    """Channels that may be scaled.

    Attributes:
        name: the layer of the first consumer.
        source: the value whose channels these are.
        kind: :data:`NORM`, :data:`LAYER` or :data:`EXPLICIT`: what takes the inverse.
        free: bool ``[channels]``: those that may be scaled; the others keep 1.
        consumers: every weight that reads a free channel.
    """

    name: str
    source: Node
    kind: str
    free: Tensor
    consumers: tuple[Consumer, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the consumers."""
        return tuple(layer_name(c.weight.handle.name) for c in self.consumers)

    def columns(self, consumer: Consumer, scale: Tensor) -> Tensor:
        """The factor of every column of a consumer's matrix, from scales ``[channels]``; 1 for foreign channels."""
        return site_columns(scale, consumer.columns)


def site_columns(scale: Tensor, columns: Tensor) -> Tensor:
    """The factor of every column from the channel that it is; 1 for what is no channel of the site."""
    return torch.where(columns < 0, torch.ones_like(scale[:1]), scale[columns.clamp(min=0)])


def scale_sites(
    graph: Graph, layers: Sequence[Layer], *, explicit: bool = False
) -> tuple[dict[str, ScaleSite], dict[str, str]]:
    """Site -> where scales may go, and layer -> why its input has none.

    Args:
        graph: after the exact passes.
        layers: at least one of a site's consumers is one of them.
        explicit: whether an extra product may take what nothing else can.
    """
    terrain, wanted = Terrain(graph), {layer.weight: layer.name for layer in layers}
    found: dict[str, ScaleSite] = {}
    reasons: dict[str, str] = {}
    for source, kind, axis in _sources(terrain):
        reach = follow(terrain, source, axis)
        site = _site(source, kind, ~reach.blocked, reach.consumers, wanted)
        if site is not None:
            found.setdefault(site.name, site)
        elif reach.consumers and reach.reasons:
            read = [wanted[c.weight] for c in reach.consumers if c.weight in wanted]
            reasons |= dict.fromkeys(read, f"{reach.reasons[0]} too")
    if explicit:
        found |= _explicit(terrain, layers, found)
    covered = {name for site in found.values() for name in site.layers}
    missing = {layer.name: reasons.get(layer.name, _NO_SOURCE) for layer in layers if layer.name not in covered}
    return found, missing


_NO_SOURCE = "neither a norm nor a layer that could be scaled comes before it"


def _sources(terrain: Terrain) -> Iterator[tuple[Node, str, int]]:
    """Values whose producer can be divided channel by channel, and the axis of the channels."""
    for node in terrain.graph.nodes():
        if node.op.packet in _NORMS and _is_scalable_norm(terrain, node):
            yield node, NORM, node.tensor_type.rank - 1
            continue
        role = node.op.facts.weight
        if role is None or role.kind not in (LINEAR, MATMUL, CONV) or not terrain.alone(node.argument(role.weight)):
            continue
        weight: Node = node.argument(role.weight)
        bias = node.argument("bias")
        if (bias is None or terrain.alone(bias)) and (role.kind != MATMUL or weight.tensor_type.rank == 2):
            behind = weight.tensor_type.rank - 1 if role.kind == CONV else 1
            yield node, LAYER, node.tensor_type.rank - behind


def _is_scalable_norm(terrain: Terrain, node: Node) -> bool:
    weight, bias = node.argument("weight"), node.argument("bias")
    return (
        len(node.argument("normalized_shape")) == 1 and terrain.alone(weight) and (bias is None or terrain.alone(bias))
    )


def _site(
    source: Node, kind: str, free: Tensor, consumers: Sequence[Consumer], wanted: Mapping[Node, str]
) -> ScaleSite | None:
    kept = tuple(c for c in consumers if bool(free[c.columns[c.columns >= 0]].any()))
    names = [wanted[c.weight] for c in kept if c.weight in wanted]
    return ScaleSite(names[0], source, kind, free, kept) if names else None


def _explicit(terrain: Terrain, layers: Sequence[Layer], found: Mapping[str, ScaleSite]) -> dict[str, ScaleSite]:
    """Sites of products in front of layers that no other site reaches; other readers of the value see it as it is."""
    covered = {name for site in found.values() for name in site.layers}
    added: dict[str, ScaleSite] = {}
    values = {layer.uses[0].input: None for layer in layers if layer.name not in covered and _may_multiply(layer)}
    for value in values:
        only = {u.node for x in layers if x.name not in covered and _may_multiply(x) for u in x.uses}
        reach = follow(terrain, value, value.tensor_type.rank - 1, only.__contains__)
        site = _site(value, EXPLICIT, ~reach.blocked, reach.consumers, {x.weight: x.name for x in layers})
        if site is not None:
            added[site.name] = site
    return added


def _may_multiply(layer: Layer) -> bool:
    return len(layer.uses) == 1 and layer.kind in (LINEAR, MATMUL)


# ------------------------------------------------------------------------------------------------ rewriting
def scaled(graph: Graph, sites: Mapping[str, ScaleSite], scales: Mapping[str, Tensor], rule: str) -> PassResult:
    """The graph with scales folded in. New constants are computed in float64 and rounded once.

    Args:
        graph: of the sites.
        sites: all of them.
        scales: site -> float64 ``[channels]``, positive.
        rule: the name under which it counts.

    Raises:
        PassError: a scale for something that is no site, of another length, or not positive and finite.
    """
    factors = _Factors()
    products: dict[Node, tuple[str, Tensor]] = {}
    for name, scale in scales.items():
        site = _checked(rule, name, sites, scale)
        for consumer in site.consumers:
            factors.columns(consumer.node, consumer.weight, site.columns(consumer, scale))
        inverse = scale.reciprocal()
        if site.kind == EXPLICIT:
            products |= {consumer.node: (name, inverse) for consumer in site.consumers}
        elif site.kind == NORM:
            factors.vector(site.source, ("weight", "bias"), inverse)
        else:
            factors.rows(site.source, inverse)
    if not scales:
        return PassResult(graph)
    return PassResult(_rebuilt(graph, factors.constants(graph), products), Counter({rule: len(scales)}))


def _checked(rule: str, name: str, sites: Mapping[str, ScaleSite], scale: Tensor) -> ScaleSite:
    if name not in sites:
        raise PassError(f"{rule}: expected a place where scales may go; found {name!r}, which is none of this graph")
    site = sites[name]
    if scale.shape != site.free.shape or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise PassError(
            f"{rule}: {name}: expected {site.free.numel()} positive scales; found shape {list(scale.shape)}, least "
            f"{float(scale.min()) if scale.numel() else 0.0:g}"
        )
    if bool((scale[~site.free] != 1.0).any()):
        raise PassError(f"{rule}: {name}: expected a scale of 1 for channels that something else reads; found another")
    return site


class _Factors:
    """What every constant is multiplied with, gathered over all sites: a weight may be both before and behind one."""

    def __init__(self) -> None:
        self._factors: dict[Node, list[Callable[[Tensor], Tensor]]] = {}

    def columns(self, node: Node, weight: Node, factor: Tensor) -> None:
        """Multiply the columns of the matrix of a weight."""
        self._add(weight, lambda w: w * _along_columns(node, w, factor))

    def rows(self, node: Node, factor: Tensor) -> None:
        """Multiply the output channels of a layer, its bias with them."""
        role = node.op.facts.weight
        assert role is not None  # sources of this kind have one
        axis = 1 if role.kind == MATMUL else 0
        self._add(node.argument(role.weight), lambda w: w * _along(w, axis, factor))
        if role.kind != MATMUL:
            self.vector(node, ("bias",), factor)

    def vector(self, node: Node, names: Sequence[str], factor: Tensor) -> None:
        """Multiply parameters ``[channels]``."""
        for name in names:
            if node.argument(name) is not None:
                self._add(node.argument(name), lambda v: v * factor)

    def _add(self, constant: Node, factor: Callable[[Tensor], Tensor]) -> None:
        self._factors.setdefault(constant, []).append(factor)

    def constants(self, graph: Graph) -> dict[Node, Node]:
        """Old constant -> new one, under the same name and in the same dtype."""
        found: dict[Node, Node] = {}
        for constant, factors in self._factors.items():
            value = constant.handle.tensor.double()
            for factor in factors:
                value = factor(value)
            found[constant] = replacement(graph, constant, value)
        return found


def replacement(graph: Graph, constant: Node, value: Tensor) -> Node:
    """A constant with another value, under the same name, rounded to the same dtype."""
    old = constant.handle
    rounded = value.to(old.type.dtype).contiguous()
    return graph.context.constant_of(ConstantHandle.of(old.name, rounded, old.kind, old.aliases))


def _along(weight: Tensor, axis: int, factor: Tensor) -> Tensor:
    return factor.reshape([-1 if a == axis else 1 for a in range(weight.dim())])


def _along_columns(node: Node, weight: Tensor, factor: Tensor) -> Tensor:
    """``factor`` ``[columns]`` of the matrix as it multiplies the weight in its own shape."""
    role = node.op.facts.weight
    assert role is not None  # consumers have one
    return factor.unsqueeze(1) if role.kind == MATMUL else factor.reshape(1, *weight.shape[1:])


def _rebuilt(graph: Graph, constants: Mapping[Node, Node], products: Mapping[Node, tuple[str, Tensor]]) -> Graph:
    done: dict[Node, Node] = {}
    scales = {name: _input_scale(graph, name, node, factor) for node, (name, factor) in products.items()}
    for node in graph.nodes():
        if node in constants:
            done[node] = constants[node]
        elif node in products:
            done[node] = _behind_product(graph, node, scales[products[node][0]], done)
        else:
            done[node] = graph.context.rebuild(node, done)
    return settle_names(with_replaced_outputs(graph, done))


def _input_scale(graph: Graph, site: str, node: Node, factor: Tensor) -> Node:
    """The constant of a product; layers that share the input share it."""
    dtype = _input_of(node).tensor_type.dtype
    return graph.context.constant_of(ConstantHandle.of(f"{site}.input_scale", factor.to(dtype), "derived"))


def _behind_product(graph: Graph, node: Node, scale: Node, done: Mapping[Node, Node]) -> Node:
    """The layer on its input times ``scale``."""
    value = _input_of(node)
    with graph.context.origin(node.origin):
        product = graph.context.node("aten.mul.Tensor", done[value], scale)
        return graph.context.rebuild(node, {**done, value: product})


def _input_of(node: Node) -> Node:
    role = node.op.facts.weight
    assert role is not None  # consumers have one
    return node.argument(role.input)


def refusals(rule: str, layers: Sequence[Layer], reasons: Mapping[str, str]) -> tuple[Refusal, ...]:
    """Layers that were left as they are, with the reason."""
    places = {layer.name: layer.uses[0].node.origin for layer in layers}
    return tuple(Refusal(rule, name, places[name], reason) for name, reason in reasons.items() if name in places)
