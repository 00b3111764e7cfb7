"""Allocation problems and solutions as JSON. Reading what was written gives an equal value; floats are exact."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

from ...ir.errors import ScheduleError
from .. import strict_json as strict
from ..status import STATUSES, Status
from .problem import (
    AllocationBudget,
    AllocationProblem,
    AllocationSolution,
    BindingBudget,
    Choice,
    Infeasibility,
    LayerChoices,
)


def dump_problem(problem: AllocationProblem) -> str:
    """The problem as JSON text."""
    return json.dumps(asdict(problem), allow_nan=False)


def dump_solution(solution: AllocationSolution) -> str:
    """The solution as JSON text."""
    return json.dumps(asdict(solution), allow_nan=False)


def load_problem(text: str) -> AllocationProblem:
    """The problem in a JSON text; ``ScheduleError`` for unknown or missing keys, wrong kinds, a malformed problem."""
    value = strict.parse_object(text, "problem")
    strict.check_keys(value, "problem", ("layers",), ("budgets", "ties", "forced", "forbidden"))
    return AllocationProblem(
        layers=strict.as_tuple(value["layers"], "problem.layers", _layer),
        budgets=strict.as_tuple(value.get("budgets", []), "problem.budgets", _budget),
        ties=strict.as_tuple(value.get("ties", []), "problem.ties", _tie),
        forced=strict.as_tuple(value.get("forced", []), "problem.forced", _pair),
        forbidden=strict.as_tuple(value.get("forbidden", []), "problem.forbidden", _pair),
    )


def load_solution(text: str) -> AllocationSolution:
    """The solution in a JSON text; ``ScheduleError`` for unknown or missing keys or wrong kinds. Not checked."""
    value = strict.parse_object(text, "solution")
    strict.check_keys(value, "solution", [field.name for field in fields(AllocationSolution)])
    return AllocationSolution(
        status=_status(value["status"], "solution.status"),
        assignment=strict.as_mapping(value["assignment"], "solution.assignment", strict.as_str),
        objective=strict.optional(value["objective"], "solution.objective", strict.as_float),
        bound=strict.optional(value["bound"], "solution.bound", strict.as_float),
        gap=strict.optional(value["gap"], "solution.gap", strict.as_float),
        wall_s=strict.as_float(value["wall_s"], "solution.wall_s"),
        used=strict.as_mapping(value["used"], "solution.used", strict.as_int),
        binding=strict.as_tuple(value["binding"], "solution.binding", _binding),
        seed=strict.as_int(value["seed"], "solution.seed"),
        workers=strict.as_int(value["workers"], "solution.workers"),
        solver=strict.as_str(value["solver"], "solution.solver"),
        relative_gap=strict.as_float(value["relative_gap"], "solution.relative_gap"),
        pruned=strict.as_int(value["pruned"], "solution.pruned"),
        infeasible=strict.as_tuple(value["infeasible"], "solution.infeasible", _infeasibility),
    )


def _layer(value: object, where: str) -> LayerChoices:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, ("name", "choices"))
    return LayerChoices(
        strict.as_str(item["name"], f"{where}.name"), strict.as_tuple(item["choices"], f"{where}.choices", _choice)
    )


def _choice(value: object, where: str) -> Choice:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, ("name", "loss"), ("costs",))
    return Choice(
        strict.as_str(item["name"], f"{where}.name"),
        strict.as_float(item["loss"], f"{where}.loss"),
        strict.as_tuple(item.get("costs", []), f"{where}.costs", strict.as_int),
    )


def _budget(value: object, where: str) -> AllocationBudget:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, ("name", "limit"), ("unit",))
    return AllocationBudget(
        strict.as_str(item["name"], f"{where}.name"),
        strict.as_int(item["limit"], f"{where}.limit"),
        strict.as_str(item.get("unit", ""), f"{where}.unit"),
    )


def _tie(value: object, where: str) -> tuple[str, ...]:
    return strict.as_tuple(value, where, strict.as_str)


def _pair(value: object, where: str) -> tuple[str, str]:
    names = strict.as_tuple(value, where, strict.as_str)
    if len(names) != 2:
        raise ScheduleError(f"{where}: expected a layer and a choice, found {len(names)} names; give two")
    return (names[0], names[1])


def _status(value: object, where: str) -> Status:
    status = strict.as_str(value, where)
    if status not in STATUSES:
        raise ScheduleError(f"{where}: expected one of {', '.join(STATUSES)}, found {status!r}; correct it")
    return status


def _binding(value: object, where: str) -> BindingBudget:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(BindingBudget)])
    return BindingBudget(
        strict.as_str(item["name"], f"{where}.name"),
        strict.as_int(item["slack"], f"{where}.slack"),
        strict.as_float(item["shadow_price"], f"{where}.shadow_price"),
    )


def _infeasibility(value: object, where: str) -> Infeasibility:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(Infeasibility)])
    return Infeasibility(
        strict.as_str(item["budget"], f"{where}.budget"),
        strict.as_int(item["limit"], f"{where}.limit"),
        strict.as_int(item["smallest_feasible"], f"{where}.smallest_feasible"),
        strict.as_tuple(item["given"], f"{where}.given", strict.as_str),
        strict.as_bool(item["proven"], f"{where}.proven"),
    )
