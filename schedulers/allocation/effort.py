"""What the exact part is given and what it answers: most problems need no CP-SAT, and then load none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Effort:
    """How long the solver may work: wall time, and CP-SAT's deterministic time (``steps``), the same in every run."""

    seconds: float
    steps: float
    seed: int
    workers: int


@dataclass(frozen=True)
class CoreResult:
    """``picks`` (positions in the given options) if any; ``above`` bounds ``loss - reference`` from below."""

    status: Literal["optimal", "feasible", "infeasible", "unknown"]
    picks: tuple[int, ...]
    above: int
