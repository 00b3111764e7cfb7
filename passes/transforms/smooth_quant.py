"""SmoothQuant: outliers of activations are moved into weights, so that both round to 8 bits with less error.

Method: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (ICML
2023, arXiv 2211.10438): ``s_j = max|x_j|^a / max|w_j|^(1 - a)`` per input channel, the maximum of the weights over
everything that reads the channel, and ``(x / s) (W diag(s))^T`` in place of ``x W^T``.

The published strength ``a = 0.5`` is a setting of the model. Here the strengths ``0, 1/steps, ..., 1`` are tried at
every site on a sample of its inputs, rounded as the layer would round them, against its weights in 8 bits; no scale at
all is among the candidates, so that what is kept is never worse on the sample. ``alpha`` fixes the strength instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.dialect import fake_quantize_dynamic
from ...ir.errors import PassError
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, EMBEDDING, Layer
from ...ir.options import Activation
from ..base import PassResult
from ..formats import format as parse_format
from .awq import LEAST_GAIN
from .base import Found
from .evidence import Evidence
from .scales import ScaleSite, refusals, scale_sites, scaled, site_columns

WEIGHTS = parse_format("int8:channel")
"""What an integer kernel multiplies with."""

LEAST_MAXIMUM = 1e-5
"""Maxima below it count as so large, as published: channels that are never used keep a finite scale."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that reads the channels of a site.

    Attributes:
        matrix: float32 ``[rows, columns]``.
        inputs: float32 ``[vectors, columns]``.
        peak: float32 ``[columns]``, the largest magnitudes of all inputs.
        row_weight: float32 ``[rows]``, what a change of each output channel costs.
        activation: how the input would be rounded.
        columns: the channel of every column.
    """

    matrix: Tensor
    inputs: Tensor
    peak: Tensor
    row_weight: Tensor
    activation: Activation
    columns: Tensor

    def error(self, scale: Tensor) -> float:
        """Mean squared change of the outputs, rows weighed, with inputs and weight rounded behind a scale."""
        factor = site_columns(scale, self.columns)
        weight = WEIGHTS.decode(WEIGHTS.encode(self.matrix * factor))
        change = self._rounded(self.inputs / factor) @ weight.T - self.inputs @ self.matrix.T
        return float(change.square().mean(0).double() @ self.row_weight.double())

    def _rounded(self, inputs: Tensor) -> Tensor:
        kind = self.activation
        return fake_quantize_dynamic(inputs, kind.bits, kind.granularity or "tensor", kind.symmetric)


@dataclass(frozen=True)
class SmoothQuant:
    """``(x / s) (W diag(s))^T`` in place of ``x W^T`` where ``x`` may be rounded to integers, see the module.

    Attributes:
        alpha: strength of the migration; ``None`` searches one for every site.
        steps: strengths that are tried, beside none.
        explicit: where neither a norm nor a layer can take the inverse scale, add a product to the network.

    Raises:
        PassError: ``alpha`` is not between 0 and 1, or ``steps`` not positive.
    """

    name: ClassVar[str] = "smooth-quant"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    alpha: float | None = None
    steps: int = 20
    explicit: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.alpha is not None and not 0.0 <= self.alpha <= 1.0:
            raise PassError(f"smooth-quant: expected alpha between 0 and 1, found {self.alpha}; 0.5 is usual")
        if self.steps < 1:
            raise PassError(f"smooth-quant: expected steps of 1 or more, found {self.steps}; 20 is usual")

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, ScaleSite], Mapping[str, str]]:
        """Where scales may go, and layer -> why its input has none."""
        return scale_sites(graph, layers, explicit=self.explicit)

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Site -> its scale, where one lowers the error of rounded inputs and weights."""
        sites, by_weight = self.sites(graph, layers)[0], {layer.weight: layer for layer in layers}
        found = {name: self._fitted(readers(site, by_weight, evidence), site.free) for name, site in sites.items()}
        return {name: entry for name, entry in found.items() if entry is not None}

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """Fold scales ``[channels]`` in.

        Raises:
            PassError: something was found for what is no site, or does not fit it.
        """
        sites, reasons = self.sites(graph, layers)
        done = scaled(graph, sites, {name: scale.double() for name, scale in fitted.items()}, self.name)
        return PassResult(done.graph, done.fired, refusals(self.name, layers, reasons))

    def _fitted(self, found: Sequence[Reader], free: Tensor) -> Found | None:
        if not found:
            return None
        strengths = [k / self.steps for k in range(self.steps + 1)] if self.alpha is None else [self.alpha]
        before = sum(reader.error(torch.ones(free.numel())) for reader in found)
        tried = [(sum(r.error(smoothing(found, free, a)) for r in found), a) for a in strengths]
        after, alpha = min(tried)
        if not after < before * (1.0 - LEAST_GAIN):
            return None
        return Found(smoothing(found, free, alpha), {"alpha": alpha, "before": before, "after": after})


def smoothing(found: Sequence[Reader], free: Tensor, alpha: float) -> Tensor:
    """``max|x|^a / max|w|^(1 - a)`` over everything that reads a channel, float32 ``[channels]``; 1 elsewhere."""
    inputs, weights = torch.zeros(free.numel()), torch.zeros(free.numel())
    for reader in found:
        own = reader.columns >= 0
        channels = reader.columns[own]
        inputs.scatter_reduce_(0, channels, reader.peak[own], "amax")
        weights.scatter_reduce_(0, channels, reader.matrix.abs().amax(0)[own], "amax")
    inputs, weights = inputs.double().clamp(min=LEAST_MAXIMUM), weights.double().clamp(min=LEAST_MAXIMUM)
    scale = inputs.pow(alpha) / weights.pow(1.0 - alpha)
    return torch.where(free, scale, torch.ones_like(scale)).float()


def readers(site: ScaleSite, by_weight: Mapping[Node, Layer], evidence: Evidence) -> list[Reader]:
    """The layers of a site whose inputs may be rounded to integers."""
    found: list[Reader] = []
    for consumer in site.consumers:
        layer = by_weight.get(consumer.weight)
        if layer is None or layer.kinds & {CONV, EMBEDDING} or layer.name not in evidence.channels:
            continue
        rounded = [o.activation for o in evidence.options.get(layer.name, ()) if not o.activation.is_none]
        if rounded:
            seen, known = evidence.channels[layer.name], evidence.weights.get(layer.name)
            weight = torch.ones(layer.rows) if known is None else known.row_weight
            found.append(Reader(layer.matrix(), seen.sample, seen.peak, weight, rounded[0], consumer.columns))
    return found
