"""Allocation problems and solutions as JSON. Reading what was written gives an equal value; floats are exact."""

from __future__ import annotations

import json

from ...ir.errors import ScheduleError
from ...ir.json_values import loads, plain
from .problem import AllocationProblem, AllocationSolution


def dump_problem(problem: AllocationProblem) -> str:
    """The problem as JSON text."""
    return json.dumps(plain(problem), allow_nan=False)


def dump_solution(solution: AllocationSolution) -> str:
    """The solution as JSON text."""
    return json.dumps(plain(solution), allow_nan=False)


def load_problem(text: str) -> AllocationProblem:
    """The problem in a JSON text; ``ScheduleError`` for unknown or missing keys, wrong kinds, a malformed problem."""
    return loads(AllocationProblem, text, "problem", ScheduleError)


def load_solution(text: str) -> AllocationSolution:
    """The solution in a JSON text; ``ScheduleError`` for unknown or missing keys or wrong kinds. Not checked."""
    return loads(AllocationSolution, text, "solution", ScheduleError)
