"""A model that is captured, cleaned, calibrated and priced: every budget can be tried without measuring again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from ..config import Pipeline
from ..ir.budget import Budget
from ..ir.calibration.calibrator import Statistics
from ..ir.graph import Graph, Node
from ..ir.layers import Layer, Skipped
from ..ir.plan import Decision, Plan, StaticQuantization
from ..ir.text import node_names
from ..passes.apply_plan import ApplyPlan
from ..passes.base import Pass, PassRecord
from ..passes.bias_correction import FloatOutputs, float_outputs
from ..passes.pricing import LayerPricer
from ..passes.run import NumericCheck, run_passes
from ..passes.static_values import static_values
from ..targets.base import Artifact, Latencies, Target
from ..targets.legalize import legalize
from .allocation_stage import Allocation, Totals, allocate
from .bias_stage import correct_biases, correctable
from .memory import release_memory
from .plugins import pass_use, plugins_of
from .pricing_stage import LayerPrices
from .threads import one_thread

KnownCodes = Mapping[tuple[str, str], Mapping[str, Tensor]]
"""(Layer, option) -> stored tensors."""

Progress = Callable[[str, str], None]
"""Called with the stage and what it just did."""


def silent(stage: str, what: str) -> None:
    """Progress that nobody wants to see."""
    del stage, what


RELEASE_AFTER_S = 0.5
"""Seconds after which a stage may have left enough garbage to be worth the search for it."""


@dataclass
class Stages:
    """Wall seconds per stage, in order of first use; each is announced when it starts."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    progress: Progress = silent

    def teller(self, name: str) -> Callable[[str], None]:
        """What a stage calls with what it just did."""
        return lambda what: self.progress(name, what)

    @contextmanager
    def time(self, name: str) -> Generator[None]:
        """Add the time of the block to a stage."""
        self.progress(name, "")
        start = time.perf_counter()
        try:
            yield
        finally:
            if time.perf_counter() - start > RELEASE_AFTER_S:
                release_memory()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


CHECKED = 3
"""Samples on which an artifact is compared with its graph."""


@dataclass
class Prepared:
    """Everything that does not depend on the budget.

    Attributes:
        captured: the graph as captured.
        graph: after the exact passes.
        records: of the exact passes.
        layers: what can be decided about.
        skipped: weights that are no layers.
        prices: of every option of every layer.
        statistics: of calibration, None without data.
        static: quantization of values that static layers need.
        latencies: None where no latency was asked for.
        totals: fixed and original costs; ``fixed_nbytes`` is corrected after the first artifact.
        samples: flat inputs: the example call and a few calibration batches.
    """

    pipeline: Pipeline
    target: Target
    captured: Graph
    graph: Graph
    records: list[PassRecord]
    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    prices: tuple[LayerPrices, ...]
    statistics: Statistics | None
    static: Mapping[Node, StaticQuantization]
    latencies: Latencies | None
    totals: Totals
    samples: list[list[Tensor]]
    stages: Stages
    fingerprint: str
    versions: Mapping[str, str]
    exact: tuple[Pass, ...] = ()
    _float_outputs: FloatOutputs | None = field(default=None, init=False, repr=False)

    @property
    def example(self) -> list[Tensor]:
        """The flat inputs of the example call."""
        return self.samples[0]

    def allocate(
        self,
        budget: Budget,
        limits: Mapping[str, float] | None = None,
        prices: Sequence[LayerPrices] | None = None,
    ) -> Allocation:
        """The best decisions for a budget. See :func:`~instar.compilation.allocation_stage.allocate`."""
        search = self.pipeline.search
        with self.stages.time("allocate"):
            return allocate(
                self.prices if prices is None else prices,
                budget,
                self.totals,
                limits=limits,
                tie_shared_inputs="latency" in budget.limits,
                time_limit_s=search.time_limit_s,
                gap=search.gap,
                seed=self.pipeline.seed,
            )

    def plan(self, allocation: Allocation, known: KnownCodes | None = None) -> Plan:
        """A plan with its encoded weights and corrected biases; codes that are known are not chosen again."""
        with self.stages.time("encode"), one_thread():
            encodings = encode(self.layers, allocation.decisions, self.statistics, known or {})
        names = node_names(self.graph)
        plan = Plan(
            decisions=allocation.decisions,
            fingerprint=self.fingerprint,
            target=self.target.name,
            target_options=self.target.plan_options,
            static={names[n]: q for n, q in self._static_of(allocation.decisions).items()},
            budgets=allocation.budgets,
            solver=allocation.outcome,
            sensitivity=measure_name(self.pipeline, self.statistics),
            seed=self.pipeline.seed,
            versions=self.versions,
            passes=tuple(pass_use(p) for p in self.exact),
            plugins=plugins_of(self.exact, allocation.decisions, self.target.name),
            encodings=encodings,
        )
        return plan if self.statistics is None else self._correct(plan, self.statistics)

    def _correct(self, plan: Plan, statistics: Statistics) -> Plan:
        """Biases are corrected on calibration batches; the float network runs once for all plans."""
        layers = correctable(self.graph, self.layers, self.pipeline.calibration.bias_correction)
        if not layers:
            return plan
        with self.stages.time("correct biases"), one_thread():
            if self._float_outputs is None:
                self._float_outputs = float_outputs(
                    self.graph, layers, self.samples[1:], gradients=statistics.gradients, seed=self.pipeline.seed
                )
            return correct_biases(self.graph, self.layers, plan, self._float_outputs)

    def _static_of(self, decisions: Sequence[Decision]) -> dict[Node, StaticQuantization]:
        chosen = {d.layer for d in decisions if d.chosen.option.activation.is_static}
        layers = [layer for layer in self.layers if layer.name in chosen]
        return {n: self.static[n] for n in static_values(self.graph, layers)} if layers else {}

    def apply(self, plan: Plan, *, check: bool = True) -> tuple[Graph, list[PassRecord]]:
        """The graph with a plan in it, verified and compared with the graph before."""
        with self.stages.time("apply plan"):
            checking = NumericCheck(self.samples[:1]) if check else None
            passes = (ApplyPlan(plan.decisions, plan.encodings, plan.static, plan.biases),)
            return run_passes(self.graph, passes, checking)

    def build(self, graph: Graph, plan: Plan, *, check: bool = True) -> tuple[Artifact, list[PassRecord]]:
        """Bring a graph with a plan in it into the target's terms, and write it."""
        with self.stages.time("lower"):
            legal, records = legalize(self.target, graph, plan, self.samples[:1] if check else ())
            return self.target.build(legal, plan, self.samples), records

    def check(self, graph: Graph, artifact: Artifact) -> None:
        """Compare an artifact with its graph on the samples."""
        with self.stages.time("check"):
            artifact.check(graph, self.samples[:CHECKED])


def encode(
    layers: Sequence[Layer], decisions: Sequence[Decision], statistics: Statistics | None, known: KnownCodes
) -> dict[str, Mapping[str, Tensor]]:
    """Encoded weights of every layer that does not stay in float."""
    by_name = {layer.name: layer for layer in layers}
    encodings: dict[str, Mapping[str, Tensor]] = {}
    for decision in decisions:
        option = decision.chosen.option
        if (decision.layer, option.name) in known:
            encodings[decision.layer] = known[decision.layer, option.name]
        elif not option.keeps_weight:
            measured = statistics.layers[decision.layer].weight if statistics is not None else None
            pricer = LayerPricer(by_name[decision.layer], measured)
            encodings[decision.layer] = pricer.encode(option.format, option.encoder).tensors
    return encodings


def measure_name(pipeline: Pipeline, statistics: Statistics | None) -> str:
    """The loss measure in words that go into plan and report."""
    if statistics is None:
        return "weight_error"
    chosen = pipeline.calibration.sensitivity
    if chosen == "auto":
        return "fisher" if statistics.gradients else "output_error"
    return chosen
