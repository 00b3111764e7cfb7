"""Canonicalize: filled tensors, boolean masks, and gathers by position."""

from __future__ import annotations

import pytest
import torch

from instar.ir.parse import parse_graph
from instar.ir.verify import verify
from instar.passes.canonicalize import Canonicalize

from .rewrite_case import body, check_rewrite, one_op, read

B = "input %a: bool[2, 3]\ninput %b: bool[3]\n"


@pytest.mark.parametrize(
    ("call", "result", "after"),
    [
        ("aten.ones([2, 3])", "f32[2, 3]", "aten.full([2, 3], 1.0, dtype=dtype:f32)"),
        ("aten.zeros([2], dtype=dtype:i64)", "i64[2]", "aten.full([2], 0, dtype=dtype:i64)"),
        ("aten.new_ones(%x, [], dtype=dtype:bool)", "bool[]", "aten.full([], True, dtype=dtype:bool)"),
        ("aten.new_zeros(%x, [1])", "f64[1]", "aten.full([1], 0.0, dtype=dtype:f64)"),
        ("aten.new_full(%x, [4], 2.5)", "f64[4]", "aten.full([4], 2.5, dtype=dtype:f64)"),
        ("aten.ones_like(%x)", "f64[2, 3, 4]", "aten.full([2, 3, 4], 1.0, dtype=dtype:f64)"),
        ("aten.zeros_like(%x, dtype=dtype:i32)", "i32[2, 3, 4]", "aten.full([2, 3, 4], 0, dtype=dtype:i32)"),
        ("aten.full_like(%x, -3)", "f64[2, 3, 4]", "aten.full([2, 3, 4], -3.0, dtype=dtype:f64)"),
        ("aten.arange(7, device=torch:cpu, pin_memory=False)", "i64[7]", "aten.arange(7)"),
        ("aten.softmax.int(%x, 2, dtype:f64)", "f64[2, 3, 4]", "aten.softmax.int(%x, 2)"),
    ],
)
def test_one_spelling(call: str, result: str, after: str) -> None:
    check_rewrite(one_op(call, result), Canonicalize(), after=one_op(after, result))


def test_softmax_that_changes_the_dtype_stays() -> None:
    before = "input %x: f32[2, 3]\n%0 = aten.softmax.int(%x, 1, dtype:f64) : f64[2, 3]\nreturn %0"
    check_rewrite(before, Canonicalize(), after=before, fires={})


def test_logic_of_booleans_has_one_spelling_and_of_integers_stays() -> None:
    check_rewrite(
        B
        + """%0 = aten.__and__.Tensor(%a, %b) : bool[2, 3]
        %1 = aten.bitwise_or.Tensor(%0, %a) : bool[2, 3]
        %2 = aten.bitwise_not(%1) : bool[2, 3]
        return %2""",
        Canonicalize(),
        after="""%0 = aten.logical_and(%a, %b) : bool[2, 3]
        %1 = aten.logical_or(%0, %a) : bool[2, 3]
        %2 = aten.logical_not(%1) : bool[2, 3]
        return %2""",
        fires={"logic-spelling": 3},
    )
    integers = "input %a: i64[3]\n%0 = aten.bitwise_and.Tensor(%a, %a) : i64[3]\nreturn %0"
    check_rewrite(integers, Canonicalize(), after=integers, fires={})


def test_neutral_masks_go_away() -> None:
    check_rewrite(
        B
        + """%0 = aten.new_ones(%a, [], dtype=dtype:bool) : bool[]
        %1 = aten.logical_and(%0, %a) : bool[2, 3]
        %2 = aten.zeros([2, 3], dtype=dtype:bool) : bool[2, 3]
        %3 = aten.logical_or(%b, %2) : bool[2, 3]
        %4 = aten.logical_or(%a, %0) : bool[2, 3]
        return %1, %3, %4""",
        Canonicalize(),
        after="""%0 = aten.expand(%b, [2, 3]) : bool[2, 3]
        %1 = aten.full([], True, dtype=dtype:bool) : bool[]
        %2 = aten.logical_or(%a, %1) : bool[2, 3]
        return %a, %0, %2""",
    )
    constant = {"t": torch.tensor(True)}
    graph = read(B + "const @t: bool[]\n%0 = aten.logical_and(%a, @t) : bool[2, 3]\nreturn %0", constant)
    check_rewrite(graph, Canonicalize(), after="return %a")


GATHER = """dim b in [2, 9]
dim s in [2, 9]
input %m: bool[b, s]
%0 = aten.arange(b) : i64[b]
%1 = aten.reshape(%0, [b, 1, 1]) : i64[b, 1, 1]
%2 = aten.arange(s) : i64[s]
%3 = aten.unsqueeze(%2, 0) : i64[1, s]
"""


def test_gather_of_every_element_at_its_place_is_a_reshape() -> None:
    graph = parse_graph(GATHER + "%4 = aten.index.Tensor(%m, [%1, %3]) : bool[b, 1, s]\nreturn %4\n")
    result = Canonicalize()(graph).graph
    verify(result)
    assert body(result.text()) == ["%0 = aten.reshape(%m, [b, 1, s]) : bool[b, 1, s]", "return %0"]
    static = """input %m: f64[2, 3]
    %0 = aten.arange(2) : i64[2]
    %1 = aten.unsqueeze(%0, 1) : i64[2, 1]
    %2 = aten.arange(3) : i64[3]
    %3 = aten.index.Tensor(%m, [%1, %2]) : f64[2, 3]
    return %3"""
    check_rewrite(static, Canonicalize(), after="return %m")
    one = static.replace("f64[2, 3]", "f64[1, 3]").replace("i64[2, 1]", "i64[1, 1]").replace("i64[2]", "i64[1]")
    check_rewrite(one.replace("arange(2)", "arange(1)"), Canonicalize(), after="return %m")


@pytest.mark.parametrize(
    "rest",
    [
        "%4 = aten.unsqueeze(%2, 1) : i64[s, 1]\n%5 = aten.index.Tensor(%m, [%0, %4]) : bool[s, b]",
        "%4 = aten.neg(%3) : i64[1, s]\n%5 = aten.index.Tensor(%m, [%1, %4]) : bool[b, 1, s]",
        "%4 = aten.unsqueeze(%2, 0) : i64[1, s]\n%5 = aten.index.Tensor(%m, [%1]) : bool[b, 1, 1, s]",
        "%4 = aten.unsqueeze(%2, 0) : i64[1, s]\n%5 = aten.index.Tensor(%m, [None, %4]) : bool[b, 1, s]",
    ],
)
def test_other_gathers_stay(rest: str) -> None:
    graph = parse_graph(GATHER + rest + "\nreturn %5\n")
    assert Canonicalize()(graph).graph.ops()["aten.index.Tensor"] == 1
