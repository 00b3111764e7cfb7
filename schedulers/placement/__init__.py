"""Buffers with fixed lifetimes in one memory. Names are loaded when first used, OR-Tools with them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .baselines import greedy_by_conflicts, greedy_by_size, hill_climb
    from .bound import crowd, lower_bound
    from .checker import check
    from .csv_format import dump_csv, load_csv
    from .json_format import dump_problem, dump_solution, load_problem, load_solution
    from .problem import Buffer, Crowd, PlacementProblem, PlacementSolution
    from .solver import solve
    from .tflm import offline_plan, read_offline_plan

__all__ = [
    "Buffer",
    "Crowd",
    "PlacementProblem",
    "PlacementSolution",
    "check",
    "crowd",
    "dump_csv",
    "dump_problem",
    "dump_solution",
    "greedy_by_conflicts",
    "greedy_by_size",
    "hill_climb",
    "load_csv",
    "load_problem",
    "load_solution",
    "lower_bound",
    "offline_plan",
    "read_offline_plan",
    "solve",
]

_HOME = {
    "Buffer": "problem",
    "Crowd": "problem",
    "PlacementProblem": "problem",
    "PlacementSolution": "problem",
    "check": "checker",
    "crowd": "bound",
    "dump_csv": "csv_format",
    "dump_problem": "json_format",
    "dump_solution": "json_format",
    "greedy_by_conflicts": "baselines",
    "greedy_by_size": "baselines",
    "hill_climb": "baselines",
    "load_csv": "csv_format",
    "load_problem": "json_format",
    "load_solution": "json_format",
    "lower_bound": "bound",
    "offline_plan": "tflm",
    "read_offline_plan": "tflm",
    "solve": "solver",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
