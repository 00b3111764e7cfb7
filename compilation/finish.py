"""Stage: compare prediction with measurement and put everything into a report."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ir.calibration.learned import Statistics
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node
from ..ir.layers import find_layers
from ..ir.plan import Plan
from ..passes.promote_floats import PromoteFloats, note_of
from ..report import Report
from ..report.data import LossPair, QualityPoint, ReportData, ShapeTime, StageTime
from ..targets.base import Pictured
from .allocation_stage import predicted
from .building import Built
from .compiled import AsModel, Compiled
from .effects import encoders_not_asked, inputs_not_rounded, transforms_not_fitting, without_effect
from .holding_out import what_is_too_little
from .kernel_cost import cost_of_kernels
from .measured_loss import squared_error
from .pareto_curve import curve
from .prepared import Prepared
from .pricing_stage import inputs_that_stay
from .random_plans import random_plan_losses
from .summary import summary
from .workloads import Timing

ELSEWHERE = (
    "times are those of another device: what the artifact takes is predicted, as the sum that the plan was made for, "
    "and was not measured; let the device confirm it (--check, instar.write_check)"
)
"""A note where latencies come from a device profile."""

EXAMPLE = "the example inputs"


def finish(
    prepared: Prepared, built: Built, search: Sequence[QualityPoint] = (), quality_original: float | None = None
) -> Compiled:
    """The result of decisions with its report."""
    plan = replace(built.plan, kernel_cost=cost_of_kernels(prepared, built.plan))
    request, held_out, built = prepared.request, prepared.known.held_out, replace(built, plan=plan)
    with prepared.stages.time("report"):
        chosen, sqnr = compare_layers(prepared.graph, built.graph, held_out or prepared.samples[-1], plan)
        random = random_plan_losses(prepared, request.pipeline.report.random_plans)
        points = curve(prepared, plan) if request.decides else ()
        final = request.quality(AsModel(built.artifact.run, request.captured)) if request.quality else None
        if request.quality is not None and quality_original is None and request.original is not None:
            quality_original = request.quality(request.original)
    data = replace(
        facts(built, sqnr),
        sqnr_on=_measured_on(prepared, held_out=held_out is not None),
        original_ms=prepared.totals.original_ms,
        predicted_ms=predicted(plan.decisions, prepared.totals)["latency"] if prepared.latencies else None,
        artifact_ms=built.measured.get("latency") if built.timed else None,
        shapes=tuple(_shape(t) for t in built.timings) if len(built.timings) > 1 else (),
        latency_source=prepared.latencies.source if prepared.latencies else "",
        chosen_loss=LossPair("chosen plan", plan.predicted_loss, chosen, built.artifact.nbytes)
        if prepared.statistics
        else None,
        held_out=held_out is not None,
        estimates=prepared.ladder.estimates,
        random_plans=random,
        quality_original=quality_original,
        quality_final=final,
        quality_search=tuple(search),
        pareto=points,
        calibration_batches=prepared.statistics.batches if prepared.statistics else 0,
        notes=(
            *without_effect(request, decides=prepared.codes is not None, layered=bool(prepared.layers)),
            *inputs_not_rounded(
                inputs_that_stay(prepared.offer.candidates, request.pipeline), request.pipeline.activations
            ),
            *prepared.offer.notes,
            *(transforms_not_fitting(prepared.offer.cleaned) if prepared.codes is not None else ()),
            *(encoders_not_asked(request.pipeline, _formats(prepared)) if prepared.codes is not None else ()),
            *filter(None, (prepared.ladder.note(),)),
            *_promoted(built),
            *([] if built.timed else [ELSEWHERE]),
            *built.artifact.notes,
            *(_of_data(prepared.statistics) if prepared.statistics else ()),
        ),
    )
    return compiled(built, data)


def _measured_on(prepared: Prepared, *, held_out: bool) -> str:
    """What single layers were compared on, in words."""
    calibrated = "calibration data that was held out" if held_out else "the last calibration batch"
    return calibrated if prepared.statistics else EXAMPLE


def _formats(prepared: Prepared) -> Iterator[str]:
    """What layers may become, each once."""
    options = (option for options, _, _ in prepared.offer.candidates.values() for option in options)
    return iter(dict.fromkeys(option.format for option in options))


def _shape(timing: Timing) -> ShapeTime:
    workload = timing.workload
    measured = timing.artifact_ms if timing.timed else None
    return ShapeTime(workload.label, workload.weight, timing.original_ms, timing.predicted_ms, measured)


def _of_data(statistics: Statistics) -> tuple[str, ...]:
    return (*statistics.notes, *what_is_too_little(statistics))


def finish_replay(built: Built, notes: Sequence[str]) -> Compiled:
    """The result of a plan that was given, with its report."""
    cleaned = built.cleaned
    _, sqnr = compare_layers(cleaned.graph, built.graph, cleaned.request.example, built.plan)
    request = cleaned.request
    final = request.quality(AsModel(built.artifact.run, request.captured)) if request.quality else None
    said = (*notes, *without_effect(request, replays=True), *_promoted(built), *built.artifact.notes)
    return compiled(built, replace(facts(built, sqnr), sqnr_on=EXAMPLE, quality_final=final, notes=said))


def _promoted(built: Built) -> tuple[str, ...]:
    """What computes in another dtype than the model's."""
    return tuple(note_of(p.dtypes) for p in built.cleaned.request.exact if isinstance(p, PromoteFloats))


def facts(built: Built, layer_sqnr_db: dict[str, float]) -> ReportData:
    """What every report says."""
    cleaned, request = built.cleaned, built.cleaned.request
    return ReportData(
        model=summary(request, cleaned.graph),
        plan=built.plan,
        settings=request.pipeline.to_mapping(),
        passes=(*cleaned.records, *built.records),
        stages=tuple(StageTime(n, s) for n, s in request.stages.seconds.items()),
        artifact_nbytes=built.artifact.nbytes,
        layer_sqnr_db=layer_sqnr_db,
        checks=built.artifact.checks,
        notes=built.artifact.notes,
        skipped=tuple(f"{s.name}: {s.reason}" for s in cleaned.skipped),
        peak_memory_nbytes=peak_memory(),
        machine=built.artifact.picture() if isinstance(built.artifact, Pictured) else None,
    )


def compiled(built: Built, data: ReportData) -> Compiled:
    """What the caller gets."""
    request = built.cleaned.request
    result = Compiled(built.artifact, built.plan, Report(data), built.graph, request.captured)
    return replace(result, workloads=request.workloads, timings=built.timings)


def compare_layers(before: Graph, after: Graph, inputs: Sequence[Tensor], plan: Plan) -> tuple[float, dict[str, float]]:
    """Relative squared output error, and per layer the SQNR of its output (dB), on one batch of flat inputs."""
    names: dict[Any, dict[str, None]] = {}
    for layer in find_layers(before, min_elements=0)[0]:
        for use in layer.uses:
            names.setdefault(use.node.origin, {})[layer.name] = None
    changed = {d.layer for d in plan.decisions if not d.chosen.option.keeps_weight}
    with torch.no_grad():
        reference = _layer_outputs(before, inputs, names)
        found = _layer_outputs(after, inputs, names)
    error = squared_error(found[1], reference[1])
    sqnr = {n: sqnr_db(reference[0][n], found[0][n]) for n in reference[0] if n in changed and n in found[0]}
    return error, sqnr


def _layer_outputs(
    graph: Graph, inputs: Sequence[Tensor], names: Mapping[Any, Iterable[str]]
) -> tuple[dict[str, Tensor], list[Any]]:
    kept: dict[str, Tensor] = {}

    def observe(node: Node, value: Any) -> None:  # the last value that comes from a layer's place is its output
        if node.origin in names and isinstance(value, Tensor) and value.is_floating_point():
            kept.update(dict.fromkeys(names[node.origin], value))

    return kept, evaluate(graph, inputs, observe)


def sqnr_db(reference: Tensor, found: Tensor) -> float:
    """``20 log10(|reference| / |found - reference|)``; infinite where equal."""
    noise = float((found.double() - reference.double()).norm())
    signal = float(reference.double().norm())
    return math.inf if noise == 0.0 else 20.0 * math.log10(max(signal, 1e-300) / noise)


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
