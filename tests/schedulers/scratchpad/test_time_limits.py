"""The replay of what a search found keeps to the time limit too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from networks_of_scratchpads import random_network, residual

from instar.schedulers.scratchpad import results, solver
from instar.schedulers.scratchpad.candidates import Candidate, OutOfTimeError
from instar.schedulers.scratchpad.checker import Replay, check, replay
from instar.schedulers.scratchpad.moves import Moves
from instar.schedulers.scratchpad.options import Options
from instar.schedulers.scratchpad.problem import Problem
from instar.schedulers.scratchpad.schedule import Refused, Schedule
from instar.schedulers.scratchpad.search import Search
from instar.schedulers.scratchpad.sequenced import Sequenced
from instar.schedulers.scratchpad.solver import next_best, solve


def test_every_stripe_may_end_a_replay() -> None:
    schedule = solve(residual(), Options(1500, stream_buffer_bytes=64))
    stripes: list[int] = []
    assert replay(residual(), schedule, lambda: stripes.append(1)).violations == ()
    assert len(stripes) > len(schedule.ranges)

    def over() -> None:
        raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        replay(residual(), schedule, over)


def test_a_limit_that_is_over_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = residual(), Options(2000, stream_buffer_bytes=64)
    smaller = solve(network, Options(1500, stream_buffer_bytes=64))
    monkeypatch.setattr(results, "OVERTIME", -1.0)
    late = solve(network, options)
    assert (late.status, late.order, check(network, late)) == ("timeout", (), ())
    assert next_best(network, options, range(len(network.operators)), ()).status == "timeout"
    known = solve(network, options, hint=smaller)
    assert (known.status, known.ranges, known.budget_bytes) == ("feasible", smaller.ranges, 2000)


def test_the_first_schedule_is_in_hand_where_a_later_replay_is_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, options = random_network(3, 12), Options(60, stream_buffer_bytes=8)
    best, first = solve(network, options), list[Replay]()

    def only_once(problem: Problem, schedule: Schedule, each_stripe: Callable[[], None]) -> Replay:
        if first:
            raise OutOfTimeError
        first.append(replay(problem, schedule, each_stripe))
        return first[0]

    monkeypatch.setattr(results, "replay", only_once)
    schedule = solve(network, options)
    assert check(network, schedule) == ()
    assert schedule.status == "feasible"
    assert schedule.traffic == first[0].traffic
    assert schedule.bound_bytes <= best.traffic.total_bytes < schedule.traffic.total_bytes


class Clock:
    """Real time and what was added to it."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def perf_counter(self) -> float:
        """Seconds."""
        return time.perf_counter() + self.added_s


def test_the_search_leaves_time_for_a_replay_as_long_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, deadlines, replayed = Clock(), list[float](), list[int]()

    def slow(problem: Problem, schedule: Schedule, each_stripe: Callable[[], None]) -> Replay:
        found = replay(problem, schedule, each_stripe)
        clock.added_s += 700
        replayed.append(len(deadlines))
        return found

    class Watched(Search):
        def __init__(
            self,
            net: Sequenced,
            found: Sequence[Candidate],
            moves: Moves,
            options: Options,
            width: int,
            deadline: float,
            refused: Sequence[Sequence[Refused]] = (),
            *,
            spilled: bool = False,
        ) -> None:
            deadlines.append(deadline)
            super().__init__(net, found, moves, options, width, deadline, refused, spilled=spilled)

    monkeypatch.setattr(results, "time", clock)
    monkeypatch.setattr(results, "replay", slow)
    monkeypatch.setattr(solver, "Search", Watched)
    solve(random_network(3, 12), Options(60, time_limit_s=1000.0, stream_buffer_bytes=8))
    assert deadlines[replayed[0] :]
    assert deadlines[0] - max(deadlines[replayed[0] :]) > 500
