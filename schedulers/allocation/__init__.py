"""One choice per layer under budgets; CP-SAT is loaded where it is used."""

from __future__ import annotations

from .checker import check
from .greedy import greedy_promote, greedy_ratio, uniform
from .pareto import sweep
from .problem import (
    AllocationBudget,
    AllocationProblem,
    AllocationSolution,
    BindingBudget,
    Choice,
    Infeasibility,
    LayerChoices,
    Pair,
    Trait,
)
from .problem_json import dump_problem, dump_solution, load_problem, load_solution
from .solver import solve

__all__ = [
    "AllocationBudget",
    "AllocationProblem",
    "AllocationSolution",
    "BindingBudget",
    "Choice",
    "Infeasibility",
    "LayerChoices",
    "Pair",
    "Trait",
    "check",
    "dump_problem",
    "dump_solution",
    "greedy_promote",
    "greedy_ratio",
    "load_problem",
    "load_solution",
    "solve",
    "sweep",
    "uniform",
]
