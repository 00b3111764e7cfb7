"""Times of kernels as the runtime's profiler sees them, of several models that take turns.

In a network, a layer finds its weights where the layers before it left the caches. A model that runs alone over and
over keeps its own there, which flatters weights that just fit; so models take turns, like layers.

The profiler reads a clock that goes on while the machine does something else. Where a run happens in the thread that
asks for it, that thread's processor time says how much of the run was its own: the runs that were disturbed least
count, less their share of disturbance.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cases import CaseModel
from .session import KernelRun, clock_of, events_of, kernels_of, lower_quartile, make_session, run

TURNS = 30
"""Runs of each model."""

CALM = 0.5
"""Share of the runs that counts."""


@dataclass(frozen=True)
class ProfiledRun:
    """The kernels of one run, and how much of its time was its own: 1 where nothing disturbed it."""

    kernels: tuple[KernelRun, ...]
    own: float


def profiled_in_turns(models: Sequence[CaseModel], *, threads: int = 1, turns: int = TURNS) -> list[list[ProfiledRun]]:
    """All runs of each model, after one that warms up.

    Raises:
        LoweringError: the runtime refuses a model, or a kernel fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = [
            make_session(model.model, threads=threads, profile=str(Path(folder) / f"{place}"))
            for place, model in enumerate(models)
        ]
        own = [[_own_share(lambda s=s, m=m: run(s, m.feeds), threads) for s, m in zip(sessions, models, strict=True)]
               for _ in range(turns + 1)]  # fmt: skip
        events = [kernels_of(events_of(Path(session.end_profiling()))) for session in sessions]
    return [_runs(found, [row[place] for row in own])[1:] for place, found in enumerate(events)]


def _own_share(call: Callable[[], object], threads: int) -> float:
    clock = clock_of(threads)
    start, own = time.perf_counter(), clock()
    call()
    own = clock() - own
    return min(1.0, own / max(time.perf_counter() - start, 1e-9))


def _runs(kernels: Sequence[KernelRun], own: Sequence[float]) -> list[ProfiledRun]:
    length = len(kernels) // len(own)
    return [ProfiledRun(tuple(kernels[i * length : (i + 1) * length]), share) for i, share in enumerate(own)]


Counted = Callable[[Sequence[KernelRun]], Sequence[KernelRun]]
"""Of a run's kernels those that make up the time."""


def milliseconds_of(runs: Sequence[ProfiledRun], counted: Counted) -> float:
    """The time inside the counted kernels of one run; the profiler rounds each down to whole microseconds."""
    calm = sorted(runs, key=lambda one: -one.own)[: max(1, round(CALM * len(runs)))]
    return 1e-3 * lower_quartile([one.own * sum(k.microseconds + 0.5 for k in counted(one.kernels)) for one in calm])
