"""The judge of every allocation: recomputes a solution from the problem, without any solver."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .problem import AllocationProblem, AllocationSolution, Choice, Pair

TOLERANCE = 1e-12
"""Relative gap up to which an assignment may be called optimal although zero was asked for."""


def check(problem: AllocationProblem, solution: AllocationSolution) -> list[str]:
    """Everything that is wrong with the solution, one sentence each; empty if it can be trusted.

    Costs are compared as integers. The objective must be the correctly rounded sum of the losses. A proof of optimality
    or infeasibility is not repeated; but a bound above the objective, or a claim that the numbers contradict, is found.
    """
    if solution.status in ("infeasible", "timeout"):
        return list(_without_assignment(problem, solution))
    chosen = _chosen(problem, solution)
    missing = list(_names(problem, solution, chosen))
    if missing:
        return missing
    return [
        *_side_conditions(problem, solution),
        *_budgets(problem, solution, chosen),
        *_numbers(problem, solution, chosen),
        *_infeasible_entries(problem, solution),
    ]


def _chosen(problem: AllocationProblem, solution: AllocationSolution) -> dict[str, Choice]:
    """The choices of the layers that take one of their own."""
    found: dict[str, Choice] = {}
    for layer in problem.layers:
        name = solution.assignment.get(layer.name)
        choice = next((choice for choice in layer.choices if choice.name == name), None)
        if choice is not None:
            found[layer.name] = choice
    return found


def _names(problem: AllocationProblem, solution: AllocationSolution, chosen: dict[str, Choice]) -> Iterator[str]:
    if solution.status not in ("optimal", "feasible"):
        yield f"status {solution.status!r} is not one of optimal, feasible, infeasible, timeout"
    known = {layer.name for layer in problem.layers}
    for layer in problem.layers:
        name = layer.name
        if name not in solution.assignment:
            yield f"layer {name!r} has no choice"
        elif name not in chosen:
            yield f"layer {name!r} has no choice named {solution.assignment[name]!r}"
    for name in solution.assignment:
        if name not in known:
            yield f"layer {name!r} is not in the problem"


def _side_conditions(problem: AllocationProblem, solution: AllocationSolution) -> Iterator[str]:
    for tie in problem.ties:
        choices = sorted({solution.assignment[name] for name in tie})
        if len(choices) > 1:
            yield f"tied layers {', '.join(tie)} differ: {', '.join(choices)}"
    if problem.traits:
        yield from _traits(problem, solution)
    for layer, choice in problem.forced:
        if solution.assignment[layer] != choice:
            yield f"layer {layer!r} must be {choice!r}, is {solution.assignment[layer]!r}"
    for layer, choice in problem.forbidden:
        if solution.assignment[layer] == choice:
            yield f"layer {layer!r} must not be {choice!r}"


def _traits(problem: AllocationProblem, solution: AllocationSolution) -> Iterator[str]:
    choices = {layer.name: [choice.name for choice in layer.choices] for layer in problem.layers}
    for trait in problem.traits:
        found = sorted({row[choices[name].index(solution.assignment[name])] for name, row in trait.classes.items()})
        if len(found) > 1:
            yield f"layers {', '.join(trait.classes)} differ in {trait.name}: {', '.join(found)}"


def _budgets(problem: AllocationProblem, solution: AllocationSolution, chosen: dict[str, Choice]) -> Iterator[str]:
    if set(solution.used) != {budget.name for budget in problem.budgets}:
        yield f"used names {sorted(solution.used)}, the budgets are {sorted(b.name for b in problem.budgets)}"
        return
    slack: dict[str, int] = {}
    taken = _taken(problem, solution)
    for position, budget in enumerate(problem.budgets):
        total = sum(choice.costs[position] for choice in chosen.values())
        total += sum(pair.costs[position] for pair in taken if pair.costs)
        slack[budget.name] = budget.limit - total
        if total > budget.limit:
            yield f"budget {budget.name!r} is exceeded: {total} of {budget.limit}"
        if solution.used[budget.name] != total:
            yield f"budget {budget.name!r}: {solution.used[budget.name]} reported as used, {total} found"
    for entry in solution.binding:
        if slack.get(entry.name) != entry.slack:
            yield f"binding budget {entry.name!r}: slack {entry.slack} reported, {slack.get(entry.name)} found"
        if not 0 < entry.shadow_price < math.inf:
            yield f"binding budget {entry.name!r}: shadow price {entry.shadow_price} is not a positive number"


def _taken(problem: AllocationProblem, solution: AllocationSolution) -> list[Pair]:
    """The pairs both of whose choices are taken."""
    assigned = solution.assignment
    return [p for p in problem.pairs if assigned[p.first[0]] == p.first[1] and assigned[p.second[0]] == p.second[1]]


def _numbers(problem: AllocationProblem, solution: AllocationSolution, chosen: dict[str, Choice]) -> Iterator[str]:
    objective, bound, gap = solution.objective, solution.bound, solution.gap
    if objective is None or bound is None or gap is None:
        yield f"status {solution.status!r} needs an objective, a bound and a gap"
        return
    added = [pair.loss for pair in _taken(problem, solution)]
    total = math.fsum([*(choice.loss for choice in chosen.values()), *added])
    if objective != total:
        yield f"objective {objective!r} reported, {total!r} found"
    if not (-math.inf if problem.pairs else 0) <= bound <= objective:
        yield f"bound {bound!r} is not between zero and the objective {objective!r}"
        return
    size = max(abs(objective), abs(bound))
    expected = (objective - bound) / size if size else 0.0
    if not abs(gap - expected) <= TOLERANCE:
        yield f"gap {gap!r} reported, {expected!r} found"
    if solution.status == "optimal" and not expected <= max(solution.relative_gap, 0.0) + TOLERANCE:
        yield f"called optimal with a gap of {expected!r}, asked for {solution.relative_gap!r}"


def _without_assignment(problem: AllocationProblem, solution: AllocationSolution) -> Iterator[str]:
    if solution.assignment or solution.used or solution.binding:
        yield f"status {solution.status!r} comes with an assignment"
    if solution.objective is not None or solution.gap is not None:
        yield f"status {solution.status!r} comes with an objective"
    if solution.status == "infeasible" and not solution.infeasible:
        yield "infeasible, but no budget is named"
    yield from _infeasible_entries(problem, solution)


def _infeasible_entries(problem: AllocationProblem, solution: AllocationSolution) -> Iterator[str]:
    if solution.infeasible and solution.status != "infeasible":
        yield f"status {solution.status!r}, but budgets are named as infeasible"
    limits = {budget.name: budget.limit for budget in problem.budgets}
    for entry in solution.infeasible:
        if limits.get(entry.budget) != entry.limit:
            yield f"infeasible budget {entry.budget!r}: limit {entry.limit} reported, {limits.get(entry.budget)} found"
        if entry.smallest_feasible <= entry.limit:
            yield f"infeasible budget {entry.budget!r}: smallest feasible {entry.smallest_feasible} is within the limit"
