"""Stage: every layer lists what it could become, with bytes, operations, latency and predicted loss."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from types import MappingProxyType

from torch import Tensor

from ..config import LayerRule, Pipeline
from ..ir.calibration.learned import LayerStatistics, Statistics
from ..ir.errors import ConfigError
from ..ir.graph import Node
from ..ir.layers import Layer, taken_together
from ..ir.options import AS_IT_WAS, KEPT, NONE, Activation, Arithmetic, Option, PricedOption, activations_of
from ..ir.plan import Decision, StaticQuantization
from ..passes.activations import static_parameters
from ..passes.cost import layer_bops
from ..passes.encoders import encoders_for
from ..passes.formats import format as parse_format
from ..passes.formats.families import expand
from ..passes.pricing import LayerPricer, WeightPrice, price_layer
from ..targets.base import Latencies, SubstitutesFormats, Target, Times
from .codes import CodeStore

KEPT_NUMBERS = 1 << 22
"""Weights of the layers whose decompositions are kept, in case another format of theirs is asked for."""

Candidate = tuple[tuple[Option, ...], tuple[str, ...], str]
"""Of one layer: what it may become, what it may not and why, and why it is not free to choose."""


@dataclass(frozen=True)
class LayerPrices:
    """A layer with the price of every option it may take, what was refused, and whether the user forced it."""

    layer: Layer
    original: PricedOption
    options: tuple[PricedOption, ...]
    refused: tuple[str, ...] = ()
    forced: str = ""


def list_candidates(
    layers: Sequence[Layer], pipeline: Pipeline, target: Target, *, calibrated: bool, times: Times = "none"
) -> dict[str, Candidate]:
    """Layer -> (options, refusals, why it is forced).

    Args:
        layers: that are decided about.
        pipeline: rules.
        target: says what it can run.
        calibrated: whether there will be data.
        times: whether decisions are about times; formats that nobody chose then follow the processor.

    Raises:
        ConfigError: a rule leaves a layer without any option.
    """
    found: dict[str, Candidate] = {}
    for layer in layers:
        rule = _with_stand_ins(pipeline.rule_for(layer.name), pipeline, target, times)
        kept = isinstance(rule.formats, str)
        asked = (NONE,) if kept or not rule.activations else activations_of(rule.activations)
        gathered, refused = _possible(layer, rule, asked, pipeline, target, calibrated=calibrated)
        found[layer.name] = (tuple(gathered), tuple(refused), f"kept by {rule.pattern!r}" if kept else "")
    found = only_together(layers, found)
    for layer in layers:
        rule, (options, refused, forced) = pipeline.rule_for(layer.name), found[layer.name]
        if not options and floats_stay(pipeline, layer.name):
            options = tuple(_possible(layer, rule, (NONE,), pipeline, target, calibrated=calibrated)[0])
            found[layer.name] = options, refused, forced
        if not options:
            raise ConfigError(
                f"layer {layer.name}: expected at least one format that target {target.name} can run; found none of "
                f"{_impossible(rule, refused)}; {_way_out(refused)}"
            )
    return found


def list_members(
    layer: Layer, members: Sequence[str], pipeline: Pipeline, target: Target, *, calibrated: bool
) -> tuple[Option, ...]:
    """What a layer may become in some formats, under the rule that decides about it."""
    rule = pipeline.rule_for(layer.name).model_copy(update={"formats": tuple(members)})
    asked = activations_of(rule.activations) if rule.activations else (NONE,)
    return tuple(_possible(layer, rule, asked, pipeline, target, calibrated=calibrated)[0])


def only_together(layers: Sequence[Layer], candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Without options of kernels that take all matrices of an operator, where one of these has no such option.

    A layer may be left without any option.
    """
    found, before = dict(candidates), None
    groups = taken_together(layers)
    while found != before:
        before = dict(found)
        for names in groups:
            common = set.intersection(*({o.rounds_under for o in found[name][0]} | {""} for name in names))
            for name in names:
                found[name] = _agreeing(found, name, names, common)
    return found


def _agreeing(found: Mapping[str, Candidate], name: str, names: Sequence[str], common: set[str]) -> Candidate:
    """A layer's candidate with those options alone whose kernel all ``names`` can have."""
    options, refused, forced = found[name]
    reasons: dict[str, None] = {}
    for option in options:
        if option.rounds_under not in common:
            other = next(n for n in names if all(o.rounds_under != option.rounds_under for o in found[n][0]))
            reasons[f"{option.name}: {other}, which the same operator multiplies, has no option for this kernel"] = None
    left = tuple(option for option in options if option.rounds_under in common)
    return left, (*refused, *reasons), forced


def _with_stand_ins(rule: LayerRule, pipeline: Pipeline, target: Target, times: Times) -> LayerRule:
    """The rule of a layer; where nobody chose its formats, with those that are fast on the target's processor."""
    usual = pipeline.formats_left_open and rule.formats == pipeline.formats
    if times == "none" or not usual or not isinstance(target, SubstitutesFormats):
        return rule
    more = target.stand_ins(rule.formats, elsewhere=times == "elsewhere")
    return rule.model_copy(update={"formats": (*rule.formats, *more)})


def _impossible(rule: LayerRule, refused: Sequence[str]) -> str:
    """The formats of a rule and why none is possible; a format that its own reason begins with is not named twice."""
    if refused and all(any(reason.startswith(f"{text}: ") for reason in refused) for text in rule.formats):
        return f"its formats possible: {'; '.join(_by_reason(refused))}"
    return f"{', '.join(rule.formats)} possible: {'; '.join(_by_reason(refused)) or _without_kernel(rule)}"


def _by_reason(refused: Sequence[str]) -> list[str]:
    """Refusals ``format: reason``, with the formats that share a reason in front of it."""
    formats: dict[str, list[str]] = {}
    for text in refused:
        name, colon, reason = text.partition(": ")
        formats.setdefault(reason if colon else name, []).extend([name] if colon else [])
    return [f"{', '.join(names)}: {reason}" if names else reason for reason, names in formats.items()]


def _way_out(refused: Sequence[str]) -> str:
    """What to do about it: floats, unless they were refused as well."""
    if any(reason.startswith(f"{AS_IT_WAS}: ") for reason in refused):
        return "compute the layer outside the model, or give what the reasons ask for"
    return f"add {AS_IT_WAS} to its formats"


def _without_kernel(rule: LayerRule) -> str:
    return f"no kernel rounds the inputs of such a layer (activations = {', '.join(rule.activations or ())})"


def floats_stay(pipeline: Pipeline, layer: str) -> bool:
    """Whether a layer whose inputs no kernel rounds may be multiplied with them as they are.

    ``activations`` of a pipeline are meant for what can be rounded: an embedding has no such input. A rule that names
    layers and their activations is meant as it says.
    """
    rule = next((r for r in pipeline.layers if r.matches(layer)), None)
    return rule is None or rule.activations is None


def inputs_that_stay(candidates: Mapping[str, Candidate], pipeline: Pipeline) -> tuple[str, ...]:
    """Layers whose inputs were to be rounded and are not, because no kernel does."""
    return tuple(
        name
        for name, (options, _, kept) in candidates.items()
        if not kept and "none" not in (pipeline.rule_for(name).activations or ("none",))
        if all(option.activation.is_none and not option.unchanged for option in options)
    )


def _possible(
    layer: Layer,
    rule: LayerRule,
    activations: tuple[Activation, ...],
    pipeline: Pipeline,
    target: Target,
    *,
    calibrated: bool,
) -> tuple[dict[Option, None], dict[str, None]]:
    """What a layer may become with some activations, and what it may not with the reasons."""
    gathered: dict[Option, None] = {}
    refused: dict[str, None] = {}
    for text in (AS_IT_WAS,) if isinstance(rule.formats, str) else rule.formats:
        members = expand(text, layer.stored_shape)
        if not members:
            refused[f"{text}: expected a member that saves something for {list(layer.stored_shape)}"] = None
        for member in members:
            for encoder in encoders_for(parse_format(member), rule.encoders or (), calibrated=calibrated):
                candidates = target.candidates(layer, [member], activations, encoder)
                left_out = _left_out(candidates.options, pipeline.kernels)
                gathered |= {option: None for option in candidates.options if option not in left_out}
                refused |= dict.fromkeys((*candidates.refused, *left_out.values()))
    return gathered, refused


def _left_out(options: Sequence[Option], kernels: Sequence[str] | None) -> dict[Option, str]:
    """Options of kernels that a pipeline leaves out, and what to say about them; a layer as it was needs no kernel."""
    return {
        option: f"{option.name}: {option.kernel} is not among kernels = {', '.join(kernels)}"
        for option in options
        if kernels is not None and option.kernel not in kernels and not option.unchanged
    }


def cost(
    layer: Layer, candidate: Candidate, latencies: Latencies | None, target: Target, sizes: Mapping[str, int]
) -> LayerPrices:
    """What every option of a layer takes in bytes, milliseconds and bit operations; the losses are still zero."""
    options, refused, forced = candidate
    original = original_price(layer, latencies, sizes)
    return LayerPrices(
        layer, original, tuple(_cost(layer, o, latencies, target, sizes) for o in options), refused, forced
    )


def _cost(
    layer: Layer, option: Option, latencies: Latencies | None, target: Target, sizes: Mapping[str, int]
) -> PricedOption:
    stored = parse_format(option.format).nbytes(layer.stored_shape)
    return PricedOption(
        option=option,
        nbytes=target.stored_nbytes(layer, option, stored),
        latency_ms=latencies.layers[layer.name].options_ms.get(option.name) if latencies else None,
        bops=layer_bops(layer, option, sizes),
        loss=0.0,
    )


class Pricing:
    """Stores weights and prices them; what several formats of one layer need is computed once, for a few layers.

    Layers may be priced side by side.

    Args:
        statistics: None without data.
        static: quantizations of values that integer layers read.
        measured: losses of a layer's options by running the model, in place of predicted ones.
        codes: keeps what was stored.
        run: the loss of another weight of a layer by running the model, for formats whose errors are not independent
            from row to row (:meth:`LayerPricer.runs`).
        beside: layer -> what rounding loses that no layer's input accounts for (:mod:`.rounding_beside`).
    """

    def __init__(
        self,
        statistics: Statistics | None,
        static: Mapping[Node, StaticQuantization],
        measured: Callable[[Layer, Sequence[Option]], Mapping[str, float]] | None = None,
        codes: CodeStore | None = None,
        run: Callable[[Layer, Tensor], float] | None = None,
        beside: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._statistics, self._static, self._measured, self._codes = statistics, static, measured, codes
        self._run, self._beside = run, beside
        self._pricers: dict[str, LayerPricer] = {}
        self._process = os.getpid()
        self._lock = Lock()

    def __call__(self, costed: LayerPrices) -> LayerPrices:
        """The losses of every option of a layer, beside what it costs; options that the weight refuses are gone."""
        layer = costed.layer
        options = [o.option for o in costed.options]
        measured = self._measured(layer, options) if self._measured else {}
        stored = sorted({(o.format, o.encoder) for o in options})
        integers = {(o.format, o.encoder) for o in options if o.arithmetic is Arithmetic.INT8_ROWS}
        pricer = self._pricer(layer)
        keep = partial(self._codes.put, layer.name) if self._codes is not None and pricer.is_final else None
        weights, refused = price_layer(pricer, stored, keep, integers)
        priced = tuple(
            _with_loss(o, weights[o.option.format, o.option.encoder], self._rounding(layer, o.option), measured)
            for o in costed.options
            if (o.option.format, o.option.encoder) in weights
        )
        return replace(costed, options=priced, refused=(*costed.refused, *refused.values()))

    def bounds(self, costed: LayerPrices) -> dict[str, float]:
        """Format -> what the weight cannot lose less than in it, where that is known without storing it."""
        if self._measured is not None:  # a loss that is run has no bound
            return {}
        pricer, formats = self._pricer(costed.layer), dict.fromkeys(o.option.format for o in costed.options)
        found = {text: pricer.bound(text) for text in formats}
        return {text: bound for text, bound in found.items() if bound is not None}

    def runs(self, layer: Layer, format_text: str) -> bool:
        """Whether storing a layer in a format is priced by running the model."""
        return self._measured is None and self._pricer(layer).runs(parse_format(format_text))

    def hoped_for(self, layer: Layer, option: PricedOption) -> PricedOption:
        """An option whose weight was never stored, with what its activation loses."""
        return replace(option, activation_loss=self._rounding(layer, option.option))

    def _rounding(self, layer: Layer, option: Option) -> float:
        """What the rounded values of an option lose."""
        beside = self._beside.get(layer.name, 0.0) if option.activation.is_static else 0.0
        return beside + _activation_loss(layer, option, self._known(layer), self._static)

    def _known(self, layer: Layer) -> LayerStatistics | None:
        return self._statistics.layers[layer.name] if self._statistics is not None else None

    def _pricer(self, layer: Layer) -> LayerPricer:
        with self._lock:
            if layer.name not in self._pricers:
                room = KEPT_NUMBERS if os.getpid() == self._process else 0  # a copy of this process is asked once
                while self._pricers and layer.numel + sum(p.layer.numel for p in self._pricers.values()) > room:
                    del self._pricers[next(iter(self._pricers))]
                self._pricers[layer.name] = self._made(layer)
            return self._pricers[layer.name]

    def _made(self, layer: Layer) -> LayerPricer:
        known = self._known(layer)
        run = self._run if self._measured is None else None
        return LayerPricer(layer, known.weight if known else None, partial(run, layer) if run else None, honest=True)


def _with_loss(
    costed: PricedOption, weight: WeightPrice, activation_loss: float, measured: Mapping[str, float]
) -> PricedOption:
    weight_loss = weight.loss_int8 if costed.option.arithmetic is Arithmetic.INT8_ROWS else weight.loss
    loss = measured.get(costed.option.name, weight_loss + activation_loss)
    return replace(costed, loss=loss, weight_loss=weight_loss, activation_loss=activation_loss)


def _activation_loss(
    layer: Layer, option: Option, known: LayerStatistics | None, static: Mapping[Node, StaticQuantization]
) -> float:
    if option.activation.is_none or known is None:
        return 0.0
    if option.activation.is_static:
        steps = [static[use.input].scale for use in layer.uses if use.input in static]
        return known.input_gradient * sum(s * s / 12.0 for s in steps)
    return known.activation_loss.get(option.activation.spelling, 0.0)


def original_price(layer: Layer, latencies: Latencies | None, sizes: Mapping[str, int]) -> PricedOption:
    """A layer as it is."""
    milliseconds = latencies.layers[layer.name].original_ms if latencies else None
    nbytes = layer.weight.tensor_type.nbytes()
    return PricedOption(KEPT, nbytes, milliseconds, layer.macs(sizes) * 32 * 32, 0.0)


def as_original(prices: LayerPrices) -> Decision:
    """The decision to leave a layer as it is."""
    layer = prices.layer
    return Decision(
        layer.name, layer.kind, layer.shape, prices.original, prices.original, (), prices.refused, prices.forced
    )


def static_quantizations(
    statistics: Statistics | None, values: Sequence[Node], method: str, percentile: float | None
) -> dict[Node, StaticQuantization]:
    """Scale and zero point of every value that static layers quantize."""
    if statistics is None:
        return {}
    found: dict[Node, StaticQuantization] = {}
    for value in values:
        parameters = _parameters(statistics, value, method, percentile)
        found[value] = StaticQuantization(parameters.scale, parameters.zero_point)
    return found


def _parameters(statistics: Statistics, value: Node, method: str, share: float | None):
    from ..passes.activations import percentile

    seen = statistics.ranges[value]
    if method == "percentile" and share is not None:
        return percentile(seen, share=share)
    return static_parameters(seen, method)


def dynamic_activations(options: Sequence[Option]) -> tuple[Activation, ...]:
    """The dynamic quantizations among options whose noise calibration must measure."""
    return tuple(dict.fromkeys(o.activation for o in options if o.activation.is_dynamic))
