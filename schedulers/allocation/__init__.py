"""One choice per layer under budgets. Names are loaded when first used: OR-Tools is not imported before then."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOME = {
    "AllocationBudget": "problem",
    "AllocationProblem": "problem",
    "AllocationSolution": "problem",
    "BindingBudget": "problem",
    "Choice": "problem",
    "Infeasibility": "problem",
    "LayerChoices": "problem",
    "Pair": "problem",
    "Trait": "problem",
    "check": "checker",
    "dump_problem": "problem_json",
    "dump_solution": "problem_json",
    "greedy_promote": "greedy",
    "greedy_ratio": "greedy",
    "load_problem": "problem_json",
    "load_solution": "problem_json",
    "solve": "solver",
    "sweep": "pareto",
    "uniform": "greedy",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
