"""Settings that have no effect in a compilation: what was asked and is not carried out is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

from ..config import Budget, Pipeline
from ..passes.encoders import encoder
from ..passes.formats import format as parse_format
from ..passes.transforms import Auto
from .cleaning import Cleaned
from .entry import Request

UNDECIDED = ("activations", "calibration", "encoders", "formats", "kernels", "search", "transforms")
"""Settings that only decisions ask for."""

REPLAYED = (*UNDECIDED, "layers", "leave_alone")
"""The same, and what a plan decides by itself."""


def without_effect(
    request: Request, *, decides: bool = True, replays: bool = False, layered: bool = True
) -> tuple[str, ...]:
    """One note for every setting that changes nothing.

    Args:
        request: the call.
        decides: whether there was anything to decide.
        replays: whether a plan decided.
        layered: whether the model has layers.
    """
    return (*_idle(request, decides=decides, replays=replays, layered=layered), *_without_latency(request))


def inputs_not_rounded(layers: Sequence[str], activations: Sequence[str]) -> Iterator[str]:
    """A note about layers whose inputs were to be rounded where no kernel of the target does it."""
    if layers:
        named = ", ".join(layers[:5]) + (f" and {len(layers) - 5} more" if len(layers) > 5 else "")
        yield (
            f"activations = {', '.join(activations)} has no effect for {named}: no kernel rounds the inputs of such a "
            "layer; a rule in [[layers]] that asks for it is an error"
        )


def encoders_not_asked(pipeline: Pipeline, formats: Iterable[str]) -> Iterator[str]:
    """A note about every encoder of a list that no format asks anything.

    Args:
        pipeline: its own list and those of its rules.
        formats: spellings of what layers may become.
    """
    offered = frozenset[str]().union(*(parse_format(text).families for text in formats))
    lists = [("encoders", pipeline.encoders)]
    lists += [(f"layers[{n}].encoders", rule.encoders) for n, rule in enumerate(pipeline.layers)]
    for where, names in lists:
        for name in names or ():
            about = encoder(name).families
            if not about & offered:
                yield (
                    f"{where} = {name} has no effect: it is about formats of the kind {', '.join(sorted(about))}, and "
                    f"what layers may become is {', '.join(sorted(offered)) or 'nothing that is encoded'}; the best "
                    "encoder that the data allows was taken"
                )


def transforms_not_fitting(cleaned: Cleaned) -> Iterator[str]:
    """A note about every transform that was asked for and found nothing to change, with its reasons."""
    asked, done = cleaned.request.transforms, cleaned.transforms
    for name in dict.fromkeys(each.use.name for each in done if not each.found):
        why = dict[str, str]()
        for refusal in (r for record in cleaned.records for r in record.refused if r.rule == name):
            why.setdefault(refusal.reason, refusal.origin.module)
        reasons = [f"{reason} (first: {layer})" for reason, layer in why.items()]
        yield f"transforms = {name} has no effect: {'; '.join([*reasons, 'where it fits it lowers no error'])}"
    kept = len(done) - sum(not isinstance(each, Auto) for each in asked)
    if kept == 0 and any(isinstance(each, Auto) for each in asked):
        yield "transforms = auto has no effect: no candidate fits and makes the measured loss smaller by 1 % or more"


def _idle(request: Request, *, decides: bool, replays: bool, layered: bool) -> Iterator[str]:
    given = request.pipeline.model_fields_set
    if replays:
        yield from _notes(request, [n for n in REPLAYED if n in given], "a plan holds its decisions")
    elif not decides:
        some = "there is no budget, and every layer may stay as it is"
        why = some if layered else "no weight of this model is a layer to decide about (instar.inspect says why)"
        yield from _notes(request, [n for n in UNDECIDED if n in given], why)
    else:
        yield from _without_restriction(request)
        yield from _without_data(request)


def _without_restriction(request: Request) -> Iterator[str]:
    pipeline = request.pipeline
    if pipeline.search.kernel_cost and (pipeline.kernels is None or pipeline.budget is None):
        missing = "kernels is not given" if pipeline.kernels is None else "there is no budget"
        yield f"search.kernel_cost has no effect: {missing}"


def _notes(request: Request, settings: list[str], why: str) -> Iterator[str]:
    idle = [
        *settings,
        *(["calibration="] if request.calibrated else []),
        *(["checkpoint="] if request.resumable else []),
    ]
    yield from (f"{name} has no effect: {why}" for name in idle)


def _without_data(request: Request) -> Iterator[str]:
    pipeline = request.pipeline
    chosen = pipeline.calibration.model_fields_set - {"sensitivity"}
    if not request.calibrated:
        yield from (f"calibration.{name} has no effect: there is no calibration data" for name in sorted(chosen))
        if request.resumable:
            yield "checkpoint= has no effect: there is no calibration data"
        return
    lists = [pipeline.activations, *(rule.activations or () for rule in pipeline.layers)]
    if not any(name.startswith("static") for names in lists for name in names):
        for name in sorted(chosen & {"activations", "percentile"}):
            yield f"calibration.{name} has no effect: no layer may quantize its input statically ('static_int8')"


def _without_latency(request: Request) -> Iterator[str]:
    pipeline, budget = request.pipeline, request.pipeline.budget
    if isinstance(budget, Budget) and budget.each_shape and len(request.workloads) < 2:
        yield "budget.each_shape has no effect: there are not several latency_inputs="
    if pipeline.minimise == "latency" or (isinstance(budget, Budget) and "latency" in budget.limits):
        return
    if request.several_shapes:
        yield "latency_inputs= has no effect: no budget is about latency"
    for item in fields(pipeline.target_options):
        if item.metadata.get("for") == "latency" and item.name in pipeline.target_options.chosen():
            yield f"target_options.{item.name} has no effect: no budget is about latency"
