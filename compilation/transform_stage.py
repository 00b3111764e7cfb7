"""Stage: transforms that keep the function are fitted and applied before weights are encoded; a replay repeats them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ..ir.calibration.batches import flatten_batch
from ..ir.calibration.calibrator import CalibrationSettings
from ..ir.calibration.channels import channel_statistics
from ..ir.plan import Plan, TransformUse
from ..passes.run import NumericCheck, run_passes
from ..passes.transforms import BeforeEncoding, Evidence, Rewriting
from ..targets.base import layers_for
from .calibration_stage import calibrate
from .cleaning import Cleaned, Transformation
from .offer import Offer, list_options
from .plugins import options_of, transforms_of
from .threads import one_thread

Data = Iterable[Any] | None


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
        with request.stages.time("transform"), one_thread():
            evidence = _evidence(offer, data) if chosen.needs_data else _without_data(offer)
            found = chosen.fit(offer.cleaned.graph, offer.cleaned.layers, evidence)
        use = TransformUse(chosen.name, options_of(chosen), {site: dict(f.facts) for site, f in found.items()})
        done = Transformation(use, {site: f.tensor for site, f in found.items()})
        cleaned = rewritten(offer.cleaned, chosen, done)
        offer = list_options(cleaned, calibrated=data is not None)
    return offer, data


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
