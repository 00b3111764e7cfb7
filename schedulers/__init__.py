"""Problem -> solution, numbers only. Names are loaded when first used: OR-Tools is not imported before ``solve`` is."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .allocation import (
        AllocationBudget,
        AllocationProblem,
        AllocationSolution,
        BindingBudget,
        Choice,
        Infeasibility,
        LayerChoices,
    )
    from .allocation_json import dump_problem, dump_solution, load_problem, load_solution
    from .check_allocation import check
    from .greedy import greedy_promote, greedy_ratio, uniform
    from .pareto import sweep
    from .solve_allocation import solve

__all__ = [
    "AllocationBudget",
    "AllocationProblem",
    "AllocationSolution",
    "BindingBudget",
    "Choice",
    "Infeasibility",
    "LayerChoices",
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
    "AllocationBudget": "allocation",
    "AllocationProblem": "allocation",
    "AllocationSolution": "allocation",
    "BindingBudget": "allocation",
    "Choice": "allocation",
    "Infeasibility": "allocation",
    "LayerChoices": "allocation",
    "check": "check_allocation",
    "dump_problem": "allocation_json",
    "dump_solution": "allocation_json",
    "greedy_promote": "greedy",
    "greedy_ratio": "greedy",
    "load_problem": "allocation_json",
    "load_solution": "allocation_json",
    "solve": "solve_allocation",
    "sweep": "pareto",
    "uniform": "greedy",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
