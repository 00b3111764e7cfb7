"""Schedules whose cheapest residency has no addresses, and what comes instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks_of_scratchpads import forked, random_network, residual

from instar.schedulers.placement import PlacementProblem
from instar.schedulers.placement import solve as place
from instar.schedulers.scratchpad.addresses import shortest_failure, solve_with_addresses
from instar.schedulers.scratchpad.checker import check, replay
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.program import NoAddressesError, assemble
from instar.schedulers.scratchpad.schedule import Range, Refused
from instar.schedulers.scratchpad.simulator import evaluate, simulate
from instar.schedulers.scratchpad.solver import next_best, solve

LINES = 64
"""Bytes to which addresses are aligned, so that what fits as a sum does not fit as buffers."""


def tight(share: float = 1.5) -> Options:
    """A budget for the residual network at which the cheapest residency fits, but not at aligned addresses."""
    options = Options(1, stream_buffer_bytes=48, time_limit_s=60)
    refused = solve(residual(), options).infeasible
    assert refused is not None
    return replace(options, budget_bytes=int(refused.smallest_budget_bytes * share))


def test_the_next_best_residency_is_placed() -> None:
    network, options = residual(), tight()
    first = solve(network, options)
    with pytest.raises(NoAddressesError, match=r"expected addresses within .* bytes, found infeasible"):
        assemble(network, first, alignment_bytes=LINES)
    found = solve_with_addresses(network, options, alignment_bytes=LINES)
    assert found.program is not None
    assert found.refused >= 1
    assert (found.unplaced_bytes, found.schedule.bound_bytes) == (first.traffic.total_bytes, first.bound_bytes)
    assert found.fragmentation_bytes == found.schedule.traffic.total_bytes - found.unplaced_bytes > 0
    assert found.schedule.status == "feasible"
    assert found.gap_bytes >= 0
    assert found.program.height_bytes <= options.budget_bytes
    assert check(network, found.schedule) == ()
    assert set(found.schedule.offsets) == set(found.program.buffers)
    run = simulate(found.program, seed=1)
    for tensor, values in evaluate(network, seed=1).items():
        np.testing.assert_array_equal(run.outputs[tensor], values)
    assert run.traffic == found.schedule.traffic


def test_what_is_refused_is_the_shortest_part_that_fails() -> None:
    network, options = residual(), tight()
    first = solve(network, options)
    with pytest.raises(NoAddressesError) as caught:
        assemble(network, first, alignment_bytes=LINES)
    assert caught.value.proven
    cut = shortest_failure(network, first, caught.value.buffers, 10.0)
    starts = [piece.start for piece in first.ranges]
    begin = starts.index(cut[0].start)
    for low, high, status in ((begin, begin + len(cut), "infeasible"), (begin + 1, begin + len(cut), "feasible")):
        alive = [
            replace(buffer, lower=max(buffer.lower, low), upper=min(buffer.upper, high))
            for buffer in caught.value.buffers.values()
            if buffer.lower < high and low < buffer.upper
        ]
        known = place(PlacementProblem(tuple(alive), capacity_bytes=options.budget_bytes), workers=1).status
        assert (known == "infeasible") == (status == "infeasible")


@pytest.mark.parametrize("network", [residual(), forked(), random_network(4, 12)])
def test_what_is_refused_does_not_come_again(network: Problem) -> None:
    options = Options(1200, stream_buffer_bytes=48)
    schedule = first = solve(network, options)
    seen: list[tuple[Range, ...]] = []
    cuts: list[tuple[Refused, ...]] = []
    for _ in range(4):
        sizes = replay(network, schedule).range_bytes
        cut = tuple(
            Refused(piece.start, piece.stop, frozenset(piece.whole), size)
            for piece, size in zip(schedule.ranges, sizes, strict=True)
        )
        cuts.append(cut)
        seen.append(schedule.ranges)
        schedule = next_best(network, options, first.order, cuts)
        assert check(network, schedule) == ()
        assert schedule.traffic.total_bytes >= first.traffic.total_bytes
        assert schedule.ranges not in seen


def test_where_nothing_has_addresses() -> None:
    network = random_network(3, 12)
    least = solve(network, Options(1, stream_buffer_bytes=8)).infeasible
    assert least is not None
    options = Options(least.smallest_budget_bytes, stream_buffer_bytes=8, time_limit_s=3)
    found = solve_with_addresses(network, options, alignment_bytes=4096)
    assert found.program is None
    assert found.refused > 0
    assert (found.fragmentation_bytes, found.gap_bytes) == (0, 0)
    refused = solve_with_addresses(network, replace(options, budget_bytes=1))
    assert (refused.schedule.status, refused.program, refused.refused) == ("infeasible", None, 0)
