"""Stage: a plan is improved where losses of layers do not add up, because their errors enforce or cancel each other.

The sum of losses expands the loss of the whole network around the float weights. Around a plan at hand it is, to second
order, with ``W_l`` the weights that the plan computes with and ``Q_l`` those of another option,

    loss = loss(plan) + sum_l <G_l, Q_l - W_l> + sum_l weighted_error(W_l, Q_l)

where ``G_l`` is the gradient of the measured loss with the whole plan in place, which knows about every other layer,
and the last term is the Kronecker-factored curvature that pricing uses (Martens and Grosse, arXiv 1503.05671). That is
an allocation problem again and is solved to optimality under the same budgets; its plan is measured, and taken only if
it loses less. The plan that the steps start from is the best of some that are no expansion (:mod:`.candidates`).
Curvature between layers is missing from the model, so that a step that fails is repeated with the last term doubled
(Levenberg and Marquardt's damping).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ir.budget import Budget
from ..ir.calibration.learned import LayerStatistics
from ..ir.evaluate import run
from ..ir.graph import Node
from ..ir.layers import Layer
from ..ir.options import PricedOption
from ..ir.plan import Decision, Plan
from ..ir.plan_findings import Refinement
from ..ir.statistics import WeightStatistics
from ..ir.threads import one_thread
from ..passes.apply_plan import ApplyPlan
from ..passes.objective import weighted_error
from ..passes.transforms.bias_correction import bias_of
from .allocation_stage import Allocation, budget_use, decide, predicted
from .bias_stage import correctable
from .candidates import candidates
from .measured_loss import MeasuredLoss, relative_loss
from .options_in_reach import matrix_of, near_options
from .prepared import Prepared
from .pricing_stage import LayerPrices

LEAST_GAIN = 1e-3
"""Share of the measured loss below which a smaller loss is no reason to change a plan."""


@dataclass(frozen=True)
class _Change:
    """What taking an option would change: to first order, to second without damping, and by its activations."""

    first: float
    second: float
    activation: float


Changes = Mapping[str, Mapping[str, _Change]]
"""Layer -> option -> change."""


def refine(
    prepared: Prepared, budget: Budget, plan: Plan, steps: int, limits: Mapping[str, float] | None = None
) -> Plan:
    """The plan after up to ``steps`` measured tries.

    Args:
        prepared: with statistics that come from gradients.
        budget: the names of what is limited.
        plan: with encodings.
        steps: plans to build and measure beyond the one at hand.
        limits: what plans may use by prediction, for every budget; None: what the plan at hand uses.
    """
    limits = limits or {n: v for n, v in predicted(plan.decisions, prepared.totals).items() if n in budget.limits}
    means = {} if prepared.statistics is None else prepared.statistics.mean_inputs
    measure = MeasuredLoss(prepared.graph, prepared.samples[1:], means)
    judge = _Judge(prepared, measure)
    start = judge(plan)
    best, least = _best_of(prepared, plan, start, candidates(prepared, budget, plan.decisions, limits), judge)
    damping = 1.0
    changes: Changes | None = None
    for _ in range(steps):
        if changes is None:
            with prepared.stages.time("refine"), one_thread():
                changes = _changes(prepared, best, measure)
        tried = prepared.plan(_allocate(prepared, budget, limits, changes, damping))
        if _options(tried) == _options(best):
            break
        found = judge(tried)
        if found.is_better_than(least) and found.fitted < least.fitted:
            best, least, changes = tried, found, None
        else:
            damping *= 2.0
    moved = sum(a != b for a, b in zip(_options(plan), _options(best), strict=True))
    return replace(best, solver=plan.solver, refinement=Refinement(moved, start.fitted, least.fitted))


@dataclass(frozen=True)
class _Score:
    """Losses of a plan on samples that its codes were fitted to, and on what was held out (0.0 without such)."""

    fitted: float
    held_out: float

    def is_better_than(self, other: _Score) -> bool:
        """Whether both together are smaller by more than nothing: a fit to few samples loses less on these alone."""
        return self.fitted + self.held_out < (other.fitted + other.held_out) * (1.0 - LEAST_GAIN)


class _Judge:
    """Measures plans on both."""

    def __init__(self, prepared: Prepared, measure: MeasuredLoss) -> None:
        held_out = prepared.known.held_out
        self._prepared, self._measure = prepared, measure
        self._elsewhere = None if held_out is None else MeasuredLoss(prepared.graph, [held_out])

    def __call__(self, plan: Plan) -> _Score:
        """The losses of a plan."""
        graph = self._prepared.unchecked(plan)
        with self._prepared.stages.time("refine"):
            elsewhere = 0.0 if self._elsewhere is None else self._elsewhere.of_graph(graph)
            return _Score(self._measure.of_graph(graph), elsewhere)


def _best_of(
    prepared: Prepared, plan: Plan, score: _Score, others: Iterator[Allocation], judge: _Judge
) -> tuple[Plan, _Score]:
    """The plan, or one of the others that measures better, with its losses."""
    best, least = plan, score
    seen = [_options(plan)]
    for allocation in others:
        tried = prepared.plan(allocation)
        if _options(tried) in seen:
            continue
        seen.append(_options(tried))
        found = judge(tried)
        if found.is_better_than(least):
            best, least = tried, found
    return best, least


def _options(plan: Plan) -> list[str]:
    return [d.chosen.option.name for d in plan.decisions]


def _allocate(
    prepared: Prepared, budget: Budget, limits: Mapping[str, float], changes: Changes, damping: float
) -> Allocation:
    """The optimum of the model of a step, with the prices that all plans have."""
    repriced = [_repriced(p, changes[p.layer.name], damping) for p in prepared.prices]
    found = prepared.allocate(budget, limits, repriced)
    chosen = [d.chosen.option.name for d in found.decisions]
    decisions = tuple(decide(p, name) for p, name in zip(prepared.prices, chosen, strict=True))
    shadow: dict[str, float] = dict.fromkeys(budget.limits, 0.0)
    asked = prepared.totals.limits(budget)
    return Allocation(decisions, found.outcome, budget_use(decisions, budget, asked, prepared.totals, shadow))


def _repriced(prices: LayerPrices, changes: Mapping[str, _Change], damping: float) -> LayerPrices:
    """The options of a step with the change of loss, counted from the smallest so that none is negative."""
    values = {name: c.first + damping * c.second + c.activation for name, c in changes.items()}
    least = min(values.values())
    near = [replace(o, loss=values[o.option.name] - least) for o in prices.options if o.option.name in values]
    return replace(prices, options=tuple(near))


# ------------------------------------------------------------------------------------------------ the model of a step
def _changes(prepared: Prepared, plan: Plan, measure: MeasuredLoss) -> Changes:
    gradients = gradients_of(prepared, plan, measure)
    found: dict[str, Mapping[str, _Change]] = {}
    for prices, decision in zip(prepared.prices, plan.decisions, strict=True):
        layer, known = prices.layer, _known(prepared, prices.layer.name).weight
        now, gradient = matrix_of(prepared, layer, decision.chosen), gradients.pop(layer.name)
        found[layer.name] = {
            o.option.name: _change(now, matrix_of(prepared, layer, o), gradient, known, decision.chosen, o)
            for o in near_options(prices, decision)
        }
    return found


def _change(
    now: Tensor,
    other: Tensor,
    gradient: Tensor,
    statistics: WeightStatistics | None,
    chosen: PricedOption,
    option: PricedOption,
) -> _Change:
    first = float((gradient.double() * (other.double() - now.double())).sum())
    return _Change(first, weighted_error(now, other, statistics), option.activation_loss - chosen.activation_loss)


def _known(prepared: Prepared, layer: str) -> LayerStatistics:
    assert prepared.statistics is not None  # refinement is refused without calibration data
    return prepared.statistics.layers[layer]


def gradients_of(prepared: Prepared, plan: Plan, measure: MeasuredLoss) -> dict[str, Tensor]:
    """Layer -> gradient ``[rows, columns]`` of the measured loss with respect to the weight, with the plan in place.

    A bias that is corrected moves along with the weight, by ``-(Q - W)_i m_i`` with the mean inputs ``m`` of
    :mod:`instar.ir.calibration.moments`.
    """
    leaves = {layer.weight: _leaf(prepared, layer, plan) for layer in prepared.layers}
    biases = _biases(prepared, plan)
    in_float = tuple(_with_float_weight(d) for d in plan.decisions)
    graph = ApplyPlan(in_float, {}, plan.static)(prepared.graph).graph
    given = leaves | dict(biases.values())

    def hook(node: Node, value: object, values: Mapping[Node, object]) -> object:
        del values
        return given.get(node, value)

    with torch.enable_grad():
        for inputs, reference in zip(measure.samples, measure.references, strict=True):
            (relative_loss(run(graph, inputs, hook), reference) / len(measure.samples)).backward()
    found = {layer.name: _as_matrix(layer, leaves[layer.weight].grad) for layer in prepared.layers}
    for name, (_, bias) in biases.items():
        mean = _known(prepared, name).mean_input
        if bias.grad is not None and mean is not None:
            found[name] -= bias.grad.float().unsqueeze(1) * mean
    return found


def _biases(prepared: Prepared, plan: Plan) -> dict[str, tuple[Node, Tensor]]:
    """Layer -> the constant that is its bias, and the bias under the plan, where plans correct it."""
    layers = correctable(prepared.graph, prepared.layers, prepared.pipeline.calibration.bias_correction)
    found: dict[str, tuple[Node, Tensor]] = {}
    for layer in layers:
        node = bias_of(layer, prepared.graph)
        if isinstance(node, Node):
            found[layer.name] = node, plan.biases.get(layer.name, node.handle.tensor).clone().requires_grad_(True)
    return found


def _with_float_weight(decision: Decision) -> Decision:
    """The decision with its activations alone: weights are put in by hand, to be differentiated."""
    return replace(decision, chosen=replace(decision.chosen, option=decision.chosen.option.with_own_weight()))


def _leaf(prepared: Prepared, layer: Layer, plan: Plan) -> Tensor:
    """The weight of a layer under the plan, in its own shape and dtype."""
    matrix = matrix_of(prepared, layer, plan.decision(layer.name).chosen)
    return layer.as_weight(matrix.detach()).clone().requires_grad_(True)


def _as_matrix(layer: Layer, gradient: Tensor | None) -> Tensor:
    """``[rows, columns]``; zeros where no output depends on the layer."""
    if gradient is None:
        return torch.zeros(layer.rows, layer.columns)
    return layer.as_matrix(gradient)
