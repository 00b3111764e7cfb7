"""Buffers with fixed lifetimes in one memory; CP-SAT is loaded where it is used."""

from __future__ import annotations

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
