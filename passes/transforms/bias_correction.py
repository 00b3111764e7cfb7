"""Bias correction: what a plan adds to the mean of a layer's output is taken back by the layer's bias.

Method: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, arXiv
1906.04721), the empirical variant of section 4.2 and its appendix; also Finkelstein et al. (arXiv 1906.03193) and
NNCF's ``BiasCorrection``. It is the sequential variant: layers are visited in topological order, each behind a prefix
that is already quantized and corrected, ``b' = b + E[y_float] - E[y_quantized]`` per output channel. So it takes back
the shift of the layer's own weight, that of quantized activations, and what is left of the shift of earlier layers.

One thing differs: published means run over all positions, these run over the positions that count, where the derivative
of the float network's output is not zero. Behind a ReLU half of the positions are cut off; there an error is free,
encoders that weigh errors by their effect leave large ones, and a correction that follows them moves the positions that
are not cut off. Padding does not count for the same reason. Without gradients all positions count, as published.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...ir.calibration.projection import random_projection
from ...ir.constants import ConstantHandle
from ...ir.errors import PassError
from ...ir.evaluate import evaluate, evaluate_together, run
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, EMBEDDING, MATMUL, Layer, Use
from ..base import PassResult, Refusal
from ..rewrite import settle_names, substitute

_ADD = "aten.add.Tensor"

MASKS_NBYTES = 64 * 10**6
"""Bytes of masks of counted positions that may be kept; samples beyond the first are left out where it takes more."""


@dataclass(frozen=True)
class ChannelSums:
    """Sums over counted positions per output channel: ``[channels]`` float64 each."""

    total: Tensor
    square: Tensor
    count: Tensor

    def __add__(self, other: ChannelSums) -> ChannelSums:
        """The sums over both."""
        return ChannelSums(self.total + other.total, self.square + other.square, self.count + other.count)

    @property
    def mean(self) -> Tensor:
        """Mean per channel, 0 where nothing counts."""
        return self.total / self.count.clamp(min=1.0)


@dataclass(frozen=True)
class FloatOutput:
    """The output of one layer in the float network.

    Attributes:
        sums: over the counted positions of all samples.
        counted: per sample a bool tensor that broadcasts over the output with channels first, ``[channels or 1,
            positions]``; None where every position counts.
    """

    sums: ChannelSums
    counted: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class FloatOutputs:
    """What corrections aim at: samples and, for each of them, the outputs of the layers whose bias can be moved."""

    samples: tuple[Sequence[Tensor], ...]
    layers: Mapping[str, FloatOutput]


@dataclass(frozen=True)
class CorrectedBias:
    """A bias that was moved.

    Attributes:
        bias: ``[channels]``, in the dtype of the model's own bias.
        shift: size of the move relative to the output, ``||E[y_float] - E[y_quantized]|| / sqrt(sum_c E[y_c^2])``.
    """

    bias: Tensor
    shift: float


def bias_of(layer: Layer, graph: Graph) -> Node | str:
    """The constant that the correction of a layer may move, or the reason why there is none.

    No parameter is added: a layer without a bias stays as it is. So does one whose bias something else reads.
    """
    if layer.only_stored or layer.kinds & {EMBEDDING, MATMUL}:
        return f"a layer of kind {layer.kind} has no bias"
    if len(layer.uses) != 1:
        return f"its weight has {len(layer.uses)} uses, each with a mean of its own"
    bias = layer.uses[0].node.argument("bias")
    if bias is None:
        return "it has no bias"
    if not bias.is_constant:
        return "its bias is computed, not a constant"
    if len(graph.users()[bias]) > 1 or bias in graph.output_nodes:
        return "another operation reads its bias too"
    return bias


@dataclass(frozen=True)
class Corrupted:
    """What is fitted to: the graph with a plan in it and the biases as they were, and the float network's outputs."""

    after: Graph
    reference: FloatOutputs


@dataclass(frozen=True)
class CorrectBias:
    """``linear(x, w, @b)`` -> ``linear(x, w, @b')``: a transform that runs after encoding, see the module.

    Refuses: layers without a bias (none is added), a bias that is computed or that something else reads, a weight that
    is used twice.
    """

    name: ClassVar[str] = "correct-bias"
    exact: ClassVar[bool] = False

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, Node], Mapping[str, str]]:
        """Layer -> its bias, and layer -> the reason why it has none that can be moved."""
        found = {layer.name: bias_of(layer, graph) for layer in layers}
        return (
            {name: bias for name, bias in found.items() if isinstance(bias, Node)},
            {name: bias for name, bias in found.items() if isinstance(bias, str)},
        )

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Corrupted) -> Mapping[str, CorrectedBias]:
        """See :func:`corrected_biases`."""
        return corrected_biases(graph, evidence.after, layers, evidence.reference)

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """Put biases ``[channels]``, each in the dtype of the model's own, in place of the old ones.

        Raises:
            PassError: a layer has no bias that can be moved, or one of another type.
        """
        sites, reasons = self.sites(graph, layers)
        replaced: dict[Node, Node] = {}
        for name, given in fitted.items():
            if name not in sites:
                reason = reasons.get(name, "the layer is left as it is")
                raise PassError(f"{self.name}: expected a bias of {name} that can be corrected; found that {reason}")
            old = _fitting(name, sites[name], given).handle
            replaced[sites[name]] = graph.context.constant_of(ConstantHandle.of(old.name, given, old.kind))
        refused = tuple(
            Refusal(self.name, layer.name, layer.uses[0].node.origin, reasons.get(layer.name, _NOTHING_FOUND))
            for layer in layers
            if layer.name not in fitted
        )
        moved = settle_names(substitute(graph, replaced)) if replaced else graph
        return PassResult(moved, Counter({self.name: len(replaced)}), refused)


_NOTHING_FOUND = "no correction was found for it"


def _fitting(layer: str, bias: Node, given: Tensor) -> Node:
    kind = bias.tensor_type
    if (given.dtype, tuple(given.shape)) != (kind.dtype, kind.shape):
        raise PassError(
            f"correct-bias: expected a corrected bias of {layer} of type {kind}; found {given.dtype} "
            f"{list(given.shape)}"
        )
    return bias


def float_outputs(
    graph: Graph, layers: Sequence[Layer], samples: Sequence[Sequence[Tensor]], *, gradients: bool, seed: int = 0
) -> FloatOutputs:
    """Run the float network and keep the sums per channel and the positions that count, never the outputs themselves.

    Args:
        graph: before the plan.
        layers: its layers; those whose bias cannot be moved are left out, with gradients also those that no floating
            output depends on.
        samples: flat inputs.
        gradients: whether only positions count that the output depends on; else all do.
        seed: of the random projection of the outputs whose derivative is taken.
    """
    uses = {layer.uses[0].node: layer for layer in layers if isinstance(bias_of(layer, graph), Node)}
    found: dict[str, list[tuple[ChannelSums, Tensor | None]]] = {layer.name: [] for layer in uses.values()}
    used: list[Sequence[Tensor]] = []
    kept = 0
    for number, inputs in enumerate(samples if uses else ()):
        if number and kept + kept / number > MASKS_NBYTES:
            break
        observe = _observe_gradients if gradients else _observe_values
        for node, entry in observe(graph, inputs, uses, seed + number).items():
            found[uses[node].name].append(entry)
            kept += 0 if entry[1] is None else entry[1].nbytes
        used.append(inputs)
    outputs = {name: _output(entries) for name, entries in found.items() if entries}
    return FloatOutputs(tuple(used), outputs)


def corrected_biases(
    before: Graph, after: Graph, layers: Sequence[Layer], reference: FloatOutputs
) -> dict[str, CorrectedBias]:
    """Layer -> its corrected bias.

    The graph with the plan is evaluated once, node by node for all samples at a time; a correction is in place before
    anything behind its layer is computed. A layer whose outputs are not finite is left out.

    Args:
        before: the float graph.
        after: the same graph with a plan in it and the biases as they were.
        layers: those to correct, layers of ``before``; those that :func:`bias_of` refuses are left out.
        reference: of :func:`float_outputs`.
    """
    sites = _sites(before, after, [layer for layer in layers if layer.name in reference.layers])
    found: dict[str, CorrectedBias] = {}

    def correct(node: Node, values: list[Any]) -> list[Any]:
        if node not in sites:
            return values
        layer, bias = sites[node]
        aim = reference.layers[layer.name]
        corrected = _corrected(layer.uses[0], bias.handle.tensor, aim, values)
        if corrected is None:
            return values
        found[layer.name] = corrected
        moved = corrected.bias.double() - bias.handle.tensor.double()
        return [_moved(layer.uses[0], value, moved) for value in values]

    with torch.no_grad():
        evaluate_together(after, reference.samples, correct)
    return found


def _sites(before: Graph, after: Graph, layers: Sequence[Layer]) -> dict[Node, tuple[Layer, Node]]:
    """Nodes of the graph with the plan that compute a layer: those that read its bias, which the plan left alone.

    A sum of formats adds what its other parts compute to that.
    """
    biases = {layer.name: bias_of(layer, before) for layer in layers}
    users = after.users()
    found: dict[Node, tuple[Layer, Node]] = {}
    for layer in layers:
        bias, place = biases[layer.name], layer.uses[0].node.origin
        if isinstance(bias, Node):
            node = users[bias][0]
            while len(users[node]) == 1 and users[node][0].op.name == _ADD and users[node][0].origin == place:
                node = users[node][0]
            found[node] = layer, bias
    return found


def _corrected(use: Use, bias: Tensor, aim: FloatOutput, values: Sequence[Tensor]) -> CorrectedBias | None:
    parts = [_sums(use, value, counted) for value, counted in zip(values, aim.counted, strict=True)]
    shift = aim.sums.mean - _total(parts).mean
    if not bool(torch.isfinite(shift).all()):
        return None
    energy = float((aim.sums.square / aim.sums.count.clamp(min=1.0)).sum())
    size = (float(shift.square().sum()) / max(energy, 1e-300)) ** 0.5
    return CorrectedBias((bias.double() + shift).to(bias.dtype), size)


def _moved(use: Use, value: Tensor, shift: Tensor) -> Tensor:
    shape = [1] * value.dim()
    shape[_channel_axis(use, value)] = -1
    return value + shift.reshape(shape).to(value.dtype)


# ------------------------------------------------------------------------------------------------ float network
def _observe_values(
    graph: Graph, inputs: Sequence[Tensor], uses: Mapping[Node, Layer], seed: int
) -> dict[Node, tuple[ChannelSums, Tensor | None]]:
    del seed
    found: dict[Node, tuple[ChannelSums, Tensor | None]] = {}

    def observe(node: Node, value: Any) -> None:
        if node in uses:
            found[node] = _sums(uses[node].uses[0], value, None), None

    with torch.no_grad():
        evaluate(graph, inputs, observe)
    return found


def _observe_gradients(
    graph: Graph, inputs: Sequence[Tensor], uses: Mapping[Node, Layer], seed: int
) -> dict[Node, tuple[ChannelSums, Tensor | None]]:
    """Sums are taken when a gradient arrives, so that no two gradients are kept; a layer that gets none is left out."""
    found: dict[Node, tuple[ChannelSums, Tensor | None]] = {}

    def arrived(node: Node, value: Tensor, gradient: Tensor) -> None:
        use = uses[node].uses[0]
        counted = _compact(_channels_first(use, gradient) != 0)
        found[node] = _sums(use, value, counted), counted

    def retain(node: Node, value: Any, values: Mapping[Node, Any]) -> Any:
        del values
        if node not in uses:
            return value
        tensor = cast(Tensor, value)
        tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_(True)
        tensor.register_hook(functools.partial(arrived, node, tensor.detach()))
        return tensor

    with torch.enable_grad():
        outputs = run(graph, inputs, retain)
        if not any(isinstance(o, Tensor) and o.is_floating_point() and o.requires_grad for o in outputs):
            return {}
        scalar, _ = random_projection(outputs, seed)
        del outputs
        scalar.backward()
    return found


def _compact(counted: Tensor) -> Tensor | None:
    """None where everything counts; one row where all channels agree, as they do for padding."""
    if bool(counted.all()):
        return None
    return counted[:1].clone() if bool((counted == counted[:1]).all()) else counted


def _output(entries: Sequence[tuple[ChannelSums, Tensor | None]]) -> FloatOutput:
    return FloatOutput(_total([sums for sums, _ in entries]), tuple(counted for _, counted in entries))


# ------------------------------------------------------------------------------------------------ channels
def _channel_axis(use: Use, value: Tensor) -> int:
    """Linear: the last axis; convolution: the one before the spatial axes, whether or not there is a batch."""
    weight: Node = use.node.argument(use.weight_parameter)
    return value.dim() - (weight.tensor_type.rank - 1 if use.kind == CONV else 1)


def _channels_first(use: Use, value: Tensor) -> Tensor:
    """``[channels, positions]``."""
    return value.movedim(_channel_axis(use, value), 0).flatten(1) if value.dim() > 1 else value.reshape(-1, 1)


def _sums(use: Use, value: Tensor, counted: Tensor | None) -> ChannelSums:
    rows = _channels_first(use, value).double()
    if counted is None:
        count = torch.full((rows.shape[0],), float(rows.shape[1]), dtype=torch.float64)
        return ChannelSums(rows.sum(1), rows.square().sum(1), count)
    rows = torch.where(counted, rows, 0.0)
    return ChannelSums(rows.sum(1), rows.square().sum(1), counted.sum(1).double().expand(rows.shape[0]))


def _total(parts: Sequence[ChannelSums]) -> ChannelSums:
    return functools.reduce(operator.add, parts)
