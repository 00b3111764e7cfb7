"""Calibration: one streaming pass over data that keeps a few moments per layer, never the activations themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from ..dialect import fake_quantize_dynamic
from ..errors import CalibrationError
from ..evaluate import evaluate, run
from ..graph import Graph, Node
from ..layers import CONV, EMBEDDING, Layer, Use
from ..memory import trim_memory
from ..options import Activation
from ..statistics import RangeObserver
from ..threads import Beside, side_by_side
from .beyond import BeyondGradients, is_differentiable
from .learned import CalibrationSettings, LayerStatistics, Statistics
from .matrices import accumulate_lookups, conv_groups, input_sensitivity, layer_matrices
from .moments import LayerMoments, Samples
from .projection import random_projection
from .rounded_states import RoundedStates
from .samples import batch_size, every_second, separable
from .shrinkage import AS_SEEN
from .whole_weights import WholeWeights


class Calibrator:
    """Accumulates statistics batch by batch. ``state`` and ``restore`` allow a run to be resumed.

    Args:
        graph: after the exact passes.
        layers: whose statistics to gather.
        settings: what to gather.
        observed: values whose range is needed.
        beside: adds up the moments of a layer while the gradient of the next is computed; all at once without.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        settings: CalibrationSettings,
        observed: Sequence[Node] = (),
        beside: Beside | None = None,
    ) -> None:
        self.graph = graph
        self.layers = tuple(layers)
        self.settings = settings
        self.batches = self.samples = 0
        self.output_energy = 0.0
        self.beyond = BeyondGradients(graph)
        self.moments = {layer.name: _moments(layer, settings) for layer in layers}
        self.observers: dict[Node, RangeObserver] = {node: RangeObserver() for node in observed}
        self.reactions: dict[Node, float] = {}
        self._beside = Beside(alone=True) if beside is None else beside
        self._noise_of: Node | None = None
        self._noise_cache: dict[Activation, Tensor] = {}
        self._size = 1
        self._axes: dict[Node, frozenset[int]] | None = None
        self._by_node: dict[Node, list[tuple[Layer, Use]]] = {}
        self._whole = WholeWeights(layers, self.moments)
        self._rounded = RoundedStates(graph, layers, self.moments, settings.activations)
        for layer in layers:
            for use in layer.uses if not layer.only_stored else ():
                self._by_node.setdefault(use.node, []).append((layer, use))

    def add(self, inputs: Sequence[Tensor]) -> None:
        """Take one batch of flat graph inputs into account.

        Raises:
            CalibrationError: an input or a layer's activation is NaN or infinite; names the batch and the layer.
        """
        self._check_inputs(inputs)
        inputs = [value.clone() if value.is_inference() else value for value in inputs]  # the others have derivatives
        if self.settings.gradients:
            self._add_with_gradients(inputs)
        else:
            self._add_forward(inputs)
        self._beside.finish()
        self._noise_of, self._noise_cache = None, {}
        trim_memory()
        self.batches += 1
        self.samples += self._size

    def statistics(self) -> Statistics:
        """What was learned.

        Raises:
            CalibrationError: no batch was given, or a layer never ran.
        """
        if self.batches == 0:
            raise CalibrationError(
                "calibration: expected at least one batch; found none; pass an iterable of inputs (an iterator that "
                "was already consumed is empty)"
            )
        found = side_by_side(self._layer_statistics, self.layers, lambda layer: layer.columns)
        layers = dict(zip((layer.name for layer in self.layers), found, strict=True))
        ranges = {node: observer.statistics() for node, observer in self.observers.items()}
        scale = 1.0 / max(self.output_energy, 1e-30)
        reactions = {node: energy * scale for node, energy in self.reactions.items()}
        return Statistics(layers, ranges, self.batches, self._has_gradients(), self._notes(), self.samples, reactions)

    def _has_gradients(self) -> bool:
        """Whether the losses of some layer come from gradients."""
        reached = any(layer.name not in self.beyond.layers for layer in self.layers)
        return self.settings.gradients and (reached or not self.layers)

    def _notes(self) -> tuple[str, ...]:
        behind = self.beyond.notes(self._whole.names) if self.settings.gradients else ()
        return (*behind, *self._whole.notes())

    def _energy(self, layer: Layer) -> float | None:
        """The number of projected outputs; None where the layer's own outputs are its measure."""
        return self.output_energy if self.settings.gradients and layer.name not in self.beyond.layers else None

    def _add_forward(self, inputs: Sequence[Tensor]) -> None:
        with torch.no_grad():
            outputs = run(self.graph, inputs, self._forward)
        self._size = batch_size(inputs, outputs)
        self._whole.add_plain()
        self._rounded.add(inputs, outputs, {layer.name for layer in self.layers})

    def _forward(self, node: Node, value: Any, values: Mapping[Node, Any]) -> Any:
        self._observe(node, value)
        for layer, use in self._by_node.get(node, ()):
            source = cast(Tensor, values[use.input])
            self._finite(value, layer)
            self._accumulate(layer, use, source, cast(Tensor, value), None)
        return value

    def _add_with_gradients(self, inputs: Sequence[Tensor]) -> None:
        """Each layer's moments are taken when its gradient arrives, so that no two gradients are kept at a time.

        Layers that no gradient reaches, whatever the data, are measured by their own outputs.
        """
        waiting: dict[Node, tuple[Tensor, Tensor]] = {}
        trial: list[Tensor | None] = []

        def arrived(node: Node, gradient: Tensor) -> None:
            if trial:  # no gradient of the projection that counts
                if trial[0] is not None:
                    self._try_axes(node, gradient, trial[0])
                return
            source, _ = waiting.pop(node)
            for layer, use in self._by_node[node]:
                self._accumulate(layer, use, source, gradient, gradient)

        def retain(node: Node, value: Any, values: Mapping[Node, Any]) -> Any:
            self._observe(node, value)
            value = self._whole.leaf(node, self.beyond.passed(node, value, values))
            entries = self._by_node.get(node, ())
            if not entries:
                self._feel(node, value, trial)
                return value
            tensor = cast(Tensor, value)
            self._finite(tensor, entries[0][0])
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_(True)
            waiting[node] = cast(Tensor, values[entries[0][1].input]).detach(), tensor.detach()
            tensor.register_hook(partial(arrived, node))
            self._feel(node, tensor, trial)
            return tensor

        self.beyond.begin(inputs)
        with torch.enable_grad():
            outputs = run(self.graph, inputs, retain)
            self._refuse_nan(inputs, outputs)
            self.beyond.decide(self.layers)
            self._drop_outputs(waiting)
            if any(is_differentiable(value) for value in outputs):
                self._size = batch_size(inputs, outputs)
                seed = self.settings.seed * 1_000_003 + self.batches
                self._try_samples(outputs, seed, trial)
                trial[:] = [None]
                self._whole.add(outputs, self._size, self.samples, seed, self.beyond.layers)
                trial.clear()
                self._rounded.add(inputs, outputs, self.beyond.layers)
                scalar, energy = random_projection(outputs, seed)
                del outputs
                trim_memory()  # what the way forward freed: on the way back each layer needs memory of its own
                scalar.backward()
                self.output_energy += energy
            else:
                self._whole.add_plain()
                self._rounded.add(inputs, outputs, self.beyond.layers)
        for node, (source, value) in list(waiting.items()):
            for layer, use in self._by_node[node]:
                gradient = None if layer.name in self.beyond.layers else torch.zeros_like(value)
                self._accumulate(layer, use, source, value, gradient)

    def _drop_outputs(self, waiting: dict[Node, tuple[Tensor, Tensor]]) -> None:
        """Of layers that a gradient may reach nothing but the sizes of their outputs is read from here on."""
        for node, (source, value) in waiting.items():
            if all(layer.name not in self.beyond.layers for layer, _ in self._by_node[node]):
                waiting[node] = source, value.new_zeros(()).expand(value.shape)

    def _feel(self, node: Node, value: Any, trial: Sequence[Tensor | None]) -> None:
        """Adds up the squared gradient of an observed value, unless a projection is on trial."""
        if node not in self.observers or not (isinstance(value, Tensor) and value.requires_grad):
            return

        def felt(gradient: Tensor) -> None:
            if not trial:
                self.reactions[node] = self.reactions.get(node, 0.0) + float(torch.linalg.vector_norm(gradient)) ** 2

        value.register_hook(felt)

    def _try_samples(self, outputs: Sequence[Any], seed: int, trial: list[Tensor | None]) -> None:
        """Which axes tell samples apart, found on the first batch that has several; ``trial`` says whose turn it is."""
        if self._size == 1 or self._axes is not None:
            return
        self._axes = {}
        for first in (0, 1):
            chosen = every_second(self._size, first)
            trial[:] = [chosen]
            random_projection(outputs, seed, chosen)[0].backward(retain_graph=True)

    def _try_axes(self, node: Node, gradient: Tensor, chosen: Tensor) -> None:
        axes, found = self._axes or {}, separable(gradient, chosen)
        self._axes = {**axes, node: axes.get(node, found) & found}

    def _samples(self, use: Use, source: Tensor, value: Tensor, gradient: Tensor | None) -> tuple[int, Samples]:
        """The axis of a layer's input and output that tells samples apart, and the samples along it."""
        first = self.samples
        if use.kind == CONV and source.dim() < use.node.argument("weight").tensor_type.rank:
            return 0, Samples(1, self.batches)
        if gradient is None:  # samples are told apart by their place alone
            return 0, Samples(source.shape[0] if source.dim() > 1 else 1, first)
        for axis in sorted((self._axes or {}).get(use.node, ())):
            size = value.shape[axis]
            if size == self._size or (axis == 0 and size % self._size == 0):
                return axis, Samples(self._size, first)
        return 0, Samples(1, self.batches)

    def _accumulate(self, layer: Layer, use: Use, source: Tensor, value: Tensor, gradient: Tensor | None) -> None:
        """In a thread of its own perhaps, where gradients would be recorded."""
        add = torch.no_grad()(self._add_moments)
        self._beside(partial(add, layer, use, source.detach(), value.detach(), gradient))

    def _add_moments(self, layer: Layer, use: Use, source: Tensor, value: Tensor, gradient: Tensor | None) -> None:
        moments = self.moments[layer.name]
        axis, samples = self._samples(use, source, value, gradient)
        if use.kind == EMBEDDING:
            accumulate_lookups(moments, source, value, gradient, axis, samples)
            return
        x, g = layer_matrices(use, source.movedim(axis, 0), _first(gradient, axis), layer.rows)
        for columns, channel_gradient, rows in conv_groups(use, x, g, layer.rows):
            if channel_gradient is None:
                energy = float(value.double().square().sum()) / use.groups
                moments.add_inputs(moments.centred_inputs(columns, rows), energy, samples)
            else:
                moments.add_gradient(columns, channel_gradient, rows, samples)
        self._accumulate_noise(layer, use, source, gradient)

    def _accumulate_noise(self, layer: Layer, use: Use, source: Tensor, gradient: Tensor | None) -> None:
        """The loss of input noise, ``sum_t sum_j (W^T g_t)_j^2 noise_tj^2``: noise is independent between elements."""
        if not (self.settings.activations or self.settings.sensitivity_of_inputs):
            return
        flat = None if gradient is None else layer_matrices(use, source, gradient, layer.rows)[1]
        sensitivity = input_sensitivity(layer, use, source, flat)
        moments = self.moments[layer.name]
        moments.input_gradient += float(sensitivity.sum())
        if use.kind != "conv":
            for activation in self.settings.activations:
                noise = self._noise(use.input, source, activation)
                moments.add_noise(activation.spelling, float((sensitivity * noise).sum()))

    def _noise(self, node: Node, source: Tensor, activation: Activation) -> Tensor:
        """Squared quantization noise of one value, shared by the layers that read it, which come one after another."""
        if self._noise_of is not node:
            self._noise_of, self._noise_cache = node, {}
        if activation not in self._noise_cache:
            values = source.float()
            rounded = fake_quantize_dynamic(values, activation.bits, activation.granularity, activation.symmetric)
            self._noise_cache[activation] = (rounded - values).square()
        return self._noise_cache[activation]

    def _observe(self, node: Node, value: Any) -> None:
        if node in self.observers:
            self.observers[node].update(cast(Tensor, value).detach())

    def _layer_statistics(self, layer: Layer) -> LayerStatistics:
        energy, embedding = self._energy(layer), layer.kinds == {EMBEDDING}
        moments = self.moments[layer.name]
        scale = moments.scale(layer.name, energy)  # refuses what overflowed
        found = moments.shrinkage() if self.settings.shrink else AS_SEEN
        weight = partial(moments.finish, scale, found, gradients=energy is not None, embedding=embedding)
        noise = {name: loss * scale for name, loss in moments.noise.items()}
        return LayerStatistics(weight, noise, moments.input_gradient * scale, moments.mean_input, found)

    def _check_inputs(self, inputs: Sequence[Tensor]) -> None:
        for node, value in zip(self.graph.inputs, inputs, strict=True):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).sum())
                raise CalibrationError(
                    f"calibration batch {self.batches}, input {node!r}: expected finite values; found {bad} NaN or "
                    "infinite; clean the data"
                )

    def _refuse_nan(self, inputs: Sequence[Tensor], outputs: Sequence[Any]) -> None:
        """Infinity is what masks are made of; NaN is no output that anything could be compared with."""
        if not any(_has_nan(value) for value in outputs):
            return
        found: list[Node] = []

        def look(node: Node, value: Any) -> None:
            if not found and _has_nan(value):
                found.append(node)

        with torch.no_grad():
            evaluate(self.graph, inputs, look)
        where = f"{found[0].op.short_name} in {found[0].origin}" if found else "its gradient"
        raise CalibrationError(
            f"calibration batch {self.batches}: expected outputs that are numbers; found NaN, first given by {where}; "
            "remove the batch, or mend the line"
        )

    def _finite(self, value: Tensor, layer: Layer) -> None:
        if not bool(torch.isfinite(value).all()):
            raise CalibrationError(
                f"calibration batch {self.batches}, layer {layer.name}: expected finite outputs; found NaN or "
                "infinity; the model itself overflows on this batch; remove the batch or check the weights"
            )


def _has_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())


def _moments(layer: Layer, settings: CalibrationSettings) -> LayerMoments:
    return LayerMoments(
        layer.rows,
        layer.columns,
        settings.max_columns,
        embedding=layer.kinds == {EMBEDDING},
        centred=layer.name in settings.centred,
    )


def _first(value: Tensor | None, axis: int) -> Tensor | None:
    return None if value is None else value.movedim(axis, 0)
