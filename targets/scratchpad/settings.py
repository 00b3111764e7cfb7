"""How the target schedules networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.machine import Machine
from ...schedulers.scratchpad.feasibility import smallest_budget
from ...schedulers.scratchpad.planning import PlanOptions, solver_options
from ...schedulers.scratchpad.problem import Problem
from ...schedulers.scratchpad.sequenced import sequenced


@dataclass(frozen=True)
class Settings:
    """Machine and options of a schedule."""

    machine: Machine
    options: PlanOptions

    def least_bytes(self, problem: Problem) -> int:
        """The smallest budget with which there is a schedule of this kind."""
        net = sequenced(problem, range(len(problem.operators)))
        wanted = solver_options(self.machine, replace(self.options, budget_bytes=0))
        found = smallest_budget(net, wanted, bands=self.options.tiles != "never")
        return 0 if found is None else found.smallest_budget_bytes
