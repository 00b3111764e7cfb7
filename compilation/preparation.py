"""``prepare``: everything up to the decisions; a budget that none of them can meet is refused on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..ir.budget import Budget
from ..ir.calibration.learned import CalibrationSettings
from ..ir.layers import EMBEDDING, Layer
from ..ir.memory import release_memory
from ..ir.threads import one_thread
from ..targets.base import Latencies
from .bias_stage import correctable
from .calibration_stage import Known, calibrate
from .cleaning import clean
from .codes import CodeStore
from .entry import Request
from .feasibility import refuse_infeasible
from .holding_out import RUN_MACS, as_many_as
from .kernel_cost import unrestricted, what_is_left_out
from .ladder import Ladder, price
from .measured_loss import MeasuredLoss
from .offer import Offer, list_options, tune
from .prepared import Prepared
from .pricing_stage import Pricing, dynamic_activations, static_quantizations
from .rank_rules import with_ruled_ranks
from .rounding_beside import rounding_beside
from .transform_stage import transform
from .untranslated import runnable
from .whole_latency import fit_to_network
from .workloads import Measured, by_shape, probe, summed

KEPT, KEPT_TO_REFINE = 2, 8
"""Calibration batches that are kept: to compare and to correct biases, and where whole plans are measured."""


def prepare(
    request: Request,
    *,
    calibration: Iterable[Any] | None = None,
    budget: Budget | None = None,
    latency: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    decide: bool = True,
) -> Prepared:
    """Run everything up to the decisions.

    Args:
        request: the checked call.
        calibration: data; None prices weights alone.
        budget: what the decisions will have to meet; one that nothing meets is refused before calibration where bytes
            and operations tell, and before pricing where latencies do.
        latency: whether latencies must be measured although no budget is about them.
        checkpoint: file from which an interrupted calibration continues.
        decide: whether anything asks for decisions; where nothing does and every layer may stay as it is, the data is
            not read and no weight is encoded.

    Raises:
        ConfigError: a rule leaves a layer without any option.
        PassError: an exact pass broke the model.
        LoweringError: the target cannot run an operator of the model.
        InfeasibleError: no plan meets the budget.
        CalibrationError: unusable data.
        FormatError: a layer's weight holds NaN or infinity, or no format can store it.
    """
    timed = latency or (budget is not None and "latency" in budget.limits)
    request = replace(request, times="here" if timed else "none")
    offer = list_options(runnable(clean(request)), calibrated=calibration is not None)
    if not decide and offer.keeps_all:
        return Prepared(
            offer, Known(None, {}, [request.example]), None, Ladder.of(offer.costs(None)), offer.totals(None), None
        )
    refuse_infeasible(offer, budget)
    offer, calibration = transform(offer, calibration)
    offer = with_ruled_ranks(offer)
    known = _learn(unrestricted(offer), calibration, checkpoint)
    measured: tuple[Measured, ...] = ()
    if timed:
        offer = tune(offer)
        measured = _measure(unrestricted(offer), known)
    latencies = summed(measured) if measured else None
    shapes = by_shape(measured)
    refuse_infeasible(offer, budget, known, latencies, shapes)
    codes = CodeStore()
    ladder = _price(offer, known, latencies, codes)
    others = what_is_left_out(offer)
    with request.stages.time("price"):
        free = ladder.beside(others.costs(latencies)) if others is not None else None
    ladder = ladder.settled
    known = known if ladder.waits else known.after_pricing
    return Prepared(offer, known, latencies, ladder, offer.totals(latencies, shapes), codes, measured, free)


def _learn(offer: Offer, data: Iterable[Any] | None, checkpoint: str | os.PathLike[str] | None) -> Known:
    """What the data says, where there is data."""
    request, graph, layers = offer.request, offer.cleaned.graph, offer.cleaned.layers
    if data is None:
        return Known(None, {}, [request.example])
    stages, keep = request.stages, _kept(request)
    with stages.time("calibrate"):
        tell, threads = stages.teller("calibrate"), torch.get_num_threads()
        statistics, batches, held_out = calibrate(
            graph, layers, data, _settings(offer), offer.static, checkpoint, tell, keep, threads
        )
    method = request.pipeline.calibration
    static = static_quantizations(statistics, offer.static, method.activations, method.percentile)
    return Known(statistics, static, [request.example, *batches], held_out)


def _kept(request: Request) -> int:
    """Calibration batches that are kept; all where codes are chosen behind encoded layers."""
    if request.pipeline.calibration.sequential:
        return request.pipeline.calibration.max_batches
    return KEPT_TO_REFINE if request.pipeline.search.refine else KEPT


def _settings(offer: Offer) -> CalibrationSettings:
    options = [option for group in offer.options.values() for option in group]
    pipeline, cleaned = offer.request.pipeline, offer.cleaned
    chosen = pipeline.calibration
    return CalibrationSettings(
        gradients=chosen.sensitivity in ("auto", "fisher"),
        activations=dynamic_activations(options),
        sensitivity_of_inputs=bool(offer.static),
        max_batches=chosen.max_batches,
        seed=pipeline.seed,
        centred=tuple(layer.name for layer in correctable(cleaned.graph, cleaned.layers, chosen.bias_correction)),
    )


def _measure(offer: Offer, known: Known) -> tuple[Measured, ...]:
    """Times of single layers, fitted to the whole network, at every shape."""
    request, graph, layers = offer.request, offer.cleaned.graph, offer.cleaned.layers
    with request.stages.time("measure latency"):
        found: list[Measured] = []
        for workload in request.workloads:
            target = probe(request.target)
            alone = target.latencies(graph, layers, offer.options, workload.inputs)
            release_memory()  # two exports of the whole network, before a third
            fitted = fit_to_network(graph, layers, offer.options, known.static, alone, target, workload.inputs)
            found.append(Measured(workload, fitted, target))
    return tuple(found)


def _price(offer: Offer, known: Known, latencies: Latencies | None, codes: CodeStore) -> Ladder:
    request, statistics = offer.request, known.statistics
    with request.stages.time("price"):
        with one_thread():
            measured = None
            if request.pipeline.calibration.sensitivity == "measured":
                means: Mapping[str, Tensor] = statistics.mean_inputs if statistics else {}
                measured = MeasuredLoss(offer.cleaned.graph, known.samples[1:] or known.samples, means)
            rounded = [la for la in offer.cleaned.layers if any(o.activation.is_static for o in offer.options[la.name])]
            beside = rounding_beside(rounded, known.static, statistics)
            pricing = Pricing(statistics, known.static, measured, codes, _runs(offer, known), beside)
        return price(offer.costs(latencies), pricing, request.stages.teller("price"))


def _runs(offer: Offer, known: Known) -> Callable[[Layer, Tensor], float] | None:
    """Runs the model with another weight; None where losses are not the model's, or nothing is priced so.

    An embedding is run on one batch and what was held out; other layers, which have many formats, on a few samples.
    """
    if known.statistics is None or not known.statistics.gradients:
        return None
    graph, held_out = offer.cleaned.graph, [known.held_out] if known.held_out is not None else []
    batches = [*known.samples[1:2], *held_out]

    @cache
    def of_tables() -> MeasuredLoss:
        return MeasuredLoss(graph, batches)

    @cache
    def of_others() -> MeasuredLoss:
        return MeasuredLoss(graph, [as_many_as(graph, batches[-1], RUN_MACS, offer.cleaned.layers)])

    return lambda layer, matrix: (of_tables() if layer.kinds == {EMBEDDING} else of_others()).of_weight(layer, matrix)
