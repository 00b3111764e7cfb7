"""Bit widths and residency together by CP-SAT; one after the other; and alternately, with a bound that holds for all.

A kept value is a product of two decisions, stays and width: it becomes one literal per gap and width, at most as true
as the width's own. Losses are scaled to 2^30 units of the limit and rounded up, so the limit holds; an answer that is
closer to it than one unit per value may be missed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ortools.sat.python import cp_model

from ..status import Status
from .problem import JointAnswer, JointProblem, check_answer

LOSS_UNITS = 1 << 30
"""Integers that the loss limit is scaled to."""

Kept = frozenset[tuple[int, int]]
Proxy = Literal["bytes", "uses"]
PROXIES: tuple[Proxy, ...] = ("bytes", "uses")


@dataclass(frozen=True)
class _Built:
    model: cp_model.CpModel
    picks: list[list[cp_model.IntVar]]
    stays: dict[tuple[int, int], list[cp_model.IntVar]]


def solve_joint(problem: JointProblem, *, time_limit_s: float = 60.0, hint: JointAnswer | None = None) -> JointAnswer:
    """Widths and residency as one program: exact where the time suffices, else with the solver's bound."""
    built = _build(problem)
    if hint is not None and hint.picks:
        _hint(built, hint)
    return _solve(problem, built, time_limit_s)


def solve_sequential(problem: JointProblem, *, proxy: Proxy = "bytes", time_limit_s: float = 60.0) -> JointAnswer:
    """First the widths, without a look at the memory, then the best residency for them: what is done today.

    Args:
        problem: to be solved.
        proxy: what the widths minimise under the loss limit: ``bytes`` of all values, or bytes times ``uses``, which is
            what would move if nothing ever stayed.
        time_limit_s: of all steps together.

    Returns:
        The answer; its bound holds for every answer of the problem: what moves if everything stays.
    """
    narrow = _build(replace(problem, budget_bytes=_everything(problem)))
    narrow.model.minimize(_proxy(problem, narrow, proxy))
    widths = _read(narrow, time_limit_s / 3)
    if not widths.picks:
        return widths
    answer = _with_picks(problem, widths.picks, time_limit_s / 3)
    return replace(answer, status=_feasible(answer), bound_bytes=_bound(problem, time_limit_s / 3))


def _proxy(problem: JointProblem, built: _Built, proxy: Proxy) -> cp_model.LinearExpr:
    return _sum(
        [
            (literal, choice.size_bytes * (len(value.uses) if proxy == "uses" else 1))
            for value, literals in zip(problem.values, built.picks, strict=True)
            for literal, choice in zip(literals, value.choices, strict=True)
        ]
    )


def _bound(problem: JointProblem, time_limit_s: float) -> int:
    return _read(_build(replace(problem, budget_bytes=_everything(problem))), time_limit_s).bound_bytes


def solve_alternately(problem: JointProblem, *, rounds: int = 8, time_limit_s: float = 60.0) -> JointAnswer:
    """Residency for the widths, widths for the residency, until neither moves fewer bytes; for large networks.

    It starts from the better of the two sequential answers; where neither fits there is none, and ``solve_joint`` is
    the way. The bound is that of ``solve_sequential``.
    """
    each = time_limit_s / (2 * rounds + 4)
    starts = [solve_sequential(problem, proxy=proxy, time_limit_s=2 * each) for proxy in PROXIES]
    best = min(starts, key=lambda start: (not start.picks, start.traffic_bytes))
    bound = best.bound_bytes
    for _ in range(rounds if best.picks else 0):
        wider = _with_kept(problem, best.kept, each)
        if not wider.picks:
            break
        again = _with_picks(problem, wider.picks, each)
        if not again.picks or again.traffic_bytes >= best.traffic_bytes:
            break
        best = again
    return replace(best, status=_feasible(best), bound_bytes=bound)


def _feasible(answer: JointAnswer) -> Status:
    return "feasible" if answer.picks else answer.status


def _everything(problem: JointProblem) -> int:
    return sum(max(choice.size_bytes for choice in value.choices) for value in problem.values)


def _with_picks(problem: JointProblem, picks: tuple[int, ...], time_limit_s: float) -> JointAnswer:
    """The best residency for given widths."""
    built = _build(problem)
    for literals, pick in zip(built.picks, picks, strict=True):
        built.model.add(literals[pick] == 1)
    return _solve(problem, built, time_limit_s)


def _with_kept(problem: JointProblem, kept: Kept, time_limit_s: float) -> JointAnswer:
    """The best widths if at least those values stay."""
    built = _build(problem)
    for key in kept:
        built.model.add_exactly_one(built.stays[key])
    return _solve(problem, built, time_limit_s)


def _build(problem: JointProblem) -> _Built:
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in value.choices] for value in problem.values]
    stays: dict[tuple[int, int], list[cp_model.IntVar]] = {}
    for place, value in enumerate(problem.values):
        model.add_exactly_one(picks[place])
        for use in range(len(value.uses) - 1):
            stays[place, use] = [model.new_bool_var("") for _ in value.choices]
            for stay, pick in zip(stays[place, use], picks[place], strict=True):
                model.add_implication(stay, pick)
    built = _Built(model, picks, stays)
    _limit_loss(problem, built)
    _limit_memory(problem, built)
    model.minimize(_traffic(problem, built))
    return built


def _limit_loss(problem: JointProblem, built: _Built) -> None:
    if math.isinf(problem.loss_limit):
        return
    unit = LOSS_UNITS / problem.loss_limit if problem.loss_limit else LOSS_UNITS
    pairs = [
        (literal, min(math.ceil(choice.loss * unit), 4 * LOSS_UNITS))
        for value, literals in zip(problem.values, built.picks, strict=True)
        for choice, literal in zip(value.choices, literals, strict=True)
    ]
    built.model.add(_sum(pairs) <= (LOSS_UNITS if problem.loss_limit else 0))


def _limit_memory(problem: JointProblem, built: _Built) -> None:
    rows: list[list[tuple[cp_model.IntVar, int]]] = [[] for _ in range(problem.steps)]
    for place, value in enumerate(problem.values):
        sizes = [choice.size_bytes for choice in value.choices]
        for step in value.uses:
            rows[step] += zip(built.picks[place], sizes, strict=True)
        for use, (before, after) in enumerate(itertools.pairwise(value.uses)):
            for step in range(before + 1, after):
                rows[step] += zip(built.stays[place, use], sizes, strict=True)
    for row in rows:
        if sum(size for _, size in row) > problem.budget_bytes:
            built.model.add(_sum(row) <= problem.budget_bytes)


def _traffic(problem: JointProblem, built: _Built) -> cp_model.LinearExpr:
    pairs: list[tuple[cp_model.IntVar, int]] = []
    for place, value in enumerate(problem.values):
        gaps = [built.stays[place, use] for use in range(len(value.uses) - 1)]
        for option, choice in enumerate(value.choices):
            pick = built.picks[place][option]
            once = len(gaps) + (not value.made and bool(value.uses)) + (value.made and value.result)
            pairs.append((pick, choice.size_bytes * once))
            pairs += [(gap[option], -choice.size_bytes) for gap in gaps]
            if value.made and not value.result and gaps:
                written = built.model.new_bool_var("")
                pairs.append((written, choice.size_bytes))
                for gap in gaps:
                    built.model.add(written >= pick - gap[option])
    return _sum(pairs)


def _sum(pairs: list[tuple[cp_model.IntVar, int]]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.weighted_sum([literal for literal, _ in pairs], [size for _, size in pairs])


def _hint(built: _Built, answer: JointAnswer) -> None:
    for literals, pick in zip(built.picks, answer.picks, strict=True):
        for option, literal in enumerate(literals):
            built.model.add_hint(literal, option == pick)
    for (place, use), literals in built.stays.items():
        for option, literal in enumerate(literals):
            built.model.add_hint(literal, (place, use) in answer.kept and option == answer.picks[place])


def _solve(problem: JointProblem, built: _Built, time_limit_s: float) -> JointAnswer:
    answer = _read(built, time_limit_s)
    if answer.picks:
        check_answer(problem, answer)
    return answer


def _read(built: _Built, time_limit_s: float) -> JointAnswer:
    """Runs the solver; the traffic of the answer is the model's objective."""
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    outcome = solver.solve(built.model)
    statuses: Mapping[object, Status] = {cp_model.OPTIMAL: "optimal", cp_model.FEASIBLE: "feasible"}
    if outcome not in statuses:
        return JointAnswer("infeasible" if outcome == cp_model.INFEASIBLE else "timeout")
    picks = tuple(next(i for i, literal in enumerate(row) if solver.boolean_value(literal)) for row in built.picks)
    kept = frozenset(key for key, row in built.stays.items() if any(solver.boolean_value(literal) for literal in row))
    return JointAnswer(
        statuses[outcome], picks, kept, round(solver.objective_value), round(solver.best_objective_bound)
    )
