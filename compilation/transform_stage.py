"""Stage: transforms that keep the function are fitted and applied before weights are encoded; a replay repeats them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..ir.calibration.batches import flatten_batch
from ..ir.calibration.channels import channel_statistics
from ..ir.calibration.learned import CalibrationSettings
from ..ir.evaluate import evaluate, run
from ..ir.graph import Node
from ..ir.plan import Plan, TransformUse
from ..ir.threads import one_thread
from ..passes.objective import Problem
from ..passes.run import NumericCheck, run_passes
from ..passes.transforms import Auto, BeforeEncoding, Evidence, Rewriting
from ..passes.transforms.evidence import Subject
from ..targets.base import layers_for
from .calibration_stage import calibrate
from .cleaning import Cleaned, Transformation
from .measured_loss import relative_loss
from .offer import Offer, list_options
from .plugins import options_of, transforms_of

Data = Iterable[Any] | None

LEAST_GAIN = 0.01
"""Share of the loss below which a smaller loss is no reason to keep a candidate."""


def transform(offer: Offer, data: Data) -> tuple[Offer, Data]:
    """Fit and apply the transforms that were asked for, one after the other.

    Each is fitted to the network behind the ones before it, so that every one that needs data reads it once; data that
    can be read only once is kept.

    Args:
        offer: the model and what each layer may become.
        data: calibration batches.

    Returns:
        The offer of the transformed model, and the data, which can still be read.

    Raises:
        CalibrationError: unusable data.
        PassError: a transform broke the model.
    """
    request = offer.request
    if not request.transforms:
        return offer, data
    if isinstance(data, Iterator):
        data = list(islice(data, request.pipeline.calibration.max_batches))
    for chosen in request.transforms:
        if isinstance(chosen, Auto):
            offer = _automatic(offer, chosen, data)
        else:
            offer = _fitted(offer, chosen, _known(offer, data) if chosen.needs_data else _without_data(offer))
    return offer, data


def _fitted(offer: Offer, chosen: BeforeEncoding, evidence: Evidence) -> Offer:
    """The offer behind one transform."""
    with offer.request.stages.time("transform"), one_thread():
        found = chosen.fit(offer.cleaned.graph, offer.cleaned.layers, evidence)
    use = TransformUse(chosen.name, options_of(chosen), {site: dict(f.facts) for site, f in found.items()})
    done = Transformation(use, {site: f.tensor for site, f in found.items()})
    return list_options(rewritten(offer.cleaned, chosen, done), calibrated=offer.request.calibrated)


def _automatic(offer: Offer, chosen: Auto, data: Data) -> Offer:
    """The offer behind those candidates that lower the loss on the last batch, which none of them was fitted to."""
    batches = list(islice(data or (), offer.request.pipeline.calibration.max_batches))
    learnt, graph = batches[:-1] or batches, offer.cleaned.graph
    inputs = flatten_batch(graph, batches[-1], len(batches) - 1)
    with torch.no_grad():
        reference = evaluate(graph, inputs)
    evidence = _known(offer, learnt)
    least = _stored_loss(offer, evidence, inputs, reference)
    for candidate in chosen.candidates:
        trial = _fitted(offer, candidate, evidence)
        if not trial.cleaned.transforms[-1].found:
            continue
        behind = _known(trial, learnt)
        loss = _stored_loss(trial, behind, inputs, reference)
        if loss < least * (1.0 - LEAST_GAIN):
            offer, evidence, least = trial, behind, loss
    return offer


def _stored_loss(offer: Offer, evidence: Evidence, inputs: Sequence[Tensor], reference: Sequence[object]) -> float:
    """Relative squared error of the outputs with every weight at its coarsest option."""
    with offer.request.stages.time("transform"), one_thread(), torch.no_grad():
        given: dict[Node, Tensor] = {}
        for layer in offer.cleaned.layers:
            subject = Subject.of(layer, evidence)
            if subject is not None:
                stored = subject.stored(Problem(subject.matrix, subject.statistics))
                given[layer.weight] = layer.as_weight(stored)
        outputs = run(offer.cleaned.graph, inputs, lambda node, value, _: given.get(node, value))
        return float(relative_loss(outputs, reference))


def _known(offer: Offer, data: Data) -> Evidence:
    with offer.request.stages.time("transform"), one_thread():
        return _evidence(offer, data)


def repeat(cleaned: Cleaned, plan: Plan) -> Cleaned:
    """The transforms of a plan, without data.

    Raises:
        ConfigError: the plan needs a transform that is not here.
        PassError: a transform does not fit the model.
    """
    for chosen, use, found in zip(
        transforms_of(plan, cleaned.request.transforms), plan.transforms, plan.transformed, strict=True
    ):
        cleaned = rewritten(cleaned, chosen, Transformation(use, found))
    return cleaned


def rewritten(cleaned: Cleaned, chosen: BeforeEncoding, done: Transformation) -> Cleaned:
    """The model behind a transform; verified and compared with the one before."""
    request = cleaned.request
    with request.stages.time("transform"):
        check = NumericCheck([request.example]) if request.pipeline.check_passes else None
        graph, records = run_passes(cleaned.graph, (Rewriting(chosen, done.found),), check)
        layers, skipped = layers_for(request.target, graph)
    return replace(
        cleaned,
        graph=graph,
        records=(*cleaned.records, *records),
        layers=layers,
        skipped=skipped,
        transforms=(*cleaned.transforms, done),
    )


def _without_data(offer: Offer) -> Evidence:
    return Evidence(options=offer.options)


def _evidence(offer: Offer, data: Data) -> Evidence:
    """Statistics of the model as it is now: of its weights, with gradients where they count, and of its channels."""
    graph, layers = offer.cleaned.graph, offer.cleaned.layers
    pipeline = offer.request.pipeline
    chosen = pipeline.calibration
    settings = CalibrationSettings(
        gradients=chosen.sensitivity in ("auto", "fisher"), max_batches=chosen.max_batches, seed=pipeline.seed
    )
    batches: Sequence[Any] = list(islice(data or (), chosen.max_batches))
    known = calibrate(graph, layers, batches, settings, keep=0)[0]
    inputs = (flatten_batch(graph, batch, number) for number, batch in enumerate(batches))
    return Evidence(
        {name: entry.weight for name, entry in known.layers.items()},
        channel_statistics(graph, layers, inputs),
        offer.options,
    )
