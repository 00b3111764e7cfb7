"""The least budget and the operator that asks for it: found around the largest operators, equal to all ranges'."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_scratchpads import Builder, random_network

from instar.schedulers.scratchpad import feasibility
from instar.schedulers.scratchpad.candidates import ANY, Candidate, Reach, candidates, ending
from instar.schedulers.scratchpad.feasibility import one_by_one, smallest_budget
from instar.schedulers.scratchpad.moves import Moves
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.search import Search
from instar.schedulers.scratchpad.sequenced import Sequenced, sequenced
from instar.schedulers.scratchpad.solver import solve


def least_of_all_ranges(net: Sequenced, options: Options, *, bands: bool) -> int:
    """The least over all cuts into ranges of the largest memory, every range made."""
    everything = Options(1 << 40, stream_buffer_bytes=options.stream_buffer_bytes, min_rows=options.min_rows)
    best = [0]
    for end in range(net.count):
        ways = [way for way in candidates(net, everything, Reach(ANY, ANY, bands)) if way.end == end]
        best.append(min(max(best[way.start], way.least_bytes()) for way in ways))
    return best[-1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 3), st.booleans())
def test_the_least_budget_is_that_of_all_ranges(seed: int, operators: int, rows: int, bands: bool) -> None:
    options = Options(0, stream_buffer_bytes=16, min_rows=rows)
    net = sequenced(random_network(seed, operators), range(operators), atomic=False)
    found = smallest_budget(net, options, bands=bands)
    least = least_of_all_ranges(net, options, bands=bands)
    assert (0 if found is None else found.needs.smallest_budget_bytes) == least


def test_a_long_network_is_refused_after_a_look_around_its_largest_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Builder(8, 8, 4)
    tensor = 0
    for place in range(300):
        tensor = net.conv(tensor, 32 if place == 150 else 4)
    made: list[int] = []

    def watched(net: Sequenced, end: int, options: Options, reach: Reach, deadline: float) -> Iterator[Candidate]:
        made.append(end)
        return ending(net, end, options, reach, deadline)

    monkeypatch.setattr(feasibility, "ending", watched)
    refused = solve(net.problem(), Options(0, stream_buffer_bytes=0))
    assert refused.status == "infeasible"
    assert refused.infeasible is not None
    assert refused.infeasible.operator in ("o151", "o152")
    assert refused.infeasible.smallest_budget_bytes > 0
    assert max(made) <= 152 + 8
    alone = one_by_one(sequenced(net.problem(), range(300), atomic=False), Options(0, stream_buffer_bytes=0))
    assert refused.infeasible.smallest_budget_bytes <= max(way.least_bytes() for way in alone)


def test_bands_of_short_ranges_never_need_more_than_long_ranges_of_rows() -> None:
    net = Builder(24, 8, 4)
    tensor = 0
    for place in range(14):
        tensor = net.conv(tensor, 4 if place % 7 == 6 else 24)
    network = net.problem()
    least = [solve(network, Options(0, stream_buffer_bytes=0, tiles=tiles)).infeasible for tiles in ("never", "auto")]
    rows, bands = (0 if found is None else found.smallest_budget_bytes for found in least)
    assert 0 < bands <= rows


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_where_nothing_stays_between_operators_there_is_always_a_way(seed: int, operators: int) -> None:
    net = sequenced(random_network(seed, operators), range(operators))
    alone = one_by_one(net, Options(0, stream_buffer_bytes=8))
    options = Options(max(way.least_bytes() for way in alone), stream_buffer_bytes=8)
    moves = Moves(net, options, both=False)
    found = Search(net, alone, moves, options, 1, math.inf, spilled=True).run().found
    assert found is not None
    assert all(not step.before[0] for step in found.steps)
    best = solve(net.problem, options)
    assert best.traffic.total_bytes <= found.cost_bytes
