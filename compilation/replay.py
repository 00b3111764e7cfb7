"""``compile(..., plan=...)``: the decisions of a plan without calibration or search."""

from __future__ import annotations

import os
from dataclasses import replace

from ..ir.errors import ConfigError, ParseError
from ..ir.layers import Layer, find_layers
from ..ir.plan import Decision, Plan
from ..passes.apply_plan import ApplyPlan
from ..passes.formats import format as parse_format
from ..passes.pricing import LayerPricer, stored_shape
from ..passes.run import NumericCheck, run_passes
from ..report import Report
from ..report.data import ReportData, StageTime
from .compiled import Compiled
from .entry import Request
from .finish import compare_layers, peak_memory
from .summary import summary


def replay(request: Request, given: str | os.PathLike[str] | Plan) -> Compiled:
    """Apply a plan to the captured model.

    Layers whose format a person edited are encoded anew; that works for encoders that need no data.

    Raises:
        ConfigError: the plan was made for another model or another target.
        ParseError: the plan is not readable, or an edited layer needs calibration data.
    """
    plan = given if isinstance(given, Plan) else Plan.load(given)
    _check(plan, request)
    with request.stages.time("exact passes"):
        check = NumericCheck([request.example]) if request.pipeline.check_passes else None
        graph, records = run_passes(request.captured, request.exact, check)
    layers = {layer.name: layer for layer in find_layers(graph)[0]}
    plan = replace(plan, encodings=_encodings(plan, layers))
    with request.stages.time("apply plan"):
        check = NumericCheck([request.example]) if request.pipeline.check_passes else None
        compiled, applied = run_passes(graph, (ApplyPlan(plan.decisions, plan.encodings, plan.static),), check)
    with request.stages.time("lower and check"):
        artifact = request.target.build(compiled, plan, [request.example])
    _, sqnr = compare_layers(graph, compiled, [request.example], plan)
    data = ReportData(
        model=summary(request, graph),
        plan=plan,
        settings=request.pipeline.to_mapping(),
        passes=(*records, *applied),
        stages=tuple(StageTime(n, s) for n, s in request.stages.seconds.items()),
        artifact_nbytes=artifact.nbytes,
        layer_sqnr_db=sqnr,
        checks=artifact.checks,
        notes=("replayed from a plan: nothing was calibrated, measured or searched", *artifact.notes),
        peak_memory_nbytes=peak_memory(),
    )
    return Compiled(artifact, plan, Report(data), compiled, request.captured)


def _check(plan: Plan, request: Request) -> None:
    if plan.target != request.target.name:
        raise ConfigError(
            f"plan: expected a plan for target {request.target.name}; found one for {plan.target}; pass target={plan.target!r}"
        )
    found = request.captured.fingerprint()
    if plan.fingerprint != found:
        raise ConfigError(
            f"plan: expected the model with fingerprint {plan.fingerprint[:12]}...; found {found[:12]}...; its weights, its code "
            "or the example inputs differ from those that the plan was made with"
        )
    ran = tuple(p.name for p in request.exact)
    if plan.passes != ran:
        raise ConfigError(
            f"plan: expected the passes {', '.join(plan.passes)}; found {', '.join(ran)}; use the plan's pipeline"
        )


def _encodings(plan: Plan, layers: dict[str, Layer]) -> dict[str, dict[str, object]]:
    result: dict[str, dict[str, object]] = {}
    for decision in plan.decisions:
        if decision.chosen.option.format != "fp32" and decision.layer in layers:
            result[decision.layer] = _encoding(plan, decision, layers[decision.layer])
    return result


def _encoding(plan: Plan, decision: Decision, layer: Layer) -> dict[str, object]:
    stored = plan.encodings.get(decision.layer)
    option = decision.chosen.option
    specs = parse_format(option.format).tensors(stored_shape(layer))
    if stored is not None and {n: (tuple(t.shape), t.dtype) for n, t in stored.items()} == {
        n: (s.shape, s.dtype) for n, s in specs.items()
    }:
        return dict(stored)
    if option.encoder.startswith("gptq"):
        raise ParseError(
            f"plan: layer {decision.layer} has no stored codes for {option.format} and the encoder {option.encoder!r} needs "
            "calibration data; write 'mse' or 'rtn' as its encoder, or compile again with calibration"
        )
    return dict(LayerPricer(layer, None).encode(option.format, option.encoder).tensors)
