"""Loss measured by running the model with one layer replaced (the ``measured`` sensitivity), or with a whole plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from ..ir.dialect import fake_quantize_dynamic
from ..ir.errors import FormatError
from ..ir.evaluate import evaluate, evaluate_node
from ..ir.graph import Graph, Node
from ..ir.layers import Layer, as_rounded, share_of
from ..ir.options import KEPT, Arithmetic, Option
from ..ir.resume import KEPT_NBYTES, Hook, Resumed
from ..passes.encoders import encoder as parse_encoder
from ..passes.formats import format as parse_format
from ..passes.pricing import LayerPricer, as_int8
from ..passes.transforms.bias_correction import bias_of


class MeasuredLoss:
    """Relative squared output error on sample inputs, with reference outputs computed once.

    A run with few weights replaced begins at the first of them (:mod:`instar.ir.resume`).

    Args:
        graph: in float.
        samples: flat inputs.
        mean_inputs: layer -> ``[rows, columns]`` where a plan will correct the layer's bias; a bias then takes back the
            mean of the error of a replaced weight.
    """

    def __init__(
        self,
        graph: Graph,
        samples: Sequence[Sequence[Tensor]],
        mean_inputs: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.graph = graph
        self.samples = samples
        self.mean_inputs = mean_inputs
        with torch.no_grad():
            self.references = [evaluate(graph, inputs) for inputs in samples]
        self._runs = [Resumed(graph, inputs, KEPT_NBYTES // max(1, len(samples))) for inputs in samples]

    def __call__(self, layer: Layer, options: Sequence[Option]) -> Mapping[str, float]:
        """Option name -> loss with only this layer replaced. Activation quantization is part of the run."""
        pricer = LayerPricer(layer, None)
        losses: dict[str, float] = {}
        for option in options:
            try:
                matrix = self._matrix(pricer, layer, option)
            except FormatError:
                continue
            losses[option.name] = self._loss(layer, matrix, option)
            if layer.only_stored and option.activation.is_dynamic:
                losses[option.name] += self._of_rounding(layer)
        return losses

    def _of_rounding(self, layer: Layer) -> float:
        """The layer's share of what operators lose that take it whole and round what they multiply it with."""
        total = 0.0
        for use in layer.uses:
            rounded = as_rounded(use.node, self.graph.context)
            hook = partial(_instead, use.node, rounded)
            total += share_of(layer, use) * self._mean({use.node}, hook)
        return total

    def _matrix(self, pricer: LayerPricer, layer: Layer, option: Option) -> Tensor:
        encoder = "mse" if parse_encoder(option.encoder).needs_data else option.encoder
        encoded = pricer.encode(option.format, encoder)
        integers = option.arithmetic is Arithmetic.INT8_ROWS
        decoded = (as_int8(encoded) if integers else parse_format(option.format).decode(encoded)).reshape(
            layer.rows, -1
        )
        return decoded.float()

    def _loss(self, layer: Layer, matrix: Tensor, option: Option) -> float:
        nodes = {use.node for use in layer.uses}
        replaced = self._replaced(layer, matrix)

        def hook(node: Node, value: object, values: Mapping[Node, object]) -> object:
            if node in replaced:
                return replaced[node]
            if node in nodes and option.activation.is_dynamic and not layer.only_stored:
                return _with_quantized_input(node, layer, values, option)
            return value

        return self._mean({*replaced, *nodes}, hook)

    def _mean(self, changed: Collection[Node], hook: Hook) -> float:
        total = 0.0
        with torch.no_grad():
            for run, reference in zip(self._runs, self.references, strict=True):
                total += squared_error(run(changed, hook), reference)
        return total / len(self.samples)

    def _replaced(self, layer: Layer, matrix: Tensor) -> dict[Node, Tensor]:
        """The constants that stand for the layer with another weight ``[rows, columns]``."""
        found = {layer.weight: layer.as_weight(matrix)}
        bias, mean = bias_of(layer, self.graph), self.mean_inputs.get(layer.name)
        if mean is not None and isinstance(bias, Node):
            shift = ((matrix - layer.matrix()) * mean).sum(dim=1)
            found[bias] = (bias.handle.tensor - shift).to(bias.tensor_type.dtype)
        return found

    def of_weight(self, layer: Layer, matrix: Tensor) -> float:
        """Loss with the weight of one layer replaced by another ``[rows, columns]``."""
        return self._loss(layer, matrix, KEPT)

    def of_weights(self, matrices: Sequence[tuple[Layer, Tensor]]) -> float:
        """Loss with the weights of several layers replaced by others ``[rows, columns]`` at once."""
        replaced: dict[Node, Tensor] = {}
        for layer, matrix in matrices:
            replaced |= self._replaced(layer, matrix)
        return self._mean(replaced, lambda node, value, _: replaced.get(node, value))

    def of_graph(self, graph: Graph) -> float:
        """Loss of a whole compiled graph."""
        total = 0.0
        with torch.no_grad():
            for inputs, reference in zip(self.samples, self.references, strict=True):
                total += squared_error(evaluate(graph, inputs), reference)
        return total / len(self.samples)


def _instead(of: Node, other: Node, node: Node, value: object, values: Mapping[Node, object]) -> object:
    """The value of another operator on the same inputs, which has no sizes among its arguments."""
    return evaluate_node(other, {source: values[source] for source in node.inputs}, {}) if node is of else value


def _with_quantized_input(node: Node, layer: Layer, values: Mapping[Node, object], option: Option) -> object:
    use = next(u for u in layer.uses if u.node is node)
    dynamic = option.activation
    source = values[use.input]
    if not isinstance(source, Tensor):
        raise TypeError(f"layer {layer.name}: expected a tensor input; found {type(source).__name__}")
    quantized = fake_quantize_dynamic(source, dynamic.bits, dynamic.granularity, dynamic.symmetric)
    return evaluate_node(node, {**{i: values[i] for i in node.inputs}, use.input: quantized}, {})


def squared_error(outputs: Sequence[object], reference: Sequence[object]) -> float:
    """The mean over floating outputs of ``||out_k - ref_k||^2 / ||ref_k||^2``, which is what calibration predicts."""
    return float(relative_loss(outputs, reference).detach())


def relative_loss(outputs: Sequence[object], reference: Sequence[object]) -> Tensor:
    """:func:`squared_error` as ``f64[]``, to be differentiated; what is not finite in the reference is left out."""
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for a, b in zip(outputs, reference, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and b.is_floating_point():
            count += 1
            finite = torch.isfinite(b)
            difference = torch.where(finite, a.double() - b.double(), 0.0).square().sum()
            total = total + difference / torch.where(finite, b.double(), 0.0).square().sum().clamp(min=1e-30)
    return total / max(count, 1)
