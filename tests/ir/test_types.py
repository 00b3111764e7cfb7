from __future__ import annotations

from typing import Any, cast

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._sympy import functions as torch_functions

from instar.ir.errors import ParseError
from instar.ir.expressions import Dim, dim_text, evaluate_dim, evaluate_expression, normalize_dim, parse_dim, symbol
from instar.ir.types import DTYPES, TensorType, parse_type, split_top_level

BATCH, LENGTH = symbol("batch"), symbol("length")
SIZES = {"batch": 9, "length": 4}


def _pairs(parts: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    def combine(left: sympy.Expr, right: sympy.Expr, kind: int) -> sympy.Expr:
        classes: tuple[Any, ...] = (
            torch_functions.FloorDiv,
            torch_functions.Mod,
            torch_functions.Max,
            torch_functions.Min,
        )
        sums: tuple[Any, ...] = (left + right, left * right, left - right)
        if kind == 4:  # torch's remainder refuses negative numbers
            left = cast(sympy.Expr, torch_functions.Max(left, 0))
        return sums[kind] if kind < 3 else classes[kind - 3](left, right + 100 if kind < 5 else right)

    return st.builds(combine, parts, parts, st.integers(0, 6))


EXPRESSIONS = st.recursive(
    st.one_of(st.sampled_from([BATCH, LENGTH]), st.integers(1, 50).map(sympy.Integer)), _pairs, max_leaves=6
)


@given(EXPRESSIONS)
def test_a_dimension_reads_back_as_itself(expression: sympy.Expr) -> None:
    normal = normalize_dim(expression)
    text = dim_text(normal)
    read = parse_dim(text)
    assert read == normal
    assert dim_text(read) == text


@given(EXPRESSIONS)
def test_a_dimension_has_the_value_that_sympy_gives(expression: sympy.Expr) -> None:
    values: dict[Any, Any] = {BATCH: sympy.Integer(9), LENGTH: sympy.Integer(4)}
    assert evaluate_dim(normalize_dim(expression), SIZES) == int(cast(Any, expression.xreplace(values)))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (torch_functions.CleanDiv(2 * BATCH * LENGTH, LENGTH + 1), 14),
        (torch_functions.PythonMod(BATCH - 1, LENGTH), 0),
        (torch_functions.FloatPow(torch_functions.ToFloat(BATCH), sympy.Float(0.5)), 3.0),
        (torch_functions.IntTrueDiv(BATCH, sympy.Integer(2)), 4.5),
        (torch_functions.TruncToInt(torch_functions.IntTrueDiv(BATCH, sympy.Integer(2))), 4),
        (torch_functions.CeilToInt(torch_functions.IntTrueDiv(BATCH, sympy.Integer(2))), 5),
        (sympy.Float(1 / 3) * torch_functions.ToFloat(BATCH), 3.0),
        (torch_functions.OpaqueUnaryFn_sqrt(BATCH), 3.0),
        (torch_functions.Where(sympy.Eq(torch_functions.Mod(BATCH, sympy.Integer(2)), 0), BATCH, LENGTH), 4),
        (torch_functions.Where((BATCH < 3) | (LENGTH > 2), BATCH, LENGTH), 9),
        (BATCH**2, 81),
    ],
)
def test_every_function_of_torch_has_text_and_value(expression: sympy.Expr, value: float) -> None:
    assert parse_dim(dim_text(expression)) == expression
    found = evaluate_expression(expression, SIZES)
    assert found == value
    assert type(found) is type(value)


def test_a_missing_size_is_named() -> None:
    with pytest.raises(KeyError, match="length"):
        evaluate_dim(BATCH + LENGTH, {"batch": 2})


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(ParseError, match="found sin"):
        evaluate_expression(sympy.sin(BATCH), SIZES)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "(((",
            "a.b",
            "f(x)",
            "x if y else z",
            "__import__('os')",
            "",
            "Max(",
            "FloorDiv(1, 0)",
            "FloorDiv(x)",
            "x[0]",
        ),
        *("2**2**2**100", "10**1000000", "((2**64)**64)**64", "LShift(1, 100000)", "(" * 500 + ")" * 500, "x" * 20000),
    ],
)
def test_hostile_dimensions_are_refused(text: str) -> None:
    with pytest.raises(ParseError, match="dimension"):
        parse_dim(text)


@given(
    st.sampled_from(sorted(DTYPES)), st.lists(st.one_of(st.integers(0, 9), EXPRESSIONS.map(normalize_dim)), max_size=4)
)
def test_a_type_reads_back_as_itself(name: str, dims: list[Dim]) -> None:
    kind = TensorType(DTYPES[name], tuple(dims))
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize("text", ["f32", "f33[2]", "f32[2", "f32[a b]"])
def test_malformed_types_are_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_type(text)


def test_sizes_and_bytes() -> None:
    kind = TensorType(torch.float16, (BATCH, 3, LENGTH * 2))
    assert kind.sizes(SIZES) == (9, 3, 8)
    assert (kind.numel(SIZES), kind.nbytes(SIZES), kind.rank, kind.is_static) == (216, 432, 3, False)


@given(st.lists(st.sampled_from(["a", "[b, c]", '"x, \\" ]"', "f(1, (2, 3))", '"\\\\"']), max_size=5))
def test_splitting_minds_brackets_and_quotes(parts: list[str]) -> None:
    assert split_top_level(", ".join(parts)) == parts
