"""Stage: weights are encoded in the order of the network, each for the inputs that the encoded layers before it give.

GPTQ as it was published (arXiv 2210.17323, section 4) quantizes layer after layer and gathers the second moment of a
layer's inputs behind the layers that are quantized already. Pricing cannot do that, because nothing is decided yet; so
the codes of a finished plan are chosen anew, in one pass over the calibration batches that were kept. The second moment
is that of the inputs alone, as published, without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ir.calibration.matrices import conv_groups, layer_matrices
from ..ir.dialect import fake_quantize_dynamic, fake_quantize_static
from ..ir.errors import FormatError
from ..ir.evaluate import evaluate_node, evaluate_together
from ..ir.graph import Graph, Node
from ..ir.layers import EMBEDDING, Layer, as_rounded
from ..ir.options import Arithmetic, Option
from ..ir.plan import Plan, StaticQuantization
from ..ir.statistics import WeightStatistics
from ..passes.encoders import encoder as parse_encoder
from ..passes.formats import Encoded
from ..passes.formats import format as parse_format
from ..passes.pricing import LayerPricer, as_int8

Stored = Mapping[str, Tensor]


def in_order(
    graph: Graph,
    layers: Sequence[Layer],
    plan: Plan,
    samples: Sequence[Sequence[Tensor]],
    static: Mapping[Node, StaticQuantization],
    row_weights: Mapping[str, Tensor],
) -> Plan:
    """The plan with the codes of every layer whose encoder needs data chosen behind the encoded layers before it.

    Args:
        graph: after the exact passes, without the plan.
        layers: of that graph.
        plan: with encodings; those of layers that several nodes use, and of embeddings, are kept.
        samples: flat inputs; all are evaluated together.
        static: value -> its static quantization.
        row_weights: layer -> what a change of each output channel costs.
    """
    walk = _InOrder(graph, layers, plan, static, row_weights)
    with torch.no_grad():
        evaluate_together(graph, samples, walk.computed)
    return replace(plan, encodings={**plan.encodings, **walk.chosen})


class _InOrder:
    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        plan: Plan,
        static: Mapping[Node, StaticQuantization],
        row_weights: Mapping[str, Tensor],
    ) -> None:
        self.chosen: dict[str, Stored] = {}
        self._plan, self._static, self._row_weights = plan, static, row_weights
        options = {d.layer: d.chosen.option for d in plan.decisions}
        changed = [(x, options[x.name]) for x in layers if not options[x.name].unchanged]
        self._uses = {u.node: (x, option) for x, option in changed for u in x.uses if not x.only_stored}
        self._whole = {x.weight: (x, option) for x, option in changed if x.only_stored}
        self._rounded_nodes = {
            u.node: as_rounded(u.node, graph.context)
            for x, option in self._whole.values()
            if option.activation.is_dynamic
            for u in x.uses
        }
        self._needed = {source for node in (*self._uses, *self._rounded_nodes) for source in node.inputs}
        self._last = {source: node for node in graph.nodes() for source in node.inputs if source in self._needed}
        self._values: dict[Node, list[Any]] = {}

    def computed(self, node: Node, values: list[Any]) -> list[Any]:
        """The values of a node with everything before it encoded; a layer's own with its codes in place.

        Weights that operators take whole keep the codes that the plan has.
        """
        if node in self._uses:
            values = self._encoded(node, *self._uses[node])
        elif node in self._whole:
            values = [self._weight(*self._whole[node])] * len(values)
        elif node in self._rounded_nodes:
            given = [{s: self._values[s][k] for s in node.inputs} for k in range(len(values))]
            values = [evaluate_node(self._rounded_nodes[node], own, {}) for own in given]
        if node in self._needed:
            self._values[node] = values
        for source in set(node.inputs) & self._needed:
            if self._last[source] is node:
                del self._values[source]
        return values

    def _encoded(self, node: Node, layer: Layer, option: Option) -> list[Any]:
        use = next(u for u in layer.uses if u.node is node)
        inputs = [self._rounded(use.input, value, option) for value in self._values[use.input]]
        if layer.name not in self.chosen and self._is_chosen_anew(layer, option):
            tensors = self._choose(layer, option, inputs)
            if tensors is not None:
                self.chosen[layer.name] = tensors
        weight = self._weight(layer, option)
        others = {s: self._values[s] for s in node.inputs if s is not use.input and s is not layer.weight}
        return [
            evaluate_node(node, {use.input: x, layer.weight: weight, **{s: v[k] for s, v in others.items()}}, {})
            for k, x in enumerate(inputs)
        ]

    def _is_chosen_anew(self, layer: Layer, option: Option) -> bool:
        return (
            len(layer.uses) == 1
            and EMBEDDING not in layer.kinds
            and not option.keeps_weight
            and parse_encoder(option.encoder).needs_data
        )

    def _choose(self, layer: Layer, option: Option, inputs: Sequence[Tensor]) -> Stored | None:
        """Codes for these inputs; None where the format refuses what the encoder makes of them."""
        moment, count = torch.zeros(layer.columns, layer.columns), 0
        for value in inputs:
            rows, _ = layer_matrices(layer.uses[0], value, None, layer.rows)
            for columns, _, _ in conv_groups(layer.uses[0], rows, None, layer.rows):
                moment.addmm_(columns.T, columns)
                count += columns.shape[0]
        weights = self._row_weights.get(layer.name, torch.ones(layer.rows))
        try:
            known = WeightStatistics(count, moment / max(count, 1), weights)
            return LayerPricer(layer, known).encode(option.format, option.encoder).tensors
        except FormatError:
            return None

    def _rounded(self, source: Node, value: Tensor, option: Option) -> Tensor:
        kind = option.activation
        if kind.is_dynamic and value.is_floating_point():
            return fake_quantize_dynamic(value, kind.bits, kind.granularity, kind.symmetric)
        if kind.is_static and source in self._static:
            how = self._static[source]
            return fake_quantize_static(value, how.scale, how.zero_point, kind.bits, False)
        return value

    def _weight(self, layer: Layer, option: Option) -> Tensor:
        """What the layer computes with, in the weight's own shape and dtype."""
        if option.keeps_weight:
            return layer.weight.handle.tensor
        stored = self.chosen.get(layer.name, self._plan.encodings[layer.name])
        encoded = Encoded(option.format, layer.stored_shape, stored)
        rows = option.arithmetic is Arithmetic.INT8_ROWS
        matrix = as_int8(encoded) if rows else parse_format(option.format).decode(encoded)
        return layer.as_weight(matrix.reshape(layer.rows, -1)).contiguous()
