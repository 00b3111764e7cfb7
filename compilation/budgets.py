"""Stage: decide under the budgets, build, measure the artifact, and tighten where a prediction was too optimistic."""

from __future__ import annotations

from dataclasses import replace

from ..ir.budget import Budget
from ..ir.errors import InfeasibleError
from ..ir.graph import Graph
from ..ir.plan import Plan
from ..passes.base import PassRecord
from ..targets.base import Artifact
from .allocation_stage import Allocation, SolverOutcome, budget_limits, predicted
from .entry import Request
from .prepared import Prepared

ROUNDS = 4
"""How often the artifact is built before a budget that is still missed becomes an error."""

LATENCY_SLACK = 1.03
"""Two measurements of the same latency differ by a few percent: a miss below that is none."""

LATENCY_MARGIN = 0.002
"""Share of a latency budget that is given up on top of what a prediction was short of."""

Built = tuple[Plan, Graph, Artifact, list[PassRecord], dict[str, float]]


def meet_budgets(request: Request, prepared: Prepared) -> Built:
    """Decide, apply and build until the artifact itself meets every budget.

    Raises:
        InfeasibleError: no plan meets the budgets, or the artifact misses one after all rounds.
    """
    if request.budget is None:
        return build_plan(prepared, prepared.plan(all_float(prepared)))
    return _rounds(prepared, request.budget)


def _rounds(prepared: Prepared, budget: Budget) -> Built:
    asked = budget_limits(budget, prepared.totals)
    limits = dict(asked)
    missed: dict[str, float] = {}
    for _ in range(ROUNDS):
        try:
            allocation = prepared.allocate(budget, limits)
        except InfeasibleError as error:
            if "latency" in missed and "latency" in error.smallest:
                limits["latency"] = max(error.smallest["latency"] * (1.0 + LATENCY_MARGIN), limits["latency"])
                allocation = prepared.allocate(budget, limits)
            else:
                return _fewest_bytes(prepared, budget, limits, asked, error)
        built = build_plan(prepared, prepared.plan(allocation))
        missed = _missed(built[4], asked)
        if not missed:
            return _measured(built)
        limits = _tightened(limits, asked, built, predicted(allocation.decisions, prepared.totals))
    details = ", ".join(f"{name}: limit {asked[name]:.6g}, measured {value:.6g}" for name, value in missed.items())
    raise InfeasibleError(
        f"budgets: after {ROUNDS} tries the built model still misses {details}; raise the budget, or measure on "
        "a quieter machine"
    )


def _fewest_bytes(
    prepared: Prepared, budget: Budget, limits: dict[str, float], asked: dict[str, float], error: InfeasibleError
) -> Built:
    """Build the smallest plan: the last resort of a size budget, and the exact number where even that is too large.

    Raises:
        InfeasibleError: with the bytes that the smallest artifact really takes.
    """
    if "size" not in error.smallest:
        raise error
    try:
        allocation = prepared.allocate(budget, limits | {"size": error.smallest["size"]})
    except InfeasibleError:
        raise error from None
    built = build_plan(prepared, prepared.plan(allocation))
    if not _missed(built[4], asked):
        return _measured(built)
    more = built[2].nbytes - int(predicted(allocation.decisions, prepared.totals)["size"])
    prepared.totals = replace(prepared.totals, fixed_nbytes=prepared.totals.fixed_nbytes + more)
    prepared.allocate(budget)
    raise error


def build_plan(prepared: Prepared, plan: Plan) -> Built:
    """Apply a plan, lower the graph and measure what has a budget."""
    graph, records = prepared.apply(plan)
    artifact = prepared.build(graph, plan)
    measured = {"size": float(artifact.nbytes)}
    if prepared.latencies is not None:
        with prepared.stages.time("measure latency"):
            measured["latency"] = prepared.target.latency_ms(artifact, prepared.example)
    return plan, graph, artifact, records, measured


def _missed(measured: dict[str, float], asked: dict[str, float]) -> dict[str, float]:
    slack = {"size": 1.0, "latency": LATENCY_SLACK}
    return {n: v for n, v in measured.items() if n in asked and v > asked[n] * slack[n]}


def _tightened(
    limits: dict[str, float], asked: dict[str, float], built: Built, expected: dict[str, float]
) -> dict[str, float]:
    """Bytes: subtract what the prediction was short of. Latency: scale, since whole runs get faster or slower."""
    result = dict(limits)
    for name, value in built[4].items():
        if name in asked and value > asked[name]:
            if name == "latency":
                result[name] = min(limits[name], expected[name]) * (asked[name] / value) * (1.0 - LATENCY_MARGIN)
            else:
                result[name] = min(limits[name], asked[name] - (value - expected[name]))
    return result


def _measured(built: Built) -> Built:
    plan, graph, artifact, records, measured = built
    uses = tuple(replace(u, measured=measured.get(u.resource)) for u in plan.budgets)
    return replace(plan, budgets=uses), graph, artifact, records, measured


def all_float(prepared: Prepared) -> Allocation:
    """Every layer as it is."""
    from .pricing_stage import as_original

    decisions = tuple(as_original(p) for p in prepared.prices)
    return Allocation(
        decisions, SolverOutcome("optimal", 0.0, 0.0, 0.0, 0.0, "none: no budget", prepared.pipeline.seed), ()
    )
