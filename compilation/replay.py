"""``compile(..., plan=...)``: the decisions of a plan without calibration or search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.errors import ConfigError, ParseError, nearest
from ..ir.layers import Layer
from ..ir.options import DYNAMIC_INT8, Option, activations_of
from ..ir.plan import Decision, Plan
from ..passes.base import Pass
from ..passes.encoders import encoder
from ..passes.formats import format as parse_format
from ..passes.pricing import LayerPricer
from ..targets.base import Target
from ..targets.registry import make_target
from .bias_stage import without_stale
from .building import build, check
from .cleaning import Cleaned
from .compiled import Compiled
from .entry import Request
from .finish import finish_replay
from .plugins import check_plugins, check_spellings, pass_use, passes_of
from .transform_stage import repeat

ACTIVATIONS = activations_of(("none", DYNAMIC_INT8, "static_int8"))
"""Everything that an edited plan may say."""

REPLAYED = "replayed from a plan: nothing was calibrated, measured or searched"


def replay(cleaned: Cleaned, plan: Plan) -> Compiled:
    """Apply a plan to the cleaned model.

    Layers whose format a person edited are encoded anew; that works for encoders that need no data. Their bias, and
    those of the layers behind them, are as in the model: corrections were found under the options before the edit.

    Raises:
        ConfigError: the plan names a layer that the model does not have.
        ParseError: an edited layer needs calibration data, or an option that the target does not run.
    """
    cleaned = repeat(cleaned, plan)
    layers, example = {layer.name: layer for layer in cleaned.layers}, cleaned.request.example
    plan = _with_known_options(plan, layers, cleaned.request)
    encoded = replace(plan, encodings=_encodings(plan, layers))
    settled, stale = without_stale(cleaned.graph, cleaned.layers, encoded)
    notes = (REPLAYED, *_not_in_plan(plan, layers), *_left_out(stale))
    return finish_replay(check(build(cleaned, settled, [example]), [example]), notes)


def replayed_request(request: Request, plan: Plan, where: str = "plan") -> Request:
    """The request with the passes and the target of a plan; ``where`` names its file in errors.

    Raises:
        ParseError: an edited format or encoder is not spelled right.
        ConfigError: the plan was made for another model or another target, or needs something that is not here.
    """
    check_plugins(plan)
    check_spellings(plan, where)
    _check(plan, request)
    return replace(request, exact=_exact(plan, request), target=_target(plan, request))


def _not_in_plan(plan: Plan, layers: Mapping[str, Layer]) -> tuple[str, ...]:
    """What happens to layers of the model that the plan does not name, as after a decision was removed from it."""
    decided = {decision.layer for decision in plan.decisions}
    missing = [name for name in layers if name not in decided]
    if not missing:
        return ()
    named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return (f"the plan holds no decision for {named}: stored and computed as in the model",)


def _left_out(stale: Sequence[str]) -> tuple[str, ...]:
    if not stale:
        return ()
    what = f"the bias of {stale[0]}" if len(stale) == 1 else f"{len(stale)} biases ({stale[0]}, ...)"
    return (
        f"the correction of {what} was left out: options that it was found under were edited; compile with "
        "calibration data to correct again",
    )


def _check(plan: Plan, request: Request) -> None:
    if plan.target != request.target.name:
        raise ConfigError(
            f"plan: expected a plan for target {request.target.name}; found one for {plan.target}; "
            f"pass target={plan.target!r}"
        )
    found = request.fingerprint
    if plan.fingerprint != found:
        raise ConfigError(
            f"plan: expected the model with fingerprint {plan.fingerprint[:12]}...; found {found[:12]}...; its "
            "weights, its code or the example inputs differ from those that the plan was made with"
        )


def _exact(plan: Plan, request: Request) -> tuple[Pass, ...]:
    """The plan's own passes; where the settings name passes, they are to be these.

    Raises:
        ConfigError: they are others, or one is missing.
    """
    exact = passes_of(plan, request.exact)
    if request.pipeline.passes is not None and tuple(map(pass_use, request.exact)) != plan.passes:
        wanted, found = (", ".join(p.name for p in passes) for passes in (plan.passes, request.exact))
        raise ConfigError(
            f"plan: expected the passes {wanted}; found {found}, or other options of them; leave passes out, or give "
            "those of the plan"
        )
    return exact


def _target(plan: Plan, request: Request) -> Target:
    """The target with the plan's own options.

    Raises:
        ConfigError: an option was given that contradicts the plan.
    """
    given = request.pipeline.target_options.chosen()
    for name, value in plan.target_options.items():
        found = given.get(name, value)
        if found != value:
            raise ConfigError(
                f"plan: expected target_options.{name} = {value}, as in the plan; found {found}; remove it"
            )
    return make_target(plan.target, request.pipeline.merged(target_options=plan.target_options).target_options)


def _with_known_options(plan: Plan, layers: Mapping[str, Layer], request: Request) -> Plan:
    """The plan with the target's own options: every decision is about a layer of the model, and the target can run it.

    Raises:
        ConfigError: the model has no such layer.
        ParseError: the target cannot run an option; lists what it can.
    """
    known: list[Decision] = []
    for decision in plan.decisions:
        layer = layers.get(decision.layer)
        if layer is None:
            raise ConfigError(
                f"plan: expected layers of the model, found {decision.layer!r}{nearest(decision.layer, layers)}"
            )
        option = _known_option(decision, layer, request.target)
        known.append(replace(decision, chosen=replace(decision.chosen, option=option)))
    return replace(plan, decisions=tuple(known))


def _known_option(decision: Decision, layer: Layer, target: Target) -> Option:
    option = decision.chosen.option
    if option.unchanged:
        return option
    encoder(option.encoder)
    found = target.candidates(layer, [option.format], ACTIVATIONS, option.encoder)
    for candidate in found.options:
        if candidate.name == option.name:
            return candidate
    possible = ", ".join(repr(o.name) for o in found.options) or "; ".join(found.refused)
    raise ParseError(
        f"plan: layer {decision.layer}: expected an option that target {target.name} runs, found "
        f"{option.name!r}; with {option.format} it runs {possible}"
    )


def _encodings(plan: Plan, layers: dict[str, Layer]) -> dict[str, dict[str, object]]:
    result: dict[str, dict[str, object]] = {}
    for decision in plan.decisions:
        if not decision.chosen.option.keeps_weight and decision.layer in layers:
            result[decision.layer] = _encoding(plan, decision, layers[decision.layer])
    return result


def _encoding(plan: Plan, decision: Decision, layer: Layer) -> dict[str, object]:
    stored = plan.encodings.get(decision.layer)
    option = decision.chosen.option
    specs = parse_format(option.format).tensors(layer.stored_shape)
    if stored is not None and {n: (tuple(t.shape), t.dtype) for n, t in stored.items()} == {
        n: (s.shape, s.dtype) for n, s in specs.items()
    }:
        return dict(stored)
    if encoder(option.encoder).needs_data:
        raise ParseError(
            f"plan: layer {decision.layer} has no stored codes for {option.format} and the encoder {option.encoder!r} "
            "needs calibration data; write 'mse' or 'rtn' as its encoder, or compile again with calibration"
        )
    return dict(LayerPricer(layer, None).encode(option.format, option.encoder).tensors)
