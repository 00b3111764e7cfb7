"""``prepare``: everything up to the decisions; a budget that none of them can meet is refused on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import Pipeline
from ..ir.budget import Budget
from ..ir.calibration.calibrator import CalibrationSettings, Statistics
from ..ir.errors import FormatError
from ..ir.graph import Graph, Node
from ..ir.layers import Layer, find_layers
from ..ir.plan import StaticQuantization
from ..passes.base import Pass
from ..passes.run import NumericCheck, run_passes
from ..passes.static_values import static_values
from ..targets.base import Latencies, Target
from .bias_stage import correctable
from .calibration_stage import calibrate
from .feasibility import refuse_infeasible
from .measured_loss import MeasuredLoss
from .memory import release_memory
from .offer import Offer
from .prepared import Prepared, Stages
from .pricing_stage import LayerPrices, dynamic_activations, list_candidates, price, static_quantizations
from .threads import one_thread
from .whole_latency import fit_to_network

KEPT, KEPT_TO_REFINE = 2, 8
"""Calibration batches that are kept: to compare and to correct biases, and where whole plans are measured."""


def prepare(
    captured: Graph,
    example: list[Tensor],
    pipeline: Pipeline,
    target: Target,
    exact: Sequence[Pass],
    *,
    calibration: Iterable[Any] | None = None,
    budget: Budget | None = None,
    latency: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    stages: Stages | None = None,
    versions: Mapping[str, str] | None = None,
) -> Prepared:
    """Run everything up to the decisions.

    Args:
        captured: the captured graph.
        example: its flat inputs.
        pipeline: settings, already checked.
        target: where it will run.
        exact: the exact passes.
        calibration: data; None prices weights alone.
        budget: what the decisions will have to meet; one that nothing meets is refused before calibration where bytes
            and operations tell, and before pricing where latencies do.
        latency: whether latencies must be measured although no budget is about them.
        checkpoint: file from which an interrupted calibration continues.
        stages: collects times, and tells what happens.
        versions: of the packages involved.

    Raises:
        ConfigError: a rule leaves a layer without any option.
        PassError: an exact pass broke the model.
        InfeasibleError: no plan meets the budget.
        CalibrationError: unusable data.
        FormatError: a layer's weight holds NaN or infinity, or no format can store it.
    """
    stages = stages or Stages()
    calibrated = calibration is not None
    with stages.time("exact passes"):
        offer = _offer(captured, example, pipeline, target, exact, versions or {}, calibrated=calibrated)
    refuse_infeasible(offer, budget, stages)
    statistics, samples = _calibrate(offer, calibration, checkpoint, stages)
    method = pipeline.calibration
    static = static_quantizations(statistics, offer.static, method.activations, method.percentile)
    latencies = None
    if latency or (budget is not None and "latency" in budget.limits):
        latencies = _latencies(offer, static, stages)
    refuse_infeasible(offer, budget, stages, static, latencies)
    prices = _prices(offer, statistics, static, latencies, samples, stages)
    return Prepared(
        pipeline=pipeline,
        target=target,
        captured=captured,
        graph=offer.graph,
        records=list(offer.records),
        layers=offer.layers,
        skipped=offer.skipped,
        prices=prices,
        statistics=statistics,
        static=static,
        latencies=latencies,
        totals=offer.totals(latencies),
        samples=samples,
        stages=stages,
        fingerprint=captured.fingerprint(),
        versions=offer.versions,
        exact=tuple(exact),
    )


def _offer(
    captured: Graph,
    example: list[Tensor],
    pipeline: Pipeline,
    target: Target,
    exact: Sequence[Pass],
    versions: Mapping[str, str],
    *,
    calibrated: bool,
) -> Offer:
    check = NumericCheck([example]) if pipeline.check_passes else None
    graph, records = run_passes(captured, exact, check)
    layers, skipped = find_layers(graph)
    _refuse_not_finite(layers)
    candidates = list_candidates(layers, pipeline, target, calibrated=calibrated)
    static = [layer for layer in layers if any(o.activation.is_static for o in candidates[layer.name][0])]
    return Offer(
        pipeline=pipeline,
        target=target,
        captured=captured,
        graph=graph,
        records=tuple(records),
        layers=layers,
        skipped=skipped,
        candidates=candidates,
        static=static_values(graph, static) if static else (),
        example=example,
        versions=versions,
    )


def _refuse_not_finite(layers: Sequence[Layer]) -> None:
    for layer in layers:
        weight = layer.weight.handle.tensor
        bad = int(weight.numel() - torch.isfinite(weight).sum())
        if bad:
            raise FormatError(
                f"layer {layer.name}: expected finite weights; found {bad} NaN or infinity; repair the checkpoint"
            )


def _calibrate(
    offer: Offer, data: Iterable[Any] | None, checkpoint: str | os.PathLike[str] | None, stages: Stages
) -> tuple[Statistics | None, list[list[Tensor]]]:
    """Statistics where there is data; and the samples: the example call and a few batches."""
    if data is None:
        return None, [offer.example]
    with stages.time("calibrate"), one_thread():
        statistics, batches = calibrate(
            offer.graph, offer.layers, data, _settings(offer), offer.static, checkpoint, stages.teller("calibrate"),
            KEPT_TO_REFINE if offer.pipeline.search.refine else KEPT,
        )  # fmt: skip
    return statistics, [offer.example, *batches]


def _settings(offer: Offer) -> CalibrationSettings:
    options = [option for entry in offer.candidates.values() for option in entry[0]]
    chosen = offer.pipeline.calibration
    return CalibrationSettings(
        gradients=chosen.sensitivity in ("auto", "fisher"),
        activations=dynamic_activations(options),
        sensitivity_of_inputs=bool(offer.static),
        max_batches=chosen.max_batches,
        seed=offer.pipeline.seed,
        centred=tuple(layer.name for layer in correctable(offer.graph, offer.layers, chosen.bias_correction)),
    )


def _latencies(offer: Offer, static: Mapping[Node, StaticQuantization], stages: Stages) -> Latencies:
    """Times of single layers, fitted to the whole network."""
    with stages.time("measure latency"):
        alone = offer.target.latencies(offer.graph, offer.layers, offer.options, offer.example)
        release_memory()  # two exports of the whole network, before a third
        return fit_to_network(offer.graph, offer.layers, offer.options, static, alone, offer.target, offer.example)


def _prices(
    offer: Offer,
    statistics: Statistics | None,
    static: Mapping[Node, StaticQuantization],
    latencies: Latencies | None,
    samples: Sequence[Sequence[Tensor]],
    stages: Stages,
) -> tuple[LayerPrices, ...]:
    with stages.time("price"), one_thread():
        measured = None
        if offer.pipeline.calibration.sensitivity == "measured":
            measured = MeasuredLoss(offer.graph, samples[1:] or samples, statistics.mean_inputs if statistics else {})
        return price(offer.costs(latencies), statistics, static, measured, stages.teller("price"))
