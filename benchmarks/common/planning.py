"""Plans outside the compiler: uniform, greedy and random ones, built and measured like the solver's."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from instar.compilation.allocation_stage import Allocation, decide, problem
from instar.compilation.compiled import AsModel
from instar.compilation.entry import start
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.compilation.pricing_stage import LayerPrices
from instar.compilation.refinement import refine
from instar.ir.budget import Budget
from instar.ir.constants import ConstantHandle
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph
from instar.ir.op import CONSTANT
from instar.ir.options import PricedOption
from instar.ir.plan import Decision
from instar.ir.plan_findings import SolverOutcome
from instar.passes.rewrite import substitute
from instar.schedulers.allocation import AllocationProblem, greedy_promote, greedy_ratio

from .networks import Networks, drop
from .store import Row

FORMATS = (
    "int2:g64", "int2:g32", "int3:g128", "int3:g32", "int4:channel", "int4:g128", "int4:g32",
    "int5:g128", "int6:g128", "int8:channel",
)  # fmt: skip
"""All formats of the benchmark, smallest first; only weights are quantized."""

REFINE = 4
"""Whole plans that are measured for a refined one."""

Assignment = Mapping[str, str]
"""Layer -> format."""


def prepare_network(
    networks: Networks,
    name: str,
    *,
    calibrated: bool = True,
    sensitivity: str = "auto",
    formats: Sequence[str] = FORMATS,
    target: str = "torch",
    encoders: Sequence[str] | None = None,
) -> Prepared:
    """Capture, clean, calibrate and price a network, weights only."""
    calibration = networks.calibration(name) if calibrated else None
    request = start(
        networks.model(name), networks.captured_with(name), None, networks.dynamic_shapes(name), None,
        {
            "target": target, "budget": {"size": "50%"}, "formats": tuple(formats), "activations": ("none",),
            "encoders": encoders,
            "calibration": {"sensitivity": sensitivity},
            "search": {"refine": REFINE if calibrated and sensitivity == "auto" else 0},
        },
        calibration=calibration,
    )  # fmt: skip
    prepared = prepare(request, calibration=calibration, budget=request.budget)
    gc.freeze()  # what lives as long as all plans is left out of the searches for garbage after every stage
    return prepared


def by_format(prices: LayerPrices) -> dict[str, PricedOption]:
    """The options of a layer by their format."""
    return {o.option.format: o for o in prices.options}


def weights(prepared: Prepared) -> int:
    """Number of weights in all layers."""
    return sum(p.layer.numel for p in prepared.prices)


def nbytes_of(prepared: Prepared, assignment: Assignment) -> int:
    """Bytes of all layers' stored weights."""
    return sum(by_format(p)[assignment[p.layer.name]].nbytes for p in prepared.prices)


def predicted_loss(prices: Sequence[LayerPrices], assignment: Assignment) -> float:
    """The sum of the layers' predicted losses."""
    return math.fsum(by_format(p)[assignment[p.layer.name]].loss for p in prices)


def uniform(prepared: Prepared, format_text: str) -> Assignment:
    """One format everywhere; a layer that refuses it takes the next wider one that it accepts."""
    order = FORMATS[FORMATS.index(format_text) :]
    return {p.layer.name: next(f for f in order if f in by_format(p)) for p in prepared.prices}


def optimal(prepared: Prepared, nbytes: int) -> Assignment:
    """Instar's own decisions at a number of bytes."""
    allocation = prepared.allocate(Budget(size=nbytes + prepared.totals.fixed_nbytes))
    return {d.layer: d.chosen.option.format for d in allocation.decisions}


def refined(prepared: Prepared, nbytes: int, steps: int = REFINE) -> Assignment:
    """Instar's own decisions after measuring whole plans."""
    budget = Budget(size=nbytes + prepared.totals.fixed_nbytes)
    limits = prepared.totals.limits(budget)
    plan = refine(prepared, budget, prepared.plan(prepared.allocate(budget)), steps, limits)
    return {d.layer: d.chosen.option.format for d in plan.decisions}


def greedy_plans(
    prepared: Prepared, by_weight: Mapping[str, Mapping[str, float]], nbytes: int
) -> dict[str, Assignment]:
    """Greedy schemes at a number of bytes, with instar's own prices and with plain weight errors."""
    found: dict[str, Assignment] = {}
    own = _problem(prepared, prepared.prices, nbytes)
    plain = _problem(prepared, _with_losses(prepared.prices, by_weight), nbytes)
    schemes: Mapping[str, tuple[Callable[[AllocationProblem], dict[str, str] | None], AllocationProblem]] = {
        "greedy by ratio": (greedy_ratio, own),
        "greedy by promotion": (greedy_promote, own),
        "greedy by weight error": (greedy_ratio, plain),
    }
    for label, (scheme, given) in schemes.items():
        chosen = scheme(given)
        if chosen is not None:
            found[label] = {p.layer.name: _format_named(p, chosen[p.layer.name]) for p in prepared.prices}
    return found


def _problem(prepared: Prepared, prices: Sequence[LayerPrices], nbytes: int) -> AllocationProblem:
    return problem(prices, {"size": nbytes + prepared.totals.fixed_nbytes}, prepared.totals, ())


def _with_losses(prices: Sequence[LayerPrices], losses: Mapping[str, Mapping[str, float]]) -> list[LayerPrices]:
    return [
        replace(p, options=tuple(replace(o, loss=losses[p.layer.name][o.option.format]) for o in p.options))
        for p in prices
    ]


def losses_by_format(prepared: Prepared) -> dict[str, dict[str, float]]:
    """Layer -> format -> predicted loss."""
    return {p.layer.name: {f: o.loss for f, o in by_format(p).items()} for p in prepared.prices}


def _format_named(prices: LayerPrices, name: str) -> str:
    return next(o.option.format for o in prices.options if o.option.name == name)


def build(prepared: Prepared, assignment: Assignment) -> Graph:
    """The graph of a plan, weights stored encoded and decoded once."""
    decisions: tuple[Decision, ...] = tuple(
        decide(p, by_format(p)[assignment[p.layer.name]].option.name) for p in prepared.prices
    )
    outcome = SolverOutcome("given", 0.0, 0.0, 0.0, "none", 0)
    plan = prepared.plan(Allocation(decisions, outcome, ()))
    return decoded(prepared.unchecked(plan))


def decoded(graph: Graph) -> Graph:
    """The graph with every stored weight replaced by its value."""
    dequantized = (n for n in graph.nodes() if n.op.name.startswith("instar.dequantize"))
    stored = [n for n in dequantized if all(source.op is CONSTANT for source in n.inputs)]
    with torch.no_grad():
        values = evaluate(graph.context.graph((), tuple(stored)), [])
    constants = {
        node: graph.context.constant_of(ConstantHandle.of(f"decoded.{number}", value, "derived"))
        for number, (node, value) in enumerate(zip(stored, values, strict=True))
    }
    return substitute(graph, constants)


@dataclass
class Measured:
    """Measures plans of one network; a plan is measured once."""

    networks: Networks
    name: str
    prepared: Prepared
    original: float
    known: dict[tuple[tuple[str, str], ...], Row] = field(default_factory=dict[tuple[tuple[str, str], ...], Row])

    def __call__(self, assignment: Assignment) -> Row:
        """Bytes, bits per weight, predicted loss, output error and metric on evaluation data."""
        key = tuple(sorted(assignment.items()))
        if key not in self.known:
            self.known[key] = self._measure(assignment)
        return self.known[key]

    def _measure(self, assignment: Assignment) -> Row:
        graph = build(self.prepared, assignment)

        def run(flat: Sequence[Any]) -> list[Any]:
            with torch.no_grad():
                return list(evaluate(graph, flat))

        model = AsModel(run, self.prepared.captured)
        size = nbytes_of(self.prepared, assignment)
        metric = self.networks.metric(self.name, model)
        return {
            "nbytes": size,
            "bits": 8 * size / weights(self.prepared),
            "predicted": predicted_loss(self.prepared.prices, assignment),
            "error": self.networks.fidelity(self.name, model),
            "metric": metric,
            "drop": drop(self.name, self.original, metric),
        }
