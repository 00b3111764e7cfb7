"""Placement with CP-SAT, in two formulations that solve different instances.

* ``boxes``: one two-dimensional non-overlap over rectangles of lifetime and memory.
* ``slices``: per section, a one-dimensional non-overlap of the buffers that cross it.
"""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
from ortools.sat.python import cp_model

from ...ir.errors import ScheduleError
from .instance import Instance, Numbers
from .search import Outcome

Formulation = Literal["boxes", "slices"]

LARGEST_AREA = 1 << 62
"""CP-SAT multiplies extents of boxes; instances beyond this are left to the search."""


class ConstraintSearch:
    """A CP-SAT model of an instance that can be solved with growing effort, and stopped from another thread."""

    def __init__(self, instance: Instance, formulation: Formulation, seed: int) -> None:
        self.offsets: Numbers = np.zeros(0, dtype=np.int64)
        self.formulation: Formulation = formulation
        self._seed = seed
        self._solver = cp_model.CpSolver()
        self._model = cp_model.CpModel()
        self._impossible = bool((_first_multiple(instance) > instance.ceiling).any())
        if self._impossible:
            return
        self._rows = [self._row(instance, place) for place in range(len(instance.size))]
        intervals = [
            self._model.new_fixed_size_interval_var(row, int(size), "")
            for row, size in zip(self._rows, instance.size, strict=True)
        ]
        if formulation == "boxes":
            lives = [
                self._model.new_fixed_size_interval_var(int(first), int(width), "")
                for first, width in zip(instance.first, instance.width, strict=True)
            ]
            self._model.add_no_overlap_2d(lives, intervals)
            return
        for low, high in zip(instance.bounds, instance.bounds[1:], strict=False):
            self._model.add_no_overlap([intervals[place] for place in instance.members[low:high]])

    @staticmethod
    def fits(instance: Instance) -> bool:
        """Whether the numbers are small enough for CP-SAT."""
        return max(instance.capacity, 1) * instance.sections < LARGEST_AREA

    def _row(self, instance: Instance, place: int) -> cp_model.LinearExpr:
        step = int(instance.alignment[place])
        low, high = int(_first_multiple(instance)[place]) // step, int(instance.ceiling[place]) // step
        return self._model.new_int_var(low, high, "") * step

    def run(self, steps: float, deadline: float) -> Outcome:
        """Solve for so much of CP-SAT's deterministic time, or until ``time.perf_counter()`` reaches the deadline."""
        if self._impossible:
            return "impossible"
        parameters = self._solver.parameters
        parameters.num_workers, parameters.random_seed = 1, self._seed
        parameters.max_deterministic_time = steps
        parameters.max_time_in_seconds = max(deadline - time.perf_counter(), 0.001)
        status = self._solver.solve(self._model)
        if status == cp_model.MODEL_INVALID:
            found = self._model.validate()
            raise ScheduleError(f"placement: expected a model that CP-SAT accepts, found {found!r}; report this")
        if status == cp_model.INFEASIBLE:
            return "impossible"
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return "stopped"
        self.offsets = np.array([self._solver.value(row) for row in self._rows], dtype=np.int64)
        return "found"

    def stop(self) -> None:
        """End a run that goes on in another thread."""
        self._solver.stop_search()


def _first_multiple(instance: Instance) -> Numbers:
    return -(-instance.start // instance.alignment) * instance.alignment
