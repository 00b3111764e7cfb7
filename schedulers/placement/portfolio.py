"""The canonical search and CP-SAT share an instance: rounds of growing effort, each the same in every run.

With two workers CP-SAT runs in a thread of its own beside the search. What the search finds is preferred, so who is
faster on a busy machine does not decide what comes out.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .instance import Instance, Numbers
from .restarts import Restarts
from .search import Outcome

if TYPE_CHECKING:
    from .constraint import ConstraintSearch, Formulation

FIRST_NODES = 2000
"""Nodes of the search in the first round; every round has twice as many, up to ``MOST_DOUBLINGS``."""

FIRST_STEPS = 0.02
"""CP-SAT's deterministic time in the first round: about as long as the search takes."""

MOST_DOUBLINGS = 4

FORMULATIONS: tuple[Formulation, ...] = ("boxes", "slices")


class Portfolio:
    """Searches for one instance that go on from round to round."""

    def __init__(self, instance: Instance, seed: int, workers: int) -> None:
        self.solver = ""
        self.rounds = 0
        self.offsets: Numbers
        self._instance = instance
        self._seed = seed
        self._workers = workers
        self._restarts = Restarts(instance, seed)

    def round(self, deadline: float) -> Outcome:
        """One more round, or less where ``time.perf_counter()`` reaches the deadline."""
        doublings = min(self.rounds, MOST_DOUBLINGS)
        self.rounds += 1
        if self.rounds == 1:
            # One run before CP-SAT is loaded: most instances need no more.
            outcome = self._own(self._restarts.run(1, deadline))
            if outcome != "stopped":
                return outcome
        return self._shared(FIRST_NODES << doublings, FIRST_STEPS * 2**doublings, deadline)

    def _shared(self, nodes: int, steps: float, deadline: float) -> Outcome:
        from .constraint import ConstraintSearch

        if not ConstraintSearch.fits(self._instance):
            return self._own(self._restarts.run(nodes, deadline))
        constraint = ConstraintSearch(self._instance, FORMULATIONS[self.rounds % 2], self._seed + self.rounds)
        if self._workers == 1:
            outcome = self._own(self._restarts.run(nodes, deadline))
            return outcome if outcome != "stopped" else self._theirs(constraint, constraint.run(steps, deadline))
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(constraint.run, steps, deadline)
            outcome = self._own(self._restarts.run(nodes, deadline))
            if outcome == "stopped":
                return self._theirs(constraint, future.result())
            constraint.stop()
            return outcome

    def _own(self, outcome: Outcome) -> Outcome:
        self.solver, self.offsets = "canonical search", self._restarts.offsets
        return outcome

    def _theirs(self, constraint: ConstraintSearch, outcome: Outcome) -> Outcome:
        self.solver, self.offsets = f"CP-SAT {constraint.formulation}", constraint.offsets
        return outcome
