"""The content of a report as plain JSON data. HTML and the terminal show this and nothing else."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from ..ir.errors import ParseError
from ..ir.options import PricedOption
from ..ir.plan import BudgetUse, Decision, Plan
from ..ir.plan_findings import SolverOutcome
from ..ir.resources import LATENCY
from ..passes.base import PassRecord
from ..passes.formats import format as parse_format
from ..targets.base import CheckResult
from . import reasons, statistics, summary, words
from .data import LossPair, ReportData, ShapeTime

REPORT_VERSION = 2
_WIDTH = re.compile(r"[a-z]+(\d+)(?![a-z\d])")


def content(data: ReportData) -> dict[str, Any]:
    """Everything a report shows. Strict JSON: NaN and infinities are null, unknown objects their text."""
    plan = data.plan
    shown = {
        "instar_report": REPORT_VERSION,
        "headline": headline(data),
        "summary": summary.summary(data),
        "warnings": summary.warnings(data),
        "notes": data.notes,
        "model": data.model,
        "budgets": budgets(plan),
        "shapes": shapes(data.shapes, plan.budgets),
        "solver": solver(plan.solver),
        "layers": layers(plan, data.layer_sqnr_db),
        "sqnr_words": f"SQNR: of each layer's output, on {data.sqnr_on}" if data.sqnr_on else "",
        "losses": losses(data.chosen_loss, data.random_plans),
        "pareto": data.pareto,
        "pareto_words": summary.neighbours(data.pareto, plan.sensitivity),
        "quality_search": data.quality_search,
        "checks": [check(c) for c in data.checks],
        "passes": [pass_record(p) for p in data.passes],
        "stages": data.stages,
        "skipped": data.skipped,
        "environment": environment(data),
        "settings": data.settings,
        "machine": data.machine,
        "confirmed": None,
    }
    return cast("dict[str, Any]", plain(shown))


def plain(value: object) -> Any:
    """Plain JSON data from dataclasses, mappings and sequences."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, Iterable):
        return [plain(v) for v in cast("Iterable[object]", value)]
    return str(value)


def headline(data: ReportData) -> dict[str, Any]:
    """The few numbers that matter most."""
    pair = data.chosen_loss
    return {
        "model": data.model.name,
        "target": data.plan.target,
        "original_nbytes": data.model.nbytes,
        "artifact_nbytes": data.artifact_nbytes,
        "size_share": share(data.artifact_nbytes, data.model.nbytes),
        "original_ms": data.original_ms,
        "predicted_ms": data.predicted_ms,
        "artifact_ms": data.artifact_ms,
        "latency_share": share(_first(data.artifact_ms, data.predicted_ms), data.original_ms),
        "predicted_loss": data.plan.predicted_loss,
        "predicted_error": statistics.root(pair.predicted) if pair else None,
        "measured_error": statistics.root(pair.measured) if pair else None,
        "quality_original": data.quality_original,
        "quality_final": data.quality_final,
        "latency_source": data.latency_source,
    }


def share(part: float | None, whole: float | None) -> float | None:
    """A part of a whole, None where one of them is missing or nothing."""
    return part / whole if part is not None and whole else None


def _first(*values: float | None) -> float | None:
    return next((v for v in values if v is not None), None)


def budgets(plan: Plan) -> list[dict[str, Any]]:
    """Budgets with their use in numbers and words."""
    total = plan.predicted_loss
    return [_budget(b, total) for b in plan.budgets]


def _budget(budget: BudgetUse, total_loss: float) -> dict[str, Any]:
    return {
        **dataclasses.asdict(budget),
        "key": budget.key,
        "binds": budget.shadow_price > 0,
        "slack": budget.limit - budget.used,
        "found": budget.found,
        "exceeded": budget.exceeded,
        "words": reasons.budget_words(budget, total_loss),
    }


def shapes(times: Iterable[ShapeTime], budgets: Iterable[BudgetUse]) -> list[dict[str, Any]]:
    """Latency at each shape, its share of the original's there, and the bound where every shape has one."""
    bounds = {b.shape: b for b in budgets if b.resource == LATENCY.name and b.shape}
    return [_shape(t, bounds.get(t.shape)) for t in times]


def _shape(time: ShapeTime, bound: BudgetUse | None) -> dict[str, Any]:
    return {
        **dataclasses.asdict(time),
        "ratio": share(_first(time.artifact_ms, time.predicted_ms), time.original_ms),
        "limit_ms": bound.limit if bound else None,
        "exceeded": bound.exceeded if bound else False,
    }


def solver(outcome: SolverOutcome | None) -> dict[str, Any]:
    """The proof in numbers and words."""
    numbers = dataclasses.asdict(outcome) if outcome else {}
    return {**numbers, "words": reasons.solver_words(outcome)}


def layers(plan: Plan, sqnr_db: Mapping[str, float]) -> list[dict[str, Any]]:
    """One entry per layer, in the order of the graph."""
    prices = reasons.shadow_prices(plan.budgets)
    total = plan.predicted_loss
    return [_layer(d, prices, total, sqnr_db.get(d.layer)) for d in plan.decisions]


def _layer(d: Decision, prices: Mapping[str, float], total_loss: float, sqnr_db: float | None) -> dict[str, Any]:
    why = reasons.reason(d, prices)
    return {
        "name": d.layer,
        "kind": d.kind,
        "shape": d.shape,
        **_priced(d.chosen),
        "original_nbytes": d.original.nbytes,
        "original_ms": d.original.latency_ms,
        "saved_ms": reasons.saved_ms(d),
        "bits": bits(d),
        "bits_per_weight": share(8 * d.chosen.nbytes, math.prod(d.shape)),
        "bits_words": bits_words(d),
        "loss_share": share(d.chosen.loss, total_loss),
        "sqnr_db": sqnr_db,
        "verdict": why.verdict,
        "cheaper": _neighbour(why.cheaper),
        "better": _neighbour(why.better),
        "alternatives": [_priced(o) for o in d.alternatives],
        "forced": d.forced,
        "refused": words.grouped(d.refused),
    }


def bits(decision: Decision) -> int:
    """Bits of a weight's code: as the format's name says, else what it takes per weight, rounded.

    >>> from instar.ir.options import Option
    >>> chosen = PricedOption(Option("int4:g64"), 0, None, 0, 0.0)
    >>> bits(Decision("fc", "linear", (8, 64), chosen, chosen))
    4
    """
    spelled = _WIDTH.match(decision.chosen.option.format)
    return int(spelled[1]) if spelled else round(8 * decision.chosen.nbytes / max(math.prod(decision.shape), 1))


def bits_words(decision: Decision) -> str:
    """What the bits of a weight are made of; empty for formats that were objects of one call, whose names are unknown.

    >>> from instar.ir.options import Option
    >>> chosen = PricedOption(Option("int4:g64"), 272, None, 0, 0.0)
    >>> bits_words(Decision("fc", "linear", (8, 64), chosen, chosen))
    '4 codes + 0.25 scale'
    """
    try:
        known = parse_format(decision.chosen.option.format)
    except ParseError:
        return ""
    if known.refuses(decision.shape) is not None or known.nbytes(decision.shape) != decision.chosen.nbytes:
        return ""  # a kernel stores it otherwise
    parts = known.bits_by_tensor(decision.shape)
    return " + ".join(f"{bits:.4g} {name}" for name, bits in parts.items())


def _priced(priced: PricedOption) -> dict[str, Any]:
    option = priced.option
    return {
        "option": option.name,
        "format": option.format,
        "encoder": option.encoder,
        "activation": option.activation.spelling,
        "kernel": option.kernel,
        "nbytes": priced.nbytes,
        "latency_ms": priced.latency_ms,
        "bops": priced.bops,
        "loss": priced.loss,
        "weight_loss": priced.weight_loss,
        "activation_loss": priced.activation_loss,
    }


def _neighbour(neighbour: reasons.Neighbour | None) -> dict[str, Any] | None:
    if neighbour is None:
        return None
    return {"option": neighbour.priced.option.name, "words": neighbour.text, "worth": neighbour.worth}


def losses(chosen: LossPair | None, random_plans: tuple[LossPair, ...]) -> dict[str, Any]:
    """Predicted against measured loss, and how well one follows the other over the random plans."""
    found = statistics.correlations([(p.predicted, p.measured) for p in random_plans])
    return {"chosen": chosen, "random": random_plans, **found, "words": summary.trust(chosen, found)}


def check(result: CheckResult) -> dict[str, Any]:
    """One comparison of the artifact with the graph."""
    return {**dataclasses.asdict(result), "passed": result.passed}


def pass_record(record: PassRecord) -> dict[str, Any]:
    """One pass; refusals as rule, node, place and reason."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "refused"}
    refused = [
        {"rule": r.rule, "node": r.node, "origin": str(r.origin), "reason": r.reason, "text": str(r)}
        for r in record.refused
    ]
    return {**fields, "refused": refused}


def environment(data: ReportData) -> dict[str, Any]:
    """What is needed to repeat the compilation."""
    plan = data.plan
    return {
        "target": plan.target,
        "target_options": plan.target_options,
        "sensitivity": plan.sensitivity,
        "sensitivity_words": reasons.loss_words(plan.sensitivity),
        "seed": plan.seed,
        "fingerprint": plan.fingerprint,
        "versions": plan.versions,
        "exact_passes": [p.name for p in plan.passes],
        "latency_source": data.latency_source,
        "calibration_batches": data.calibration_batches,
        "peak_memory_nbytes": data.peak_memory_nbytes,
    }
