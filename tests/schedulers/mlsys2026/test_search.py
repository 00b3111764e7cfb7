"""Schedules that the search finds: valid, not worse than every operation alone, not better than the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import ScheduleError
from instar.schedulers.mlsys2026.evaluator import Rules, evaluate
from instar.schedulers.mlsys2026.problem import Instance, Op
from instar.schedulers.mlsys2026.search import alone, bound, search


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    sizes = [(8, 8)] * 3
    ops: list[Op] = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["MatMul", "Pointwise"]))
        count = 2 if kind == "MatMul" else draw(st.integers(1, 2))
        inputs = tuple(draw(st.integers(0, len(sizes) - 1)) for _ in range(count))
        ops.append(Op("MatMul" if kind == "MatMul" else "Pointwise", inputs, len(sizes), draw(st.integers(1, 50))))
        sizes.append((8, 8))
    return Instance(tuple(sizes), tuple(ops), draw(st.integers(40, 400)), draw(st.integers(1, 8)), (4, 4))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(instances(), st.sampled_from([Rules("native", "refused"), Rules("full", "scaled")]))
def test_search_lies_between_bound_and_single_operations(instance: Instance, rules: Rules) -> None:
    found, single = search(instance, rules), alone(instance, rules)
    assert found.latencies == evaluate(instance, found.schedule, rules)
    assert bound(instance, rules) <= found.total * (1 + 1e-12)
    assert found.total <= single.total * (1 + 1e-12)


def test_nothing_fits() -> None:
    instance = Instance(((8, 8),) * 2, (Op("Pointwise", (0,), 1, 1),), 1, 1, (4, 4))
    with pytest.raises(ScheduleError, match="schedule: expected tiles that fit 1, found none"):
        search(instance)


def test_a_cycle_is_named() -> None:
    ops = (Op("Pointwise", (1,), 0, 1), Op("Pointwise", (0,), 1, 1))
    with pytest.raises(ScheduleError, match="expected a graph without cycles, found one through operation 0"):
        search(Instance(((8, 8),) * 2, ops, 200, 1, (4, 4)))
