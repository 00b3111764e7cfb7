"""Problems, CSV and JSON: every message, and strict reading."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from instar.ir.errors import ScheduleError
from instar.schedulers.placement import (
    Buffer,
    PlacementProblem,
    dump_csv,
    dump_problem,
    dump_solution,
    load_csv,
    load_problem,
    load_solution,
    solve,
)

from .instances import buffers, example, problems


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Buffer("a", 0, 1, -1), "buffer 'a': expected a size of at least 0 bytes, found -1"),
        (lambda: Buffer("a", 3, 3, 1), r"buffer 'a': expected a lifetime that ends after its start, found \[3, 3\)"),
        (lambda: Buffer("a", 0, 1, 1, 0), "buffer 'a': expected an alignment of at least 1, found 0"),
        (lambda: Buffer("a", 0, 1, 1, 4, 6), "expected an offset of at least 0 that is a multiple of 4, found 6"),
        (lambda: Buffer("a", 0, 1, 1, 4, -4), "expected an offset of at least 0 that is a multiple of 4, found -4"),
        (lambda: PlacementProblem((), -1), "capacity: expected at least 0 bytes, found -1"),
        (lambda: PlacementProblem((Buffer("a", 0, 1, 1), Buffer("a", 0, 1, 1))), "two buffers 'a'; rename one"),
    ],
)
def test_malformed_problems(make: Callable[[], object], message: str):
    with pytest.raises(ScheduleError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "buffers: expected the header id,lower,upper,size, found an empty file"),
        ("id,lower,upper\na,0,1\n", "buffers:1: expected the column 'size', found id, lower, upper"),
        ("id,lower,upper,sizes\n", "buffers:1: expected known columns, found 'sizes'; did you mean 'size'"),
        ("id,id,lower,upper,size\n", "buffers:1: expected each column once, found 'id' twice"),
        ("id,lower,upper,size\n\na,0,1,1\n", "buffers:2: expected a buffer, found a blank line"),
        ("id,lower,upper,size\na,0,1,1\n \n", "buffers:3: expected a buffer, found a blank line"),
        ("id,lower,upper,size\na,0,1\n", "buffers:2: expected 4 fields, found 3"),
        ("id,lower,upper,size\na,0,1,1,1\n", "buffers:2: expected 4 fields, found 5"),
        ("id,lower,upper,size\n,0,1,1\n", "buffers:2: expected an id, found none"),
        ("id,lower,upper,size\na,0,1,1.5\n", "buffers:2: size: expected an integer, found '1.5'"),
        ("id,lower,upper,size\na,0,1,1_0\n", "buffers:2: size: expected an integer, found '1_0'"),
        ("id,lower,upper,size\na,,1,1\n", "buffers:2: lower: expected an integer, found ''"),
        ("id,lower,upper,size\na,0,1," + "9" * 5000, r"size: expected an integer, found '9{37}\.\.\.'"),
        ("id,lower,upper,size\na,0,1,-1\n", "buffers:2: buffer 'a': expected a size of at least 0 bytes, found -1"),
        ("id,lower,upper,size\na,2,1,1\n", "buffers:2: buffer 'a': expected a lifetime that ends after its start"),
        ("id,lower,upper,size\na,0,1,1\na,0,1,1\n", "buffers: buffers: expected unique names, found two buffers 'a'"),
        ('id,lower,upper,size\n"a,0,1,1\n', "buffers: expected comma-separated values"),
    ],
)
def test_malformed_csv(text: str, message: str):
    with pytest.raises(ScheduleError, match=message):
        load_csv(text)


def test_csv_columns_in_any_order_with_alignment_and_offset():
    text = "size,id,alignment,offset,upper,lower\n6,a,4,8,2,0\n7,b,,,3,1\n"
    problem = load_csv(text, 100)
    assert problem == PlacementProblem((Buffer("a", 0, 2, 6, 4, 8), Buffer("b", 1, 3, 7)), 100)
    assert load_csv(dump_csv(problem), 100) == problem


def test_csv_of_plain_buffers_has_the_four_columns_of_minimalloc():
    assert dump_csv(PlacementProblem(buffers((0, 1, 5)))) == "id,lower,upper,size\nb0,0,1,5\n"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(problems(aligned=True))
def test_round_trips(items: tuple[Buffer, ...]):
    problem = PlacementProblem(items, 17)
    assert load_csv(dump_csv(problem), 17) == problem
    assert load_problem(dump_problem(problem)) == problem


@pytest.mark.parametrize("capacity", [12, 11, None])
def test_solution_round_trip(capacity: int | None):
    solution = solve(PlacementProblem(example().buffers, capacity), workers=1)
    again = load_solution(dump_solution(solution))
    assert again == solution
    assert again.wall_s == solution.wall_s


def test_json_is_read_strictly():
    document = json.loads(dump_problem(example()))
    document["buffers"][1]["sise_bytes"] = 3
    with pytest.raises(ScheduleError, match=r"problem.buffers\[1\]: expected known keys, found 'sise_bytes'"):
        load_problem(json.dumps(document))
    solution = json.loads(dump_solution(solve(example(), workers=1)))
    solution["status"] = "fine"
    with pytest.raises(ScheduleError, match=r"solution.status: expected one of optimal, feasible, infeasible, timeout"):
        load_solution(json.dumps(solution))
