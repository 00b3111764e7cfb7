"""How the target schedules networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.machine import Machine
from ...schedulers.scratchpad.feasibility import first_that_fits
from ...schedulers.scratchpad.planning import PlanOptions, solver_options
from ...schedulers.scratchpad.problem import Problem
from ...schedulers.scratchpad.schedule import Infeasible


@dataclass(frozen=True)
class Settings:
    """Machine and options of a schedule."""

    machine: Machine
    options: PlanOptions

    def least_bytes(self, problem: Problem) -> int:
        """The smallest budget with which there is a schedule of this kind."""
        wanted = solver_options(self.machine, replace(self.options, budget_bytes=0))
        found = first_that_fits(problem, wanted)
        return found.smallest_budget_bytes if isinstance(found, Infeasible) else 0
