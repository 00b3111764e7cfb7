"""Cycles of programs: hand-counted cases, the two counters against each other, bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ConfigError, ScheduleError
from instar.ir.machine import Dma, Machine, Memory
from instar.ir.machine_file import machine
from instar.schedulers.timing.cost import energy_pj
from instar.schedulers.timing.events import Compute, Event, Transfer
from instar.schedulers.timing.replay import replay
from instar.schedulers.timing.timeline import cycles

NEAR = Memory("near", 1000, 8, 4, read_latency_cycles=0, write_latency_cycles=1)
OTHER = Memory("other", 1000, 2, 2, read_latency_cycles=0, write_latency_cycles=0)
FAR = Memory("far", 1 << 40, 2, 1, read_latency_cycles=10, write_latency_cycles=20)
SMALL = Machine("small", 1e6, (NEAR, OTHER), FAR, Dma(setup_cycles=1, transfers_in_flight=2), {"int8": 4})


def total(events: list[Event], on: Machine = SMALL) -> int:
    timing = cycles(on, events)
    assert timing.total_cycles == replay(on, events)
    return timing.total_cycles


def test_one_event() -> None:
    assert total([]) == 0
    assert total([Transfer("a", 0)]) == 0
    assert total([Transfer("a", 7)]) == 1 + 10 + 1 + 4
    assert total([Transfer("a", 7, "write")]) == 1 + 0 + 20 + 7
    assert total([Transfer("a", 7, memory="other")]) == 1 + 10 + 4
    assert total([Compute("c", 9)]) == 3
    assert total([Compute("c", 9, read_bytes=40)]) == 5
    assert total([Compute("c", 9, written_bytes=40)]) == 10


def test_latencies_in_flight_overlap_and_data_does_not() -> None:
    loads: list[Event] = [Transfer("a", 8), Transfer("b", 8)]
    assert total(loads) == 12 + 4 + 4
    assert total(loads, replace(SMALL, dma=Dma(setup_cycles=1, transfers_in_flight=1))) == 2 * (12 + 4)


def test_a_third_transfer_waits_for_the_first() -> None:
    loads: list[Event] = [Transfer("a", 8), Transfer("b", 8), Transfer("c", 8)]
    timing = cycles(SMALL, loads)
    assert timing.spans == ((0, 16), (0, 20), (16, 32))
    assert total(loads) == 32


def test_prefetch_hides_under_compute() -> None:
    single: list[Event] = [
        Transfer("a", 8),
        Compute("A", 80, needs=(0,)),
        Transfer("b", 8, needs=(1,)),
        Compute("B", 80, needs=(2,)),
    ]
    double: list[Event] = [
        Transfer("a", 8),
        Compute("A", 80, needs=(0,)),
        Transfer("b", 8),
        Compute("B", 80, needs=(2,)),
    ]
    assert total(single) == 2 * (16 + 20)
    assert total(double) == 16 + 20 + 20
    blocking = replace(SMALL, dma=Dma(setup_cycles=1, transfers_in_flight=2, overlaps_compute=False))
    assert total(double, blocking) == 2 * (16 + 20)


def test_long_transfers_are_split() -> None:
    split = replace(SMALL, dma=Dma(setup_cycles=1, transfers_in_flight=1, max_transfer_bytes=4))
    assert total([Transfer("a", 10)], split) == 3 * 12 + 2 + 2 + 1


def test_figures_of_a_timing() -> None:
    events: list[Event] = [Transfer("a", 8), Compute("A", 80, needs=(0,))]
    timing = cycles(SMALL, events)
    assert (timing.compute_cycles, timing.bus_cycles, timing.latency_cycles) == (20, 4, 12)
    assert (timing.bound_cycles, timing.stall_cycles) == (20, 16)


def test_energy() -> None:
    priced = machine("ethos-u65-mid{dram.read_pj_per_byte=10, dram.write_pj_per_byte=20, mac_pj.int8=0.5}")
    assert energy_pj(priced, [Transfer("a", 3), Transfer("b", 2, "write"), Compute("c", 4)]) == 30 + 40 + 2
    with pytest.raises(ConfigError, match=r"expected a value of dram\.read_pj_per_byte"):
        energy_pj(machine("ethos-u65-mid"), [Transfer("a", 3)])


@pytest.mark.parametrize(
    "event", [Transfer("t", 1, needs=(1,)), Compute("t", 1, needs=(0,)), Compute("t", 1, needs=(-1,))]
)
def test_needs_are_before(event: Event) -> None:
    for count in (cycles, replay):
        with pytest.raises(ScheduleError, match="event 0 't': expected needs among the 0 events before it"):
            count(SMALL, [event])


@pytest.mark.parametrize("event", [Transfer("t", -1), Compute("t", -1), Compute("t", 1, written_bytes=-1)])
def test_amounts_are_not_negative(event: Event) -> None:
    with pytest.raises(ScheduleError, match="event 0 't': expected amounts of at least 0, found -1"):
        cycles(SMALL, [event])


def test_a_read_only_memory_is_not_written() -> None:
    with pytest.raises(ConfigError, match="found the read-only 'flash'"):
        cycles(machine("ethos-u55-flash"), [Transfer("t", 1, "write")])


@st.composite
def programs(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = []
    for place in range(draw(st.integers(0, 12))):
        needs = tuple(sorted(draw(st.sets(st.integers(0, place - 1), max_size=3)))) if place else ()
        size = draw(st.integers(0, 30))
        if draw(st.booleans()):
            events.append(Compute("c", size, read_bytes=draw(st.integers(0, 30)), needs=needs))
        else:
            direction = "write" if draw(st.booleans()) else "read"
            events.append(Transfer("t", size, direction, needs, draw(st.sampled_from(["", "other"]))))
    return events


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    dma = Dma(
        setup_cycles=draw(st.integers(0, 3)),
        transfers_in_flight=draw(st.integers(1, 3)),
        max_transfer_bytes=draw(st.sampled_from([0, 7])),
        overlaps_compute=draw(st.booleans()),
    )
    far = replace(
        FAR, read_latency_cycles=draw(st.integers(0, 9)), burst_bytes=4, reads_in_flight=draw(st.integers(0, 3))
    )
    return replace(SMALL, dma=dma, slow=far)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(programs(), machines())
def test_both_counters_agree_and_bounds_hold(events: list[Event], on: Machine) -> None:
    timing = cycles(on, events)
    assert timing.total_cycles == replay(on, events)
    assert timing.bound_cycles <= timing.total_cycles
    assert timing.total_cycles <= timing.compute_cycles + timing.bus_cycles + timing.latency_cycles
    assert all(
        timing.spans[need][1] <= start
        for event, (start, _) in zip(events, timing.spans, strict=True)
        for need in event.needs
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(programs(), machines())
def test_more_in_flight_and_fewer_needs_are_never_slower(events: list[Event], on: Machine) -> None:
    before = cycles(on, events).total_cycles
    more = replace(on, dma=replace(on.dma, transfers_in_flight=on.dma.transfers_in_flight + 1))
    free: list[Event] = [replace(event, needs=()) for event in events]
    assert cycles(more, events).total_cycles <= before
    assert cycles(on, free).total_cycles <= before
