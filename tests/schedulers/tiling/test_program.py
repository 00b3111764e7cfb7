"""Programs of tilings: their transfers are the counted bytes, both clocks agree, two buffers are not slower."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.machine_file import machine
from instar.schedulers.tiling.counter import count
from instar.schedulers.tiling.operators import linear
from instar.schedulers.tiling.problem import Limits, Tiling, TilingProblem
from instar.schedulers.tiling.program import program
from instar.schedulers.tiling.spans import tile_sizes
from instar.schedulers.timing.events import Compute, Transfer
from instar.schedulers.timing.replay import replay
from instar.schedulers.timing.timeline import cycles

from .instances import problems

U65 = machine("ethos-u65-mid")


@st.composite
def tilings(draw: st.DrawFn, problem: TilingProblem) -> Tiling:
    tiles = tuple(draw(st.sampled_from(tile_sizes(dim))) for dim in problem.dims)
    return Tiling(tiles, tuple(draw(st.permutations([dim.name for dim in problem.dims]))))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_programs_move_what_is_counted_and_compute_everything(data: st.DataObject) -> None:
    problem = data.draw(problems())
    tiling = data.draw(tilings(problem))
    counted = count(problem, tiling, Limits(0))
    single, double = program(problem, tiling, 1), program(problem, tiling, 2)
    for events in (single, double):
        moves = [event for event in events if isinstance(event, Transfer)]
        for direction, expected in (("read", counted.read_bytes), ("write", counted.written_bytes)):
            for name, size in expected.items():
                mine = [move.size_bytes for move in moves if (move.name, move.direction) == (name, direction)]
                assert size <= sum(mine) <= size + len(mine)  # every transfer is rounded up to bytes
        computed = [event for event in events if isinstance(event, Compute)]
        assert len(computed) == counted.steps
        assert sum(event.macs for event in computed) == problem.macs
        assert cycles(U65, events).total_cycles == replay(U65, events)
    assert cycles(U65, double).bound_cycles <= cycles(U65, double).total_cycles


def test_two_buffers_hide_what_one_does_not() -> None:
    problem = linear(64, 2048, 512)
    tiling = Tiling((64, 128, 512), ("m", "n", "k"))
    one, two = (cycles(U65, program(problem, tiling, buffers)) for buffers in (1, 2))
    assert two.total_cycles < 0.8 * one.total_cycles
    assert two.bound_cycles == one.bound_cycles <= two.total_cycles < 1.15 * two.bound_cycles
    assert one.total_cycles > one.compute_cycles + one.bus_cycles


def test_partial_sums_are_written_before_they_are_read_back() -> None:
    events = program(linear(1, 2, 2), Tiling((1, 1, 1), ("k", "m", "n")), 2)
    transfers = [event for event in events if isinstance(event, Transfer) and event.name == "y"]
    returns = [event for event in transfers if event.direction == "read"]
    assert len(returns) == 2
    for event in returns:
        writes = [need for need in event.needs if getattr(events[need], "direction", "") == "write"]
        assert writes
    assert math.isclose(sum(event.size_bytes for event in returns), 8)
