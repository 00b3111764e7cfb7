"""Problem -> solution, numbers only: one folder per problem, and here what all of them share.

The names of ``allocation`` are also found here. Nothing is loaded before it is used: OR-Tools is not imported before a
problem is solved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import allocation

if TYPE_CHECKING:
    from .allocation import (
        AllocationBudget,
        AllocationProblem,
        AllocationSolution,
        BindingBudget,
        Choice,
        Infeasibility,
        LayerChoices,
        Pair,
        Trait,
        check,
        dump_problem,
        dump_solution,
        greedy_promote,
        greedy_ratio,
        load_problem,
        load_solution,
        solve,
        sweep,
        uniform,
    )

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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(allocation, name)
