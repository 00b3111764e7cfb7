"""Puts a plan into a graph: every use of a weight becomes what the layer's format computes, on rounded activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..ir.constants import ConstantHandle
from ..ir.errors import PassError
from ..ir.graph import Graph, Node
from ..ir.layers import EMBEDDING, Layer, as_rounded, find_layers, whole_weights
from ..ir.layers import Use as NodeUse
from ..ir.ops import Building, Ops
from ..ir.options import Arithmetic, Option
from ..ir.plan import Decision, StaticQuantization
from ..ir.text import node_names
from .base import PassResult
from .formats import ForKernel, IntegerRows, Use
from .formats import format as parse_format
from .rewrite import settle_names
from .static_values import static_values
from .transforms import CorrectBias


@dataclass(frozen=True)
class ApplyPlan:
    """Replace every decided layer by what the plan says.

    ``linear(x, @w)`` -> ``linear(fake_quantize_dynamic(x), dequantize(@w.codes, @w.scale))``, or what else the format
    says that a layer computes, such as two products. A value that several layers quantize alike is quantized once,
    because equal nodes are one node. Layers that stay in float are left untouched. Where operators take a weight whole
    (``Layer.only_stored``), ``conv_transpose2d(x, @w)`` -> ``conv_transpose2d(x, permute(dequantize(@w.codes, ...)))``.

    With corrected biases also ``linear(x, @w, @b)`` -> ``linear(x, dequantize(...), @b')``, counted as
    ``correct-bias``. Refused, with the reason, for layers that the plan changes and that no correction is given for: no
    bias (none is added), a bias that is computed or that something else reads, a weight that is used twice.

    Lossy: the weights' error is the formats', the activations' error that of 8-bit rounding. Corrected biases take back
    the mean of both, see :mod:`instar.passes.transforms.bias_correction`.

    Attributes:
        decisions: one per layer.
        encodings: layer -> stored tensors.
        static: name of a value in the graph -> its quantization, for statically quantized layers.
        biases: layer -> corrected bias, ``[channels]`` in the dtype of the model's own; empty leaves biases alone.
    """

    name: ClassVar[str] = "apply-plan"
    exact: ClassVar[bool] = False

    decisions: tuple[Decision, ...]
    encodings: Mapping[str, Mapping[str, Tensor]]
    static: Mapping[str, StaticQuantization] = field(default_factory=dict[str, StaticQuantization])
    biases: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __call__(self, graph: Graph) -> PassResult:
        """Apply.

        Raises:
            PassError: the graph has no layer that a decision names, a static value has no parameters, or a corrected
                bias does not fit its layer.
        """
        layers = {layer.name: layer for layer in find_layers(graph, min_elements=0)[0]}
        unknown = [d.layer for d in self.decisions if d.layer not in layers]
        if unknown:
            raise PassError(
                f"apply-plan: expected the layers of the graph ({len(layers)}); found {unknown[0]!r} in the plan; the "
                "plan belongs to another model or was made with other passes"
            )
        changed = {d.layer: d.chosen.option for d in self.decisions if not d.chosen.option.unchanged}
        moved = self._move_biases(graph, [layers[name] for name in changed])
        if not changed:
            return PassResult(graph)
        if moved.graph is not graph:
            layers = {layer.name: layer for layer in find_layers(moved.graph, min_elements=0)[0]}
        chosen = [(layers[name], option) for name, option in changed.items()]
        result = _Application(moved.graph, chosen, self.encodings, self.static).run()
        return PassResult(result.graph, moved.fired + result.fired, moved.refused)

    def _move_biases(self, graph: Graph, changed: Sequence[Layer]) -> PassResult:
        missing = set(self.biases) - {layer.name for layer in changed}
        if missing:
            raise PassError(
                f"apply-plan: expected corrected biases of layers that the plan changes; found one of {min(missing)}"
            )
        return CorrectBias().apply(graph, changed, self.biases) if self.biases else PassResult(graph)


class _Application:
    def __init__(
        self,
        graph: Graph,
        changed: list[tuple[Layer, Option]],
        encodings: Mapping[str, Mapping[str, Tensor]],
        static: Mapping[str, StaticQuantization],
    ) -> None:
        self.graph = graph
        self.context = graph.context
        self.encodings = encodings
        self.stored: dict[str, dict[str, Node]] = {}
        self.fired: Counter[str] = Counter(option.format for _, option in changed)
        self.uses = {u.node: (layer, u, o) for layer, o in changed for u in layer.uses if not layer.only_stored}
        self.whole = {layer.weight: (layer, option) for layer, option in changed if layer.only_stored}
        self.static = self._static([layer for layer, o in changed if o.activation.is_static], static)

    def _static(self, layers: list[Layer], given: Mapping[str, StaticQuantization]) -> dict[Node, StaticQuantization]:
        names = node_names(self.graph)
        found: dict[Node, StaticQuantization] = {}
        for value in static_values(self.graph, layers) if layers else ():
            if names[value] not in given:
                raise PassError(
                    f"apply-plan: expected static quantization of {names[value]} ({value.origin}); found none"
                )
            found[value] = given[names[value]]
        return found

    def run(self) -> PassResult:
        done: dict[Node, Node] = {}
        for node in self.graph.nodes():
            with self.context.origin(node.origin):
                done[node] = self._replace(node, done)
        outputs = tuple(done[o] if isinstance(o, Node) else o for o in self.graph.outputs)
        return PassResult(settle_names(self.graph.with_outputs(outputs)), self.fired)

    def _replace(self, node: Node, done: dict[Node, Node]) -> Node:
        if node in self.uses:
            rebuilt = self._use(*self.uses[node], done)
        elif node in self.whole:
            rebuilt = self._weight(*self.whole[node])
        else:
            rebuilt = self.context.rebuild(node, {source: done[source] for source in node.inputs})
            rebuilt = self._rounded(node, rebuilt)
        if node not in self.static:
            return rebuilt
        self.fired["quantize-static"] += 1
        how = self.static[node]
        return self.context.node("instar.fake_quantize_static", rebuilt, how.scale, how.zero_point, 8, False)

    def _use(self, layer: Layer, use: NodeUse, option: Option, done: dict[Node, Node]) -> Node:
        """The node that computes a use under its option."""
        if option.activation.is_dynamic and use.kind != EMBEDDING:
            self.fired["quantize-dynamic"] += 1
        given = (use.weight_parameter, use.input_parameter)
        others = {n: done[v] if isinstance(v, Node) else v for n, v in use.node.arguments if n not in given}
        spec, x = Use.of(use, layer.stored_shape, option.activation, others), done[use.input]
        ops: Ops[Node] = Building(self.context)
        if option.keeps_weight:
            return spec.plain(ops, x, layer.weight)
        return parse_format(option.format).apply(_for_kernel(ops, option), x, self._stored(layer, option), spec)

    def _weight(self, layer: Layer, option: Option) -> Node:
        """The weight itself, as the operators that read it want it."""
        if option.keeps_weight:
            return layer.weight
        ops = _for_kernel(Building(self.context), option)
        value = parse_format(option.format).weight(ops, self._stored(layer, option), layer.stored_shape)
        view = layer.view
        if view.stored != view.permuted:
            value = ops("aten.reshape", value, view.permuted)
        if view.inverse != tuple(range(len(view.inverse))):
            value = ops("aten.permute", value, view.inverse)
        if view.split != view.shape:
            value = ops("aten.reshape", value, view.shape)
        dtype = layer.weight.tensor_type.dtype
        return value if ops.dtype(value) == dtype else ops("aten._to_copy", value, dtype=dtype)

    def _rounded(self, node: Node, rebuilt: Node) -> Node:
        """An operator that takes weights whole, rounding what it multiplies where the plan says so of all of them."""
        given = [(source, self.whole.get(source)) for source, _ in whole_weights(node)]
        kernels = [known[1].rounds_under if known is not None else "" for _, known in given]
        if not any(kernels):
            return rebuilt
        if len(set(kernels)) > 1:
            chosen = max(kernels)
            names = [source.handle.name for (source, _), own in zip(given, kernels, strict=True) if own != chosen]
            raise PassError(
                f"apply-plan: expected one kernel for all matrices of {node.op.short_name} ({node.origin}); found "
                f"{names[0]} planned for another; they are multiplied by one operator"
            )
        self.fired["quantize-dynamic"] += 1
        return as_rounded(rebuilt, self.context)

    def _stored(self, layer: Layer, option: Option) -> dict[str, Node]:
        if layer.name not in self.encodings:
            raise PassError(f"apply-plan: expected the encoded weight of {layer.name} ({option.format}); found none")
        if layer.name not in self.stored:
            tensors = self.encodings[layer.name]
            self.stored[layer.name] = {name: self._constant(layer, name, t) for name, t in tensors.items()}
        return self.stored[layer.name]

    def _constant(self, layer: Layer, name: str, tensor: Tensor) -> Node:
        kind = "buffer" if tensor.dtype == torch.uint8 else "parameter"
        return self.context.constant_of(ConstantHandle.of(f"{layer.weight.handle.name}.{name}", tensor, kind))


def _for_kernel(ops: Ops[Node], option: Option) -> Ops[Node]:
    """Ops that decode a weight as the option's kernel multiplies it."""
    if option.arithmetic is not Arithmetic.FLOAT:
        ops = ForKernel(ops, option.kernel)
    return IntegerRows(ops) if option.arithmetic is Arithmetic.INT8_ROWS else ops
