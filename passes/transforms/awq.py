"""AWQ: channels with large inputs are scaled up before rounding, so that their weights are rounded more finely.

Method: Lin et al., "AWQ: Activation-aware Weight Quantization" (MLSys 2024, arXiv 2306.00978). With ``m_j`` the mean
magnitude of input channel ``j``, the scales are ``s_j = max(m_j^a, 1e-4)``, divided by ``sqrt(max s * min s)``, and
``a`` is searched over ``0, 1/20, ..., 19/20``. ``a = 0`` is no scale, so that the result is never worse than without.

What differs: the published search measures the change of a block's output on a few hundred vectors; here it is the
change of the model's outputs as calibration predicts it, summed over every weight that reads the channels. The clip
search that follows in the published method is the encoder ``mse``. The scale that rounding to nearest likes best is
kept only where it also helps the encoder that the layer will have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import PassError
from ...ir.graph import Graph, Node
from ...ir.layers import Layer
from ..base import PassResult
from .base import Found
from .evidence import Evidence, Subject
from .scales import ScaleSite, refusals, scale_sites, scaled, site_columns

LEAST_GAIN = 0.01
"""Share of the predicted loss below which a smaller loss is no reason to touch the weights."""

LEAST_SCALE = 1e-4

SEARCHED_ROWS = 512
"""Rows of a weight on which exponents are tried; what is found is judged on all of them."""


@dataclass(frozen=True)
class AWQ:
    """``(x / s) (W diag(s))^T`` in place of ``x W^T``: a transform before encoding, see the module.

    Attributes:
        steps: exponents that are tried.
        explicit: where neither a norm nor a layer can take the inverse scale, add a product to the network.

    Raises:
        PassError: ``steps`` is not positive.
    """

    name: ClassVar[str] = "awq"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    steps: int = 20
    explicit: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.steps < 1:
            raise PassError(f"awq: expected steps of 1 or more, found {self.steps}; leave it out for the default")

    def sites(self, graph: Graph, layers: Sequence[Layer]) -> tuple[Mapping[str, ScaleSite], Mapping[str, str]]:
        """Where scales may go, and layer -> why its input has none."""
        return scale_sites(graph, layers, explicit=self.explicit)

    def fit(self, graph: Graph, layers: Sequence[Layer], evidence: Evidence) -> Mapping[str, Found]:
        """Site -> its scale, where one lowers the predicted loss."""
        sites, by_weight = self.sites(graph, layers)[0], {layer.weight: layer for layer in layers}
        found = {name: self._fitted(site, by_weight, evidence) for name, site in sites.items()}
        return {name: entry for name, entry in found.items() if entry is not None}

    def apply(self, graph: Graph, layers: Sequence[Layer], fitted: Mapping[str, Tensor]) -> PassResult:
        """Fold scales ``[channels]`` in.

        Raises:
            PassError: something was found for what is no site, or does not fit it.
        """
        sites, reasons = self.sites(graph, layers)
        done = scaled(graph, sites, {name: scale.double() for name, scale in fitted.items()}, self.name)
        return PassResult(done.graph, done.fired, refusals(self.name, layers, reasons))

    def _fitted(self, site: ScaleSite, by_weight: Mapping[Node, Layer], evidence: Evidence) -> Found | None:
        readers = subjects(site, by_weight, evidence)
        magnitude = channel_means(site, by_weight, evidence)
        if not readers or magnitude is None:
            return None
        searched = [(subject.thinned(SEARCHED_ROWS), columns) for subject, columns in readers]
        tried: list[tuple[float, int]] = []
        for step in range(self.steps):
            scale = awq_scale(magnitude, site.free, step / self.steps)
            loss = sum(s.rounding_error(site_columns(scale, c)) for s, c in searched)
            tried.append((loss, step))
        exponent = min(tried)[1] / self.steps
        return judged(readers, awq_scale(magnitude, site.free, exponent), {"alpha": exponent}) if exponent else None


def awq_scale(magnitude: Tensor, free: Tensor, alpha: float) -> Tensor:
    """``max(m^alpha, 1e-4) / sqrt(max * min)`` over the free channels, float32 ``[channels]``; 1 elsewhere."""
    scale = magnitude.double().pow(alpha).clamp(min=LEAST_SCALE)
    kept = scale[free]
    scale = scale / (kept.max() * kept.min()).sqrt()
    return torch.where(free, scale, torch.ones_like(scale)).float()


def judged(readers: Sequence[tuple[Subject, Tensor]], scale: Tensor, facts: Mapping[str, float]) -> Found | None:
    """The scale with the predicted loss before and after; None unless the encoders of the layers profit from it."""
    before = sum(subject.encoding_error(torch.ones_like(subject.matrix[0])) for subject, _ in readers)
    after = sum(subject.encoding_error(site_columns(scale, columns)) for subject, columns in readers)
    if not after < before * (1.0 - LEAST_GAIN):
        return None
    return Found(scale, {**facts, "before": before, "after": after})


def subjects(site: ScaleSite, by_weight: Mapping[Node, Layer], evidence: Evidence) -> list[tuple[Subject, Tensor]]:
    """The weights that read the channels of a site and may be rounded, with the channel of every column."""
    found: list[tuple[Subject, Tensor]] = []
    for consumer in site.consumers:
        subject = Subject.of(by_weight[consumer.weight], evidence) if consumer.weight in by_weight else None
        if subject is not None:
            found.append((subject, consumer.columns))
    return found


def channel_means(site: ScaleSite, by_weight: Mapping[Node, Layer], evidence: Evidence) -> Tensor | None:
    """Mean magnitude of every channel, over the columns that are it; None where no reader was seen."""
    total = torch.zeros(site.free.numel(), dtype=torch.float64)
    count = torch.zeros_like(total)
    for consumer in site.consumers:
        layer = by_weight.get(consumer.weight)
        known = evidence.channels.get(layer.name) if layer is not None else None
        if known is not None:
            own = consumer.columns >= 0
            total.index_add_(0, consumer.columns[own], known.mean_magnitude[own].double())
            count.index_add_(0, consumer.columns[own], torch.ones_like(known.mean_magnitude[own]).double())
    return total / count.clamp(min=1.0) if bool(count.any()) else None
