"""Problems and schedules as values: what is refused, and both JSON formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from instar.ir.errors import ScheduleError
from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor, Window
from instar.schedulers.scratchpad.problem_json import dump_problem, load_problem
from instar.schedulers.scratchpad.schedule import Infeasible, Range, Schedule, Traffic
from instar.schedulers.scratchpad.schedule_json import dump_schedule, load_schedule

CONV = {"name": "a", "kind": "conv_2d", "ins": [], "bytes": 256, "shape": [1, 8, 8, 4], "net_in": True, "win": 112}
ADD = {"name": "a", "kind": "add", "ins": [0, 0], "bytes": 256, "shape": [1, 8, 8, 4], "out": True}
GRAPH = {"model": "m", "input": [1, 8, 8, 3], "dtype": "int8", "ops": [CONV | {"kernel": [3, 3], "pad": "same"}, ADD]}


def graph(**changes: object) -> str:
    return json.dumps(GRAPH | changes)


def test_an_op_graph_is_read() -> None:
    problem = load_problem(graph())
    assert [tensor.name for tensor in problem.tensors] == ["network input", "a#0", "a#1"]
    assert [tensor.role for tensor in problem.tensors] == ["input", "activation", "output"]
    assert problem.operators[0].window == Window((3, 3), pad="same")
    assert problem.operators[1].inputs == (1, 1)
    assert problem.consumers == ((0,), (1,), ())
    assert problem.producer == (None, 0, 1)
    assert problem.has_shapes


def test_an_op_graph_without_shapes_is_read() -> None:
    operations = [{"name": "x", "kind": "Conv2d", "ins": [], "bytes": 1 << 40}]
    problem = load_problem(json.dumps({"model": "m", "input": [1, 3], "dtype": "int8", "ops": operations}))
    assert problem.tensors == (Tensor("x", 1 << 40, (), "output"),)
    assert not problem.has_shapes


def test_the_own_format_reads_back() -> None:
    problem = load_problem(graph())
    assert load_problem(dump_problem(problem)) == problem


def test_a_schedule_reads_back() -> None:
    schedule = Schedule(
        "feasible",
        1 << 33,
        (1, 0),
        (Range(0, 2, 4, (1,), (1,), (2,), (0,), ((1, 2),)),),
        Traffic(1, 2, 3, 4, 5, 6),
        3,
        7,
        0.5,
        {"a": 16},
        Infeasible("a", 9),
        "s",
    )
    assert load_schedule(dump_schedule(schedule)) == schedule
    assert schedule.traffic.total_bytes == 6
    assert schedule.gap == 0.5


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((1, 7, 5, 3), 7),
        ((1, 1, 1, 9), 1),
        ((1, 128, 384), 128),
        ((128, 384), 128),
        ((1, 10), 1),
        ((), 1),
        ((4,), 1),
        ((1, 12, 128, 32), 12),
    ],
)
def test_rows_are_counted_along_the_first_axis_that_is_not_one(shape: tuple[int, ...], rows: int) -> None:
    assert Tensor("t", 1000, shape).rows == rows
    assert Tensor("t", 1000, shape).row_bytes == -(-1000 // rows)


def without(item: Mapping[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in item.items() if name != key}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"problem: expected an object, found \[\]"),
        (graph(ops=[without(ADD, "bytes")]), r"problem.ops\[0\]: expected the key 'bytes', found name, kind"),
        (graph(ops=[ADD]), r"problem.ops\[0\].ins: expected positions of earlier .*, of which the first has none"),
        (graph(ops=[CONV, ADD | {"ins": [1]}]), r"problem.ops\[1\].ins: expected positions .*, 0 to 0, found 1"),
        (graph(ops=[CONV | {"bytes": -1}]), "tensor 'a': expected a size of at least 0 bytes, found -1"),
        (graph(ops=[CONV | {"bytes": True}]), "expected an integer, found true"),
        (graph(ops=[CONV | {"kernel": [3]}]), "expected height and width, found 1 numbers"),
        (graph(ops=[CONV | {"kernel": [3, 3], "pad": [1]}]), "expected 'same', 'valid' or top, bottom"),
        (graph(ops=[CONV | {"kernel": [0, 3]}]), "expected kernel, stride and dilation of at least 1"),
        (graph(ops=[CONV | {"kernel": [3, 3], "pad": [-1, 0, 0, 0]}]), "expected padding of at least 0"),
        (graph(ops=[CONV | {"win": -1}]), "expected weights of at least 0, found -1"),
        (graph(ops=[CONV | {"groups": 0}]), "expected at least 1 group, found 0"),
        (graph(ops=[CONV | {"shape": [1, 0]}]), r"expected dimensions of at least 1, found \[1, 0\]"),
        (graph(dtype="int3"), "problem.dtype: expected one of int8"),
        (json.dumps({"ops": []}), "problem: expected the key 'model', found ops"),
        (json.dumps({"model": "m", "ops": [CONV]}), "expected the key 'input' because operations have net_in"),
        (json.dumps({"format": "x", "model": "", "tensors": [], "operators": []}), "expected 'instar-scratchpad-1'"),
    ],
)
def test_malformed_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        load_problem(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "net.json:1:2: expected JSON"),
        ("[]", "net.json: expected an object"),
        (json.dumps({"ops": []}), "net.json: expected the key 'model'"),
        (graph(ops=[without(ADD, "kind")]), r"net.json.ops\[0\]: expected the key 'kind'"),
        (graph(ops=[CONV | {"bytes": -1}]), "net.json: tensor 'a': expected a size"),
        (graph(dtype="int3"), "net.json.dtype: expected one of"),
        (
            dump_problem(Problem("m", (), ())).replace('"operators": []', '"operators": [{}]'),
            r"net.json.operators\[0\]: expected the key 'name'",
        ),
    ],
)
def test_errors_name_the_file(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=f"^{message}"):
        load_problem(text, "net.json")


X, Y = Tensor("x", 4, role="input"), Tensor("y", 4)


@pytest.mark.parametrize(
    ("tensors", "operators", "message"),
    [
        ((X, X), (), "expected unique names, found two tensors 'x'"),
        ((X, Y), (Operator("f", "k", (0,), 1), Operator("f", "k", (0,), 1)), "found two operators 'f'"),
        ((X, Y), (Operator("f", "k", (2,), 1),), "expected inputs from 0 to 1, found 2"),
        ((), (Operator("f", "k", (0,), 0),), "expected inputs among the tensors, of which there are none, found 0"),
        ((), (Operator("f", "k", (), 0),), "expected an output among the tensors, of which there are none, found 0"),
        ((X, Y), (Operator("f", "k", (1,), 1),), "expected inputs that are made before it, found 'y'"),
        ((X, Y), (Operator("f", "k", (0,), 5),), "expected an output from 0 to 1, found 5"),
        ((X, Y), (Operator("f", "k", (0,), 0),), "expected an output that it may make, found the input 'x'"),
        ((X, Y), (Operator("f", "k", (0,), 1), Operator("g", "k", (0,), 1)), "that nobody else makes, found 'y'"),
        ((Y,), (), "tensor 'y': expected an operator that makes it, found none"),
    ],
)
def test_malformed_problems_are_refused(
    tensors: tuple[Tensor, ...], operators: tuple[Operator, ...], message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        Problem("m", tensors, operators)


def test_an_unknown_role_is_refused() -> None:
    own = json.loads(dump_problem(Problem("m", (X,), ())))
    own["tensors"][0]["role"] = "sink"
    with pytest.raises(ScheduleError, match="expected a role of input, activation, output, found 'sink'"):
        load_problem(json.dumps(own))


def test_malformed_schedules_are_refused() -> None:
    text = dump_schedule(Schedule("optimal", 1, (0,), (Range(0, 1, in_place=((1, 2),)),)))
    for old, new, message in (
        ('"optimal"', '"good"', "schedule.status: expected one of optimal, feasible, infeasible, timeout"),
        ("[1, 2]", "[1]", "expected a tensor and its host, found 1 numbers"),
    ):
        with pytest.raises(ScheduleError, match=message):
            load_schedule(text.replace(old, new))


def test_data_files_are_not_guessed(tmp_path: Path) -> None:
    for text, message in (
        ("{", r"problem:1:2: expected JSON, found: Expecting property name"),
        ("[" * 100_000, "problem: expected a JSON document, found lists or objects nested too deeply"),
        ('{"a": NaN}', "problem: expected strict JSON, found NaN"),
    ):
        with pytest.raises(ScheduleError, match=message):
            load_problem(text)
