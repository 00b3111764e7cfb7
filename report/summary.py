"""The report's paragraph of plain words and its warnings."""

from __future__ import annotations

import math
import statistics as math_statistics
from collections.abc import Iterator, Mapping, Sequence

from ..ir.options import AS_IT_WAS
from ..ir.plan import Decision, TransformUse
from ..ir.plan_findings import BiasCorrection, InOrder, KernelCost, Refinement
from . import reasons, statistics, words
from .data import LossPair, ParetoPoint, ReportData

LISTED = 4
"""Formats that the paragraph names; the layers of the others are counted together."""


NEAR_BELOW, NEAR_ABOVE = 0.98, 1.02
"""Best plans within so much of the chosen plan's bytes are no alternatives to it."""


def summary(data: ReportData) -> str:
    """One paragraph for someone who reads nothing else."""
    plan = data.plan
    found = (
        refinement(plan.refinement),
        in_order(plan.in_order),
        kernel_cost(plan.kernel_cost),
        transforms(plan.transforms),
        corrections(plan.corrections),
    )
    parts = (_size(data), _latency(data), _layers(plan.decisions), *found, _error(data), _quality(data), _proof(data))
    return " ".join(part for part in parts if part)


def _size(data: ReportData) -> str:
    model = data.model
    text = f"{model.name} ({words.count(model.parameters)} parameters) went from {words.size(model.nbytes)} to "
    text += words.size(data.artifact_nbytes)
    return f"{text}, {words.percent(data.artifact_nbytes / model.nbytes)} of it." if model.nbytes else f"{text}."


def _latency(data: ReportData) -> str:
    after = data.artifact_ms if data.artifact_ms is not None else data.predicted_ms
    if data.original_ms is None or after is None:
        return "Latency was not measured." if data.original_ms is None and after is None else ""
    how = "takes" if data.artifact_ms is not None else "is predicted to take"
    share = f" ({words.percent(after / data.original_ms)})" if data.original_ms else ""
    return f"One run {how} {words.milliseconds(after)} instead of {words.milliseconds(data.original_ms)}{share}."


def _layers(decisions: tuple[Decision, ...]) -> str:
    if not decisions:
        return "The model has no layer that could be stored in another format."
    used = reasons.formats_used(decisions)
    total = words.plural(len(decisions), "layer")
    if len(used) == 1:
        name = next(iter(used))
        return f"{'Its' if len(decisions) == 1 else 'All'} {total} {_verb(len(decisions), name)}."
    shown = len(used) if len(used) <= LISTED + 1 else LISTED
    top = [f"{n:,} {_verb(n, name)}" for name, n in list(used.items())[:shown]]
    rest = sum(list(used.values())[shown:])
    return f"Of {total}, {words.listing([*top, f'{rest:,} took another format'] if rest else top)}."


def refinement(found: Refinement | None) -> str:
    """What measuring whole plans changed; empty where that was not asked for."""
    if found is None:
        return ""
    if not found.changed:
        return "Measuring whole plans found none better than the optimum of the predicted losses."
    return (
        f"Against the optimum of the predicted losses {words.plural(found.changed, 'layer')} were changed, because "
        f"whole plans were measured: on calibration data the loss fell from {words.loss(found.before)} to "
        f"{words.loss(found.after)}."
    )


def in_order(found: InOrder | None) -> str:
    """What choosing codes in the order of the network changed; empty where that was not asked for."""
    if found is None:
        return ""
    if not found.kept:
        return "Codes that were chosen in the order of the network measured no better than those of single layers."
    return (
        "Codes were chosen in the order of the network: on calibration data the loss fell from "
        f"{words.loss(found.before)} to {words.loss(found.after)}."
    )


def kernel_cost(found: KernelCost | None) -> str:
    """What a restriction to some kernels costs; empty where that was not asked for."""
    if found is None:
        return ""
    text = f"kernels = {', '.join(found.kernels)} costs {_more(found)}"
    if found.resource:
        least, free = (words.amount(found.resource, v) for v in (found.least, found.free_least))
        text += f"; the least {found.resource} is predicted as {least}, with all kernels as {free}"
    return f"{text}." if found.proven else f"{text} (not proven: a solver stopped before)."


def _more(found: KernelCost) -> str:
    if found.loss <= found.free_loss:
        return "no predicted loss: all kernels of the target allow no less"
    share = f"{words.percent(found.loss / found.free_loss - 1.0)} more predicted loss: " if found.free_loss else ""
    return (
        f"{share}{words.loss(found.loss)} instead of {words.loss(found.free_loss)} with all kernels of the target, "
        f"where {words.plural(found.layers, 'layer')} would take one that was left out"
    )


def transforms(used: Sequence[TransformUse]) -> str:
    """What every transform did before weights were encoded; empty for none."""
    return " ".join(_transform(use) for use in used)


def _transform(use: TransformUse) -> str:
    if not use.sites:
        return f"The transform {use.name} found no place where it helps."
    before, after = (sum(site.get(key, 0.0) for site in use.sites.values()) for key in ("before", "after"))
    text = f"The transform {use.name} was applied in {words.plural(len(use.sites), 'place')}"
    return f"{text}; there the predicted loss fell to {words.percent(after / before)}." if before else f"{text}."


def corrections(found: Mapping[str, BiasCorrection]) -> str:
    """How many biases were corrected and how large the shift was; empty for none."""
    if not found:
        return ""
    largest = max(found, key=lambda name: found[name].shift)
    size, median = found[largest].shift, math_statistics.median(c.shift for c in found.values())
    if len(found) == 1:
        return f"The bias of {largest} was corrected: the mean of its output had moved by {words.percent(size)}."
    return (
        f"{words.plural(len(found), 'bias')} were corrected: the means of outputs had moved by "
        f"{words.percent(median)} (median), at most {words.percent(size)} in {largest}."
    )


def _verb(number: int, name: str) -> str:
    if name == AS_IT_WAS:
        return "stays as it was" if number == 1 else "stay as they were"
    return f"became {name}"


def _error(data: ReportData) -> str:
    pair = data.chosen_loss
    if pair is None:
        return "Without calibration data the error of the output was not measured."
    if not math.isfinite(pair.measured):
        return ""
    measured, predicted = statistics.root(pair.measured), statistics.root(pair.predicted)
    where = "On calibration data that was held out" if data.held_out else "On calibration data that the codes saw"
    return (
        f"{where} the output differs from the original's by {words.percent(measured)} "
        f"(relative error; {words.percent(predicted)} was predicted)."
    )


def _quality(data: ReportData) -> str:
    if data.quality_final is None:
        return ""
    final = words.figures(data.quality_final, 4)
    if data.quality_original is None:
        return f"Your metric is {final}."
    return f"Your metric went from {words.figures(data.quality_original, 4)} to {final}."


def _proof(data: ReportData) -> str:
    if data.plan.solver is None:
        return ""
    proven = data.plan.solver.status == "optimal"
    claim = (
        "no other choice that meets the budgets has a lower predicted loss" if proven else "optimality is not proven"
    )
    if not data.plan.budgets:
        return f"No budget was given; {claim}."
    return f"{reasons.binding_words(data.plan)}; {claim}."


def neighbours(points: tuple[ParetoPoint, ...], sensitivity: str) -> str:
    """What the next smaller and the next larger of the best plans would give, beside the chosen one."""
    chosen = next((p for p in points if p.chosen), None)
    if chosen is None:
        return ""
    best = [p for p in points if not p.chosen]
    below = max((p for p in best if p.nbytes < NEAR_BELOW * chosen.nbytes), key=lambda p: p.nbytes, default=None)
    above = min((p for p in best if p.nbytes > NEAR_ABOVE * chosen.nbytes), key=lambda p: p.nbytes, default=None)
    sides = (("smaller", below), ("larger", above))
    clauses = [f"the next {side} one {_point(p, sensitivity)}" for side, p in sides if p is not None]
    return f"The chosen plan has {_point(chosen, sensitivity)}{', ' if clauses else ''}{words.listing(clauses)}."


def _point(point: ParetoPoint, sensitivity: str) -> str:
    if sensitivity in reasons.OF_OUTPUTS:
        return f"{words.size(point.nbytes)} and a predicted error of {words.percent(point.predicted_loss**0.5)}"
    return f"{words.size(point.nbytes)} and a predicted loss of {words.loss(point.predicted_loss)}"


def trust(chosen: LossPair | None, found: Mapping[str, float | int | None]) -> str:
    """How well the prediction followed the measurement."""
    return " ".join(part for part in (_ratio(chosen), _correlation(found)) if part)


def _ratio(chosen: LossPair | None) -> str:
    if chosen is None or not chosen.predicted > 0 or not math.isfinite(chosen.measured):
        return ""
    predicted, measured = statistics.root(chosen.predicted), statistics.root(chosen.measured)
    numbers = f"{words.percent(predicted)} was predicted and {words.percent(measured)} measured"
    times = words.figures(measured / predicted) if predicted and measured is not None else words.MISSING
    return f"For the chosen plan an output error of {numbers}, {times} times as much."


def _correlation(found: Mapping[str, float | int | None]) -> str:
    ranks, logarithms = found["rank_correlation"], found["log_correlation"]
    if ranks is None or logarithms is None:
        return (
            "Whether predictions order plans correctly was not measured; report.random_plans = 20 in the pipeline does."
        )
    return (
        f"Over {found['points']} random plans the prediction orders them with a rank correlation of {ranks:.2f} (1 is "
        f"perfect); the correlation of the logarithms is {logarithms:.2f}. What matters for the choice is the order."
    )


def warnings(data: ReportData) -> list[str]:
    """What is wrong or at least not as asked, most serious first."""
    return [*_not_numbers(data), *_failed_checks(data), *_broken_passes(data), *_exceeded(data), *_unproven(data)]


def _not_numbers(data: ReportData) -> Iterator[str]:
    if data.chosen_loss is not None and not math.isfinite(data.chosen_loss.measured):
        yield "The output of the compiled model holds NaN or infinities on calibration data."


def _failed_checks(data: ReportData) -> Iterator[str]:
    for check in data.checks:
        if not check.passed:
            error, bound = words.loss(check.error), words.loss(check.bound)
            yield f"Check {check.name} failed: relative error {error}, allowed {bound}."


def _broken_passes(data: ReportData) -> Iterator[str]:
    for record in data.passes:
        check = record.check
        if check is not None and not check.max_error <= check.tolerance:
            error, allowed = words.loss(check.max_error), words.loss(check.tolerance)
            yield f"Pass {record.name} changed the model: relative error {error}, allowed {allowed}."


def _exceeded(data: ReportData) -> Iterator[str]:
    for budget in data.plan.budgets:
        if budget.exceeded:
            took, limit = (words.amount(budget.resource, v) for v in (budget.found, budget.limit))
            how = "by prediction" if budget.measured is None else "measured"
            yield f"Budget {budget.key}: {took} ({how}) is over the limit of {limit}."


def _unproven(data: ReportData) -> Iterator[str]:
    outcome = data.plan.solver
    if outcome is not None and outcome.status != "optimal":
        gap = words.percent(outcome.gap)
        why = _why_unproven(data.estimates)
        yield f"Optimality is not proven: the predicted loss may be up to {gap} above the best possible; {why}."


def _why_unproven(estimates: int | None) -> str:
    if estimates is None:
        return "the plan that was given does not say why; the report of the call that made it does"
    if not estimates:
        return "the solver's time was over; raise search.time_limit_s"
    return (
        f"{estimates} options have estimates alone and were never stored; name members such as 'lowrank:r16 + "
        "int4:g64' in place of their family for a proof"
    )
