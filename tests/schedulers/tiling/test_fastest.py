"""The fastest tiling: not slower than that with the fewest bytes, never slower with more memory, above its bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.ir.machine_file import machine
from instar.schedulers.tiling.fastest import fastest
from instar.schedulers.tiling.operators import linear
from instar.schedulers.tiling.problem import Limits, TilingProblem
from instar.schedulers.tiling.program import program
from instar.schedulers.tiling.search import solve
from instar.schedulers.timing.replay import replay
from instar.schedulers.timing.timeline import cycles

from .instances import problems

U65 = machine("ethos-u65-mid")


def test_more_memory_is_never_slower() -> None:
    problem = linear(32, 128, 256)
    times = [fastest(problem, U65, Limits(kib * 1024, 16, 2)) for kib in (16, 32, 64)]
    totals = [found.timing.total_cycles for found in times]
    assert totals == sorted(totals, reverse=True)
    assert all(found.bound_cycles <= found.timing.total_cycles for found in times)
    fewest = solve(problem, Limits(64 * 1024, 16, 2)).tiling
    assert fewest is not None
    assert totals[-1] < cycles(U65, program(problem, fewest, 2)).total_cycles


@settings(max_examples=8, deadline=None, derandomize=True)
@given(problems(), st.integers(1, 2))
def test_times_are_above_the_bound_and_replay(problem: TilingProblem, buffers: int) -> None:
    found = fastest(problem, U65, Limits(1024, 1, buffers))
    assert found.bound_cycles <= found.timing.total_cycles == replay(U65, program(problem, found.tiling, buffers))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"linear: expected a tiling within 2 bytes.*at least 6 bytes"):
        fastest(linear(4, 4, 4), U65, Limits(2))
