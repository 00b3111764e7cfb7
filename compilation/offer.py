"""Stage: what could be decided: what each layer may become and at which cost, before any loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..ir.analysis import parameter_bytes
from ..ir.errors import ConfigError, FormatError
from ..ir.evaluate import bind_dims
from ..ir.graph import Node
from ..ir.layers import Layer
from ..ir.options import Option
from ..passes.static_values import static_values
from ..targets.base import Latencies, MeasuredElsewhere
from ..targets.integer_runs import NO_RUNS
from .cleaning import Cleaned
from .costs import Totals
from .entry import Request
from .pricing_stage import Candidate, LayerPrices, cost, list_candidates, only_together, original_price
from .weights_that_stay import fixed_weights


@dataclass(frozen=True)
class Offer:
    """The choices of a model.

    Attributes:
        cleaned: the model after the exact passes.
        candidates: layer -> (options, refusals, why it is forced).
        static: values that statically quantized layers would quantize.
        notes: what was decided before there were prices.
    """

    cleaned: Cleaned
    candidates: Mapping[str, Candidate]
    static: tuple[Node, ...]
    notes: tuple[str, ...] = ()

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.cleaned.request

    @property
    def keeps_all(self) -> bool:
        """Whether every layer may stay as it is."""
        return all(any(o.unchanged for o in options) for options in self.options.values())

    @property
    def options(self) -> dict[str, tuple[Option, ...]]:
        """Layer -> what it may become."""
        return {name: entry[0] for name, entry in self.candidates.items()}

    def costs(self, latencies: Latencies | None) -> tuple[LayerPrices, ...]:
        """Bytes, bit operations and, where known, milliseconds of every option; no option has a loss yet."""
        request, layers = self.request, self.cleaned.layers
        sizes = bind_dims(self.cleaned.graph, request.example)
        return tuple(cost(layer, self.candidates[layer.name], latencies, request.target, sizes) for layer in layers)

    def totals(self, latencies: Latencies | None, shapes: Mapping[str, Latencies] | None = None) -> Totals:
        """What the model costs besides its layers' weights, and what all of it costs originally."""
        layers, sizes = self.cleaned.layers, bind_dims(self.cleaned.graph, self.request.example)
        weights = sum(layer.weight.handle.nbytes for layer in layers)
        return Totals(
            fixed_nbytes=parameter_bytes(self.cleaned.graph) - weights,
            original_nbytes=parameter_bytes(self.request.captured),
            original_ms=latencies.original_ms if latencies else None,
            float_ms=latencies.model_ms if latencies else None,
            original_bops=sum(original_price(layer, latencies, sizes).bops for layer in layers),
            fixed=fixed_weights(self.cleaned.graph, self.cleaned.layers, self.cleaned.skipped),
            shapes=shapes,
            runs=latencies.runs if latencies else NO_RUNS,
        )


def tune(offer: Offer) -> Offer:
    """The same choices for the target as it runs this model fastest; see :meth:`~instar.targets.base.Target.tuned`."""
    cleaned, request = offer.cleaned, offer.request
    with request.stages.time("measure latency"):
        target = request.target.tuned(cleaned.graph, request.example)
    return replace(offer, cleaned=replace(cleaned, request=replace(request, target=target)))


def list_options(cleaned: Cleaned, *, calibrated: bool) -> Offer:
    """Ask the target what each layer may become.

    Args:
        cleaned: the model.
        calibrated: whether there will be data.

    Raises:
        ConfigError: a rule leaves a layer without any option, or a target needs data that there is none of.
        FormatError: a layer's weight holds NaN or infinity.
    """
    request, layers = cleaned.request, cleaned.layers
    _refuse_not_finite(layers)
    candidates = list_candidates(layers, request.pipeline, request.target, calibrated=calibrated, times=request.times)
    candidates = only_together(layers, _possible_elsewhere(cleaned, candidates))
    static = [layer for layer in layers if any(o.activation.is_static for o in candidates[layer.name][0])]
    if static and not calibrated:
        raise ConfigError(
            f"layer {static[0].name}: target {request.target.name} rounds its inputs to ranges that are seen in "
            "calibration data; found none; pass calibration= (a few batches are enough)"
        )
    return Offer(cleaned, candidates, static_values(cleaned.graph, static) if static else ())


def _possible_elsewhere(cleaned: Cleaned, candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Without the options that a device that is not at hand does not run.

    Raises:
        ConfigError: its profile lacks options, or leaves a layer without any.
    """
    request, target = cleaned.request, cleaned.request.target
    found = dict(candidates)
    if not isinstance(target, MeasuredElsewhere):
        return found
    for workload in request.workloads:
        options = {name: entry[0] for name, entry in found.items()}
        refused = target.refused_elsewhere(cleaned.graph, cleaned.layers, options, workload.inputs)
        for name, reasons in refused.items():
            found[name] = without(name, found[name], reasons)
    return found


def without(layer: str, candidate: Candidate, reasons: Mapping[Option, str]) -> Candidate:
    """A layer's candidate without some options; the reasons become refusals.

    Raises:
        ConfigError: none is left.
    """
    options, refused, forced = candidate
    left = tuple(option for option in options if option not in reasons)
    if not left:
        raise ConfigError(
            f"layer {layer}: expected at least one format that the device runs; found none: "
            f"{'; '.join(reasons.values())}; add fp32 to its formats"
        )
    return left, (*refused, *reasons.values()), forced


def not_finite(layer: Layer) -> int:
    """How many NaN and infinities a layer's weight holds."""
    weight = layer.weight.handle.tensor
    return int(weight.numel() - torch.isfinite(weight).sum())


def _refuse_not_finite(layers: Sequence[Layer]) -> None:
    for layer in layers:
        bad = not_finite(layer)
        if bad:
            raise FormatError(
                f"layer {layer.name}: expected finite weights; found {bad} NaN or infinity; repair the checkpoint"
            )
