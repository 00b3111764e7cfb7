"""Ranges that are cut along columns or channels: against brute force, on real numbers, and where rows do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import Builder, forked, random_network, residual

from instar.ir.errors import ScheduleError
from instar.schedulers.scratchpad.bands import band_windows, extents
from instar.schedulers.scratchpad.checker import check
from instar.schedulers.scratchpad.executor import execute
from instar.schedulers.scratchpad.lowering import lower
from instar.schedulers.scratchpad.options import Options, Tiles
from instar.schedulers.scratchpad.problem import Problem, Window
from instar.schedulers.scratchpad.program import NoAddressesError, assemble
from instar.schedulers.scratchpad.schedule import Band, Schedule
from instar.schedulers.scratchpad.schedule_json import dump_schedule, load_schedule
from instar.schedulers.scratchpad.simulator import StandIn, evaluate, simulate
from instar.schedulers.scratchpad.solver import solve

from .brute_force import cheapest

NOTHING = 1 << 60


def wide(width: int = 32) -> Problem:
    """Two convolutions over an image that is much wider than high."""
    net = Builder(4, width, 4)
    net.conv(net.conv(0, 8), 4)
    return net.problem("wide")


def deep() -> Problem:
    """Products whose weights are larger than everything else."""
    net = Builder(4, 1, 16)
    net.conv(net.conv(0, 64, 1), 16, 1)
    return net.problem("deep")


def agrees(network: Problem, schedule: Schedule) -> bool:
    """Whether simulator and commands give the bits of the reference and the promised bytes; ``False``: no addresses."""
    assert check(network, schedule) == ()
    try:
        program = assemble(network, schedule)
    except NoAddressesError:
        return False
    wanted, run = evaluate(network, seed=3), simulate(program, seed=3)
    done = execute(lower(program), StandIn(network, 3))
    for tensor, values in wanted.items():
        np.testing.assert_array_equal(run.outputs[tensor], values)
        np.testing.assert_array_equal(done.outputs[tensor], values)
    assert run.traffic == done.traffic == schedule.traffic
    assert done.peak_bytes <= schedule.budget_bytes
    return True


def test_windows_overlap_by_the_halos_of_all_kernels_behind_them() -> None:
    found = band_windows(wide(), (0, 1), Band("columns", 16))
    assert found == [{2: (0, 16), 1: (0, 17), 0: (0, 18)}, {2: (16, 32), 1: (15, 32), 0: (14, 32)}]
    apart = band_windows(deep(), (1,), Band("channels", 8))
    assert apart == [{2: (0, 8), 1: (0, 64)}, {2: (8, 16), 1: (0, 64)}]


def test_what_cannot_be_cut_has_no_windows() -> None:
    net = Builder(4, 6, 8)
    net.add("mean", (net.add("softmax", (0,), (1, 4, 6, 8)),), (1, 1, 1, 8))
    network = net.problem()
    assert band_windows(network, (0,), Band("channels", 4)) is None
    assert band_windows(network, (0,), Band("columns", 3)) is not None
    assert band_windows(network, (0, 1), Band("columns", 1)) is None
    assert band_windows(network, (0,), Band("columns", 0)) is None


def test_skipped_columns_are_made_by_somebody() -> None:
    net = Builder(6, 9, 2)
    net.add("max_pool_2d", (net.conv(0, 2),), (1, 3, 4, 2), window=Window((1, 1), (2, 2)))
    found = band_windows(net.problem(), (0, 1), Band("columns", 1))
    assert found is not None
    assert [band[1] for band in found] == [(0, 1), (1, 3), (3, 5), (5, 9)]


def test_sizes_worth_trying() -> None:
    assert extents(1, few=False) == ()
    assert extents(5, few=True) == (1, 2, 3, 4)
    assert extents(112, few=True) == (16, 32, 64)
    assert extents(30, few=True) == (2, 4, 8, 15)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from((20, 30, 60, 100)), st.booleans())
def test_nothing_is_cheaper(seed: int, operators: int, budget: int, no_spill: bool) -> None:
    options = Options(budget, stream_buffer_bytes=8, no_spill=no_spill, fixed_order=True, tiles="always")
    network = random_network(seed, operators)
    schedule = solve(network, options)
    assert check(network, schedule) == ()
    assert schedule.status in ("optimal", "infeasible")
    found = schedule.traffic.total_bytes if schedule.status == "optimal" else NOTHING
    assert not found or cheapest(network, options, found) is None
    rows = solve(network, replace(options, tiles="never"))
    assert rows.status == "infeasible" or rows.traffic.total_bytes >= schedule.traffic.total_bytes


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from((1.0, 1.2, 1.6)), st.booleans())
def test_random_networks_run(seed: int, operators: int, share: float, no_spill: bool) -> None:
    network = random_network(seed, operators)
    options = Options(1, stream_buffer_bytes=48, no_spill=no_spill, tiles="always")
    refused = solve(network, options).infeasible
    assert refused is not None
    schedule = solve(network, replace(options, budget_bytes=int(share * refused.smallest_budget_bytes)))
    agrees(network, schedule)


@pytest.mark.parametrize("network", [wide(), deep(), residual(12), forked(8)])
def test_less_memory_is_enough_than_with_whole_rows(network: Problem) -> None:
    options = Options(1, stream_buffer_bytes=16)
    rows, tiles = (solve(network, replace(options, tiles=how)).infeasible for how in ("never", "auto"))
    assert rows is not None
    assert tiles is not None
    assert tiles.smallest_budget_bytes < rows.smallest_budget_bytes
    schedule = solve(network, replace(options, budget_bytes=tiles.smallest_budget_bytes))
    assert any(piece.band is not None for piece in schedule.ranges)
    assert agrees(network, schedule)
    enough = solve(network, replace(options, budget_bytes=rows.smallest_budget_bytes))
    assert all(piece.band is None for piece in enough.ranges)


def test_the_judge_knows_what_a_band_may_not_do() -> None:
    network = wide()
    schedule = solve(network, Options(300, stream_buffer_bytes=16))
    place = next(place for place, piece in enumerate(schedule.ranges) if piece.band is not None)
    assert load_schedule(dump_schedule(schedule)) == schedule

    def wrong(band: Band | None) -> str:
        ranges = list(schedule.ranges)
        ranges[place] = replace(ranges[place], band=band)
        return check(network, replace(schedule, ranges=tuple(ranges)))[0]

    assert "expected operators that run in bands" in wrong(Band("columns", 0))
    assert "peak" in wrong(None) or "traffic" in wrong(None)
    with pytest.raises(ScheduleError, match=r"ranges\[\d\].band.axis: expected one of columns, channels, found 'rows'"):
        load_schedule(dump_schedule(schedule).replace('"columns"', '"rows"').replace('"channels"', '"rows"'))
    with pytest.raises(ScheduleError, match="tiles: expected one of auto, always, never, found 'often'"):
        Options(1, tiles=cast("Tiles", "often"))
