"""The tiling of an operator that takes the fewest cycles on a machine, among those that move the fewest bytes.

Larger tiles move fewer bytes but overlap less: the first load and the last store are hidden by nothing. So the tilings
that are proven best at growing budgets are timed, and the fastest is taken. A larger budget offers all that a smaller
one does, as budgets are the least that is needed, powers of two, and the given one; with powers of two it is never
slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir.errors import ScheduleError
from ...ir.machine import Machine
from ..timing.timeline import Timing, cycles
from .bounds import compulsory_bytes
from .problem import Limits, Tiling, TilingProblem
from .program import program
from .search import smallest_budget, solve

MOST_STEPS = 4_000
"""Tilings of more steps are not timed: their loops cost more than what they hide."""


@dataclass(frozen=True)
class Fastest:
    """A tiling and its time.

    Attributes:
        tiling: of the operator.
        timing: on the machine.
        bound_cycles: no tiling is faster: arithmetic, or compulsory bytes at the faster of the bus's two rates.
    """

    tiling: Tiling
    timing: Timing
    bound_cycles: int


def fastest(problem: TilingProblem, machine: Machine, limits: Limits) -> Fastest:
    """The fastest of the tilings described above.

    Raises:
        ScheduleError: no tiling fits, or all that fit take too many steps to be timed.
        ConfigError: the machine's description leaves a number unknown that is needed.
    """
    timed: list[tuple[int, Tiling, Timing]] = []
    for budget in _budgets(problem, limits):
        found = solve(problem, Limits(budget, limits.alignment_bytes, limits.buffers))
        if found.tiling is not None and found.cost is not None and found.cost.steps <= MOST_STEPS:
            timing = cycles(machine, program(problem, found.tiling, limits.buffers))
            timed.append((timing.total_cycles, found.tiling, timing))
    if not timed:
        raise ScheduleError(
            f"{problem.name}: expected a tiling within {limits.budget_bytes} bytes and {MOST_STEPS} steps, found none; "
            f"give more fast memory, at least {smallest_budget(problem, limits)} bytes"
        )
    _, tiling, timing = min(timed, key=lambda item: item[0])
    return Fastest(tiling, timing, _bound(problem, machine))


def _budgets(problem: TilingProblem, limits: Limits) -> list[int]:
    least = smallest_budget(problem, limits)
    between = (1 << power for power in range(limits.budget_bytes.bit_length()))
    return sorted({size for size in (least, *between, limits.budget_bytes) if least <= size <= limits.budget_bytes})


def _bound(problem: TilingProblem, machine: Machine) -> int:
    near, slow = machine.fast[0], machine.slow
    read = min(machine.bytes_per_cycle(slow, "read"), machine.bytes_per_cycle(near, "write"))
    rates = [read]
    if not slow.read_only:
        rates.append(min(machine.bytes_per_cycle(slow, "write"), machine.bytes_per_cycle(near, "read")))
    return max(machine.compute_cycles(problem.macs, problem.dtype), math.floor(compulsory_bytes(problem) / max(rates)))
