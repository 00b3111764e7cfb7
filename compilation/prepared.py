"""A model that is captured, cleaned, calibrated and priced: every budget can be tried without measuring again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ..config import Pipeline
from ..ir.budget import Budget
from ..ir.calibration.learned import Statistics
from ..ir.graph import Graph, Node
from ..ir.layers import Layer
from ..ir.plan import Decision, Plan, StaticQuantization
from ..ir.plan_findings import InOrder
from ..ir.processes import in_processes
from ..ir.text import node_names
from ..ir.threads import one_thread
from ..passes.pricing import LayerPricer
from ..passes.static_values import static_values
from ..passes.transforms.bias_correction import FloatOutputs, float_outputs
from ..schedulers.allocation import Pair
from ..targets.base import Latencies
from .allocation_stage import Allocation, allocate, allocate_greedily, decide
from .bias_stage import correct_biases, correctable
from .building import apply
from .calibration_stage import Known
from .codes import CodeStore
from .costs import Totals
from .entry import Request
from .ladder import Ladder, numbers
from .measured_loss import MeasuredLoss
from .offer import Offer
from .plugins import pass_use, plugins_of
from .pricing_stage import LayerPrices
from .sequential_stage import in_order
from .stages import Stages
from .workloads import Measured

CLIMBS = 24
"""Rounds in which options that were never stored are priced for one decision, before it is made without the others."""

ENOUGH_TO_ENCODE = 6_000_000
"""Weights from which on it pays to encode in two processes."""


@dataclass(frozen=True)
class Prepared:
    """Everything that does not depend on the budget.

    Attributes:
        offer: the model, and what each layer may become.
        known: what the calibration data says.
        latencies: None where no latency was asked for.
        ladder: the prices of every layer's options, those that were never stored among them.
        totals: fixed and original costs.
        codes: of the options that were priced; None where there was nothing to decide.
        timed: the latencies at every shape, with what measured them.
        free: the prices with those of the options that ``kernels`` leaves out; None where nobody asks for them.
    """

    offer: Offer
    known: Known
    latencies: Latencies | None
    ladder: Ladder
    totals: Totals
    codes: CodeStore | None
    timed: tuple[Measured, ...] = ()
    free: Ladder | None = None

    @property
    def prices(self) -> tuple[LayerPrices, ...]:
        """Of every layer, the options that were stored so far."""
        return self.ladder.prices

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.offer.request

    @property
    def pipeline(self) -> Pipeline:
        """The settings."""
        return self.request.pipeline

    @property
    def stages(self) -> Stages:
        """The clock."""
        return self.request.stages

    @property
    def captured(self) -> Graph:
        """The graph as captured."""
        return self.request.captured

    @property
    def graph(self) -> Graph:
        """The graph after the exact passes."""
        return self.offer.cleaned.graph

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What can be decided about."""
        return self.offer.cleaned.layers

    @property
    def statistics(self) -> Statistics | None:
        """Of calibration, None without data."""
        return self.known.statistics

    @property
    def samples(self) -> list[list[Tensor]]:
        """Flat inputs: the example call and a few calibration batches."""
        return self.known.samples

    @property
    def fitting(self) -> list[list[Tensor]]:
        """The samples that plans are measured on: calibration batches where there are any."""
        return self.samples[1:] or self.samples

    def allocate(
        self,
        budget: Budget,
        limits: Mapping[str, float] | None = None,
        prices: Sequence[LayerPrices] | None = None,
        *,
        pairs: Sequence[Pair] = (),
        work_limit: float = math.inf,
    ) -> Allocation:
        """The best decisions for a budget. See :func:`~instar.compilation.allocation_stage.allocate`.

        Options that were never stored are priced as soon as they would be taken, unless ``prices`` are given,
        which ``pairs`` go with. Where some of the others have estimates in place of bounds, the bound is that of the
        problem in which they lose nothing.
        """
        if prices is not None or not self.ladder.waits:
            return self._solve(budget, limits, self.prices if prices is None else prices, pairs, work_limit)
        found = self._climbed(budget, limits)
        if not self.ladder.estimates:
            return found
        return found.bounded_by(self._solve(budget, limits, self.ladder.proven).outcome.bound)

    def _climbed(self, budget: Budget, limits: Mapping[str, float] | None) -> Allocation:
        """The optimum of what is known or hoped for, once all that it takes is known."""
        hoped = self._solve(budget, limits, self.ladder.hopeful)
        for _ in range(CLIMBS):
            with self.stages.time("price"):
                if not self.ladder.climb({d.layer: d.chosen.option.name for d in hoped.decisions}):
                    pairs = zip(self.prices, hoped.decisions, strict=True)
                    return replace(hoped, decisions=tuple(decide(p, d.chosen.option.name) for p, d in pairs))
            hoped = self._solve(budget, limits, self.ladder.hopeful)
        return self._solve(budget, limits, self.prices).bounded_by(hoped.outcome.bound)

    def greedy(self, budget: Budget, limits: Mapping[str, float] | None = None) -> Allocation | None:
        """The decisions by best saved loss per share of the budgets; None where these end up outside of one."""
        with self.stages.time("allocate"):
            shared = "latency" in budget.limits
            return allocate_greedily(self.prices, budget, self.totals, limits=limits, tie_shared_inputs=shared)

    def _solve(
        self,
        budget: Budget,
        limits: Mapping[str, float] | None,
        prices: Sequence[LayerPrices],
        pairs: Sequence[Pair] = (),
        work_limit: float = math.inf,
    ) -> Allocation:
        search = self.pipeline.search
        with self.stages.time("allocate"):
            return allocate(
                prices,
                budget,
                self.totals,
                limits=limits,
                tie_shared_inputs="latency" in budget.limits,
                time_limit_s=search.time_limit_s,
                gap=search.gap,
                seed=self.pipeline.seed,
                work_limit=work_limit,
                pairs=pairs,
            )

    def plan(self, allocation: Allocation) -> Plan:
        """A plan with its encoded weights and corrected biases; codes are those that were priced."""
        request = self.request
        with self.stages.time("encode"):
            encodings = self._encodings(allocation.decisions)
        names = node_names(self.graph)
        plan = Plan(
            decisions=allocation.decisions,
            fingerprint=request.fingerprint,
            target=request.target.name,
            target_options=request.target.plan_options,
            static={names[n]: q for n, q in self._static_of(allocation.decisions).items()},
            budgets=allocation.budgets,
            solver=allocation.outcome,
            sensitivity=measure_name(self.pipeline, self.statistics),
            seed=self.pipeline.seed,
            versions=request.versions,
            passes=tuple(pass_use(p) for p in request.exact),
            plugins=plugins_of(request.exact, allocation.decisions, request.target.name, request.transforms),
            transforms=tuple(t.use for t in self.offer.cleaned.transforms),
            transformed=tuple(t.found for t in self.offer.cleaned.transforms),
            encodings=encodings,
        )
        return plan if self.statistics is None else self._correct(self._in_order(plan))

    def _encodings(self, decisions: Sequence[Decision]) -> dict[str, Mapping[str, Tensor]]:
        """Encoded weights of every layer that does not stay in float."""
        chosen = {layer.name: d.chosen.option for d, layer in zip(decisions, self.layers, strict=True)}
        stored = [layer for layer in self.layers if not chosen[layer.name].keeps_weight]

        def encoded(layer: Layer) -> Mapping[str, Tensor]:
            return self.encoded(layer, chosen[layer.name].format, chosen[layer.name].encoder)

        if self.codes is not None:  # where processes leave what they choose
            codes = self.codes
            new = [m for m in stored if not codes.has(m.name, chosen[m.name].format, chosen[m.name].encoder)]
            for _ in in_processes(lambda layer: len(encoded(layer)), new, numbers, ENOUGH_TO_ENCODE):
                pass
        return {layer.name: encoded(layer) for layer in stored}

    def encoded(self, layer: Layer, format_text: str, encoder: str) -> Mapping[str, Tensor]:
        """The stored tensors of a layer in a format, fitted to all data; chosen now where pricing did not."""
        kept = self.codes.get(layer.name, format_text, encoder) if self.codes is not None else None
        if kept is None:
            kept = self._pricer(layer).encode(format_text, encoder).tensors
            if self.codes is not None:
                self.codes.put(layer.name, format_text, encoder, kept)
        return kept

    def _pricer(self, layer: Layer) -> LayerPricer:
        """Of the layer that was asked for last: its factored second moment serves all of its formats."""
        found = self._last.get(layer.name)
        if found is None:
            known = self.statistics.layers[layer.name].weight if self.statistics is not None else None
            found = LayerPricer(layer, known)
            self._last.clear()
            self._last[layer.name] = found
        return found

    @cached_property
    def _last(self) -> dict[str, LayerPricer]:
        return {}

    def _in_order(self, plan: Plan) -> Plan:
        """Codes in the order of the network, where that was asked for and measures better."""
        if not self.pipeline.calibration.sequential or self.statistics is None:
            return plan
        with self.stages.time("encode in order"), one_thread():
            rows = {name: known.weight.row_weight for name, known in self.statistics.layers.items()}
            ordered = in_order(self.graph, self.layers, plan, self.fitting, self.known.static, rows)
            before, after = (self._measure.of_graph(self.unchecked(p)) for p in (plan, ordered))
        kept = after < before
        return replace(ordered if kept else plan, in_order=InOrder(kept, before, after))

    @cached_property
    def _measure(self) -> MeasuredLoss:
        return MeasuredLoss(self.graph, self.fitting)

    def _correct(self, plan: Plan) -> Plan:
        """Biases are corrected on calibration batches."""
        if not self._correctable:
            return plan
        with self.stages.time("correct biases"), one_thread():
            return correct_biases(self.graph, self.layers, plan, self._float_outputs)

    @property
    def _correctable(self) -> tuple[Layer, ...]:
        return correctable(self.graph, self.layers, self.pipeline.calibration.bias_correction)

    @cached_property
    def _float_outputs(self) -> FloatOutputs:
        """The float network runs once for all plans."""
        gradients = self.statistics is not None and self.statistics.gradients
        return float_outputs(
            self.graph, self._correctable, self.samples[1:], gradients=gradients, seed=self.pipeline.seed
        )

    def _static_of(self, decisions: Sequence[Decision]) -> dict[Node, StaticQuantization]:
        chosen = {d.layer for d in decisions if d.chosen.option.activation.is_static}
        layers = [layer for layer in self.layers if layer.name in chosen]
        return {n: self.known.static[n] for n in static_values(self.graph, layers)} if layers else {}

    def unchecked(self, plan: Plan) -> Graph:
        """The graph with a plan in it, for plans that are measured and not delivered."""
        return apply(self.offer.cleaned, plan, check=False)[0]


def measure_name(pipeline: Pipeline, statistics: Statistics | None) -> str:
    """The loss measure in words that go into plan and report."""
    if statistics is None:
        return "weight_error"
    chosen = pipeline.calibration.sensitivity
    if chosen == "auto":
        return "fisher" if statistics.gradients else "output_error"
    return chosen
