"""The worked examples of the contest's PROBLEM.md, the two open points, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instar.ir.errors import ScheduleError
from instar.schedulers.mlsys2026.evaluator import Rules, evaluate
from instar.schedulers.mlsys2026.problem import Instance, Op, Subgraph, dump_schedule, load_instance, load_schedule

DATA = Path(__file__).parents[2] / "data" / "mlsys2026"
NONE: frozenset[int] = frozenset()


def instance(count: int, size: int, ops: list[Op], capacity: int) -> Instance:
    return Instance(((size, size),) * count, tuple(ops), capacity, 10, (128, 128))


def pointwise(*tensors: int, cost: float) -> Op:
    return Op("Pointwise", tensors[:-1], tensors[-1], cost)


CHAIN = [pointwise(0, 1, cost=1000), pointwise(1, 2, cost=100)]
ONE = instance(3, 128, CHAIN, 35000)
TWO = instance(3, 256, CHAIN, 35000)
"""The statement says 25000, in which its own tiles of 2 x 16384 do not fit by its own rule."""
DIAMOND = instance(
    4, 128, [pointwise(0, 1, cost=1500), pointwise(1, 2, cost=1500), pointwise(1, 2, 3, cost=1500)], 50000
)
PRODUCT = instance(3, 128, [Op("MatMul", (0, 1), 2, 1500)], 25000)
PRODUCTS = instance(5, 128, [Op("MatMul", (0, 1), 3, 2000), Op("MatMul", (3, 2), 4, 2000)], 45000)
WHOLE = (128, 128, 1)


@pytest.mark.parametrize("rules", [Rules(), Rules("full"), Rules("native", "refused"), Rules("full", "refused")])
@pytest.mark.parametrize(
    ("graph", "schedule", "latencies"),
    [
        (ONE, [Subgraph((0,), WHOLE), Subgraph((1,), WHOLE)], [3276.8, 3276.8]),
        (ONE, [Subgraph((0, 1), WHOLE)], [3276.8]),
        (ONE, [Subgraph((0, 1), (64, 64, 1))], [4400]),
        (TWO, [Subgraph((0,), WHOLE), Subgraph((1,), WHOLE)], [13107.2, 13107.2]),
        (TWO, [Subgraph((0, 1), WHOLE)], [13107.2]),
        # The statement's JSON says 1638.4 for the second one, its text and total 3276.8; for the third 4915.2 (text).
        (DIAMOND, [Subgraph((0,), WHOLE), Subgraph((1,), WHOLE), Subgraph((2,), WHOLE)], [3276.8, 3276.8, 4915.2]),
        (DIAMOND, [Subgraph((0, 1), WHOLE, frozenset({2})), Subgraph((0, 2), WHOLE)], [3000, 3276.8]),
        (DIAMOND, [Subgraph((0,), WHOLE, frozenset({1})), Subgraph((1, 2), WHOLE)], [1638.4, 3000]),
        (PRODUCT, [Subgraph((0,), (64, 64, 128))], [8192]),
        (PRODUCT, [Subgraph((0,), (64, 64, 128), NONE, (0, 1, 3, 2))], [6548]),
        (PRODUCTS, [Subgraph((0, 1), (128, 128, 32))], [6915.2]),
    ],
)
def test_worked_examples(graph: Instance, schedule: list[Subgraph], latencies: list[float], rules: Rules) -> None:
    assert evaluate(graph, schedule, rules) == pytest.approx(latencies, rel=1e-12)


def test_a_chain_of_products_needs_more_than_the_capacity() -> None:
    with pytest.raises(ScheduleError, match="subgraph 0: expected a working set of at most 45000, found 65536"):
        evaluate(PRODUCTS, [Subgraph((0, 1), (128, 128, 128))])


def test_the_second_example_does_not_fit_as_stated() -> None:
    with pytest.raises(ScheduleError, match="expected a working set of at most 25000, found 32768; use smaller tiles"):
        evaluate(instance(3, 256, CHAIN, 25000), [Subgraph((0, 1), WHOLE)])


def test_the_two_open_points() -> None:
    large = Instance(((256, 256),) * 3, (Op("MatMul", (0, 1), 2, 1500),), 10**6, 10**9, (128, 128))
    tiles = [Subgraph((0,), (128, 128, 256))]
    assert evaluate(large, tiles, Rules("full")) == (4 * 1500,)
    assert evaluate(large, tiles, Rules("native")) == (8 * 1500,)
    wide = [Subgraph((0,), (256, 128, 256))]
    assert evaluate(large, wide, Rules("full")) == (4 * 1500,)
    with pytest.raises(ScheduleError, match=r"expected at most the native \(128, 128\), found \(256, 128\)"):
        evaluate(large, wide, Rules("full", "refused"))


def test_sums_keep_what_does_not_change_and_a_product_may_feed_pointwise() -> None:
    """Two steps of a sum, then one pointwise operation on the finished tile, whose other input is read once."""
    ops = [Op("MatMul", (0, 1), 2, 1000), pointwise(2, 3, 4, cost=100)]
    graph = instance(5, 128, ops, 100000)
    half = 128 * 64 / 10
    expected = max(500, 2 * half) + max(500 + 100, 2 * half + 2 * 2 * half)
    assert evaluate(graph, [Subgraph((0, 1), (128, 128, 64))]) == pytest.approx([expected])


def test_a_retained_input_is_read_once() -> None:
    ops = [pointwise(0, 1, cost=1), pointwise(0, 2, cost=1)]
    graph = instance(3, 256, ops, 2 * 256 * 256)
    schedule = [Subgraph((0,), WHOLE, frozenset({0})), Subgraph((1,), WHOLE)]
    assert evaluate(graph, schedule) == pytest.approx([2 * 65536 / 10, 65536 / 10])


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([Subgraph((0, 7), WHOLE)], r"subgraph 0: expected operations of the instance, found \(0, 7\)"),
        ([Subgraph((1,), WHOLE)], "subgraph 0: expected tensor 1 in slow or fast memory, found it in neither"),
        ([Subgraph((0,), WHOLE, frozenset({2}))], "expected to retain what it reads or makes for others, found 2"),
        ([Subgraph((0,), (0, 1, 1))], r"expected a granularity of at least 1, found \(0, 1, 1\)"),
        ([Subgraph((0,), WHOLE, NONE, (1,))], "expected an order of 1 tiles, found 1 numbers"),
        ([Subgraph((0,), WHOLE)], "schedule: expected every operation to run, found that 1 never does"),
        ([Subgraph((0, 1), WHOLE, frozenset({2}))], "schedule: expected the result 2 in slow memory at the end"),
        (
            [Subgraph((0, 1), WHOLE), Subgraph((1,), WHOLE)],
            "found it in neither",
        ),
    ],
)
def test_invalid_schedules(schedule: list[Subgraph], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        evaluate(ONE, schedule)


def test_results_of_different_sizes_do_not_run_together() -> None:
    graph = Instance(((1, 1), (1, 1), (2, 2), (2, 2)), (pointwise(0, 1, cost=1), pointwise(2, 3, cost=1)), 9, 1, (1, 1))
    with pytest.raises(ScheduleError, match=r"expected results of one size, found \[\(1, 1\), \(2, 2\)\]; split it"):
        evaluate(graph, [Subgraph((0, 1), (1, 1, 1))])


def test_instances_and_schedules_are_read() -> None:
    first = load_instance((DATA / "mlsys-2026-1.json").read_text(encoding="utf-8"))
    assert (len(first.ops), first.capacity, first.native) == (5, 60000, (128, 128))
    assert len(load_instance((DATA / "mlsys-2026-5.json").read_text(encoding="utf-8")).ops) == 19
    subgraphs = (Subgraph((0, 1), WHOLE, frozenset({2})), Subgraph((0,), WHOLE, NONE, (0,)))
    assert load_schedule(dump_schedule(subgraphs, (1.5, 2.0))) == (subgraphs, (1.5, 2.0))


def changed(**changes: object) -> str:
    base = {
        "widths": [2, 2],
        "heights": [2, 2],
        "inputs": [[0]],
        "outputs": [[1]],
        "base_costs": [1],
        "op_types": ["Pointwise"],
        "fast_memory_capacity": 9,
        "slow_memory_bandwidth": 1,
        "native_granularity": [1, 1],
    }
    return json.dumps(base | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(widths=[2]), "expected lists of one length per tensor and operation, found 1 widths, 2 heights"),
        (changed(op_types=["Conv"]), "operation 0: expected MatMul or Pointwise, found 'Conv'"),
        (changed(outputs=[[0, 1]]), "operation 0: expected one output, found 2"),
        (changed(native_granularity=[0, 1]), "expected width and height"),
        (changed(inputs=[[5]]), "operation 0: expected tensors from 0 to 1"),
        (changed(widths=[2, 3]), "operation 0: expected inputs that fit 3x2, found tensor 0"),
        (changed(op_types=["MatMul"]), "operation 0: expected two factors of a MatMul, found 1"),
        (changed(depth=3), "expected known keys, found 'depth'"),
    ],
)
def test_wrong_instances(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        load_instance(text)


def test_two_makers_and_wrong_schedules() -> None:
    with pytest.raises(ScheduleError, match="operation 1: expected a tensor that nobody else makes, found 1"):
        instance(2, 2, [pointwise(0, 1, cost=1), pointwise(0, 1, cost=1)], 9)
    wrong = {"subgraphs": [[0]], "granularities": [[1, 1]], "tensors_to_retain": [[]], "subgraph_latencies": [1]}
    with pytest.raises(ScheduleError, match="schedule: expected lists of one length and three numbers per granularity"):
        load_schedule(json.dumps(wrong))
