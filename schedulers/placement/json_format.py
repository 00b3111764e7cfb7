"""Placement problems and solutions as JSON. Reading what was written gives an equal value."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

from ...ir.errors import ScheduleError
from .. import strict_json as strict
from ..status import STATUSES, Status
from .problem import Buffer, Crowd, PlacementProblem, PlacementSolution


def dump_problem(problem: PlacementProblem) -> str:
    """The problem as JSON text."""
    return json.dumps(asdict(problem), allow_nan=False)


def dump_solution(solution: PlacementSolution) -> str:
    """The solution as JSON text."""
    return json.dumps(asdict(solution), allow_nan=False)


def load_problem(text: str) -> PlacementProblem:
    """The problem in a JSON text; ``ScheduleError`` for unknown or missing keys, wrong kinds, a malformed problem."""
    value = strict.parse_object(text, "problem")
    strict.check_keys(value, "problem", ("buffers",), ("capacity_bytes",))
    return PlacementProblem(
        strict.as_tuple(value["buffers"], "problem.buffers", _buffer),
        strict.optional(value.get("capacity_bytes"), "problem.capacity_bytes", strict.as_int),
    )


def load_solution(text: str) -> PlacementSolution:
    """The solution in a JSON text; ``ScheduleError`` for unknown or missing keys or wrong kinds. Not checked."""
    value = strict.parse_object(text, "solution")
    strict.check_keys(value, "solution", [field.name for field in fields(PlacementSolution)])
    return PlacementSolution(
        status=_status(value["status"], "solution.status"),
        offsets=strict.as_mapping(value["offsets"], "solution.offsets", strict.as_int),
        height_bytes=strict.optional(value["height_bytes"], "solution.height_bytes", strict.as_int),
        bound_bytes=strict.as_int(value["bound_bytes"], "solution.bound_bytes"),
        wall_s=strict.as_float(value["wall_s"], "solution.wall_s"),
        solver=strict.as_str(value["solver"], "solution.solver"),
        seed=strict.as_int(value["seed"], "solution.seed"),
        crowd=strict.optional(value["crowd"], "solution.crowd", _crowd),
        lowest_known_bytes=strict.optional(value["lowest_known_bytes"], "solution.lowest_known_bytes", strict.as_int),
    )


def _buffer(value: object, where: str) -> Buffer:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, ("name", "lower", "upper", "size_bytes"), ("alignment_bytes", "offset_bytes"))
    return Buffer(
        strict.as_str(item["name"], f"{where}.name"),
        strict.as_int(item["lower"], f"{where}.lower"),
        strict.as_int(item["upper"], f"{where}.upper"),
        strict.as_int(item["size_bytes"], f"{where}.size_bytes"),
        strict.as_int(item.get("alignment_bytes", 1), f"{where}.alignment_bytes"),
        strict.optional(item.get("offset_bytes"), f"{where}.offset_bytes", strict.as_int),
    )


def _crowd(value: object, where: str) -> Crowd:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(Crowd)])
    return Crowd(
        strict.as_int(item["time"], f"{where}.time"),
        strict.as_tuple(item["buffers"], f"{where}.buffers", strict.as_str),
        strict.as_int(item["needed_bytes"], f"{where}.needed_bytes"),
    )


def _status(value: object, where: str) -> Status:
    for status in STATUSES:
        if value == status:
            return status
    raise ScheduleError(f"{where}: expected one of {', '.join(STATUSES)}, found {value!r}; correct it")
