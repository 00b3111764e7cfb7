"""The grammar of formats: what parses, what it means, and errors that point at the place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.ir.errors import FormatError, ParseError
from instar.passes.formats import (
    FloatFormat,
    IntFormat,
    SumFormat,
    format,
)
from instar.passes.formats.families import family_of
from instar.passes.formats.grammar import Product, Sum, Term, Tree, parse_tree
from instar.passes.formats.registry import names_in


def outline(tree: Tree) -> object:
    if isinstance(tree, Term):
        return ":".join(word.text for word in (tree.head, *tree.options))
    if isinstance(tree, Sum):
        return ("+", *(outline(part) for part in tree.parts))
    return ("@", outline(tree.left), outline(tree.right))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int4:g64", IntFormat(4, 64)),
        ("int8:channel", IntFormat(8)),
        ("int3:g16:asym", IntFormat(3, 16, asymmetric=True)),
        ("fp16", FloatFormat(16)),
        (" fp32 ", FloatFormat(32)),
        ("int4 : g64+fp16", SumFormat((IntFormat(4, 64), FloatFormat(16)))),
        ("(int4:g64 + int2:channel)", SumFormat((IntFormat(4, 64), IntFormat(2)))),
    ],
)
def test_texts_mean_formats(text: str, expected: object) -> None:
    assert format(text) == expected


@given(st.integers(2, 8), st.sampled_from([None, 16, 32, 64, 128, 256]), st.booleans())
def test_spelling_parses_back(bits: int, group: int | None, asymmetric: bool) -> None:
    f = IntFormat(bits, group, asymmetric)
    assert format(f.spelling) == f
    both = SumFormat((f, FloatFormat(16)))
    assert format(both.spelling) == both


def test_products_bind_tighter_than_sums_and_parentheses_group() -> None:
    assert outline(parse_tree("sparse:2:4 + int8:channel @ lowrank:r64")) == (
        "+", "sparse:2:4", ("@", "int8:channel", "lowrank:r64"),
    )  # fmt: skip
    assert outline(parse_tree("a + b + c")) == ("+", "a", "b", "c")
    assert outline(parse_tree("int8 @ (a + b)")) == ("@", "int8", ("+", "a", "b"))
    assert isinstance(parse_tree("a @ b @ c"), Product)
    assert outline(parse_tree("a @ b @ c")) == ("@", ("@", "a", "b"), "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9:g64", "format 'int9:g64', position 1: expected a format, got 'int9'; did you mean 'int8'?"),
        ("int4:g64 + itn4:g64", "position 12: expected a format, got 'itn4'; did you mean 'int4'?"),
        (
            "int4",
            "position 5: expected ':' and 'channel' or 'g<group>' with a group of 16, 32, 64, 128 or 256, got the end",
        ),
        ("int4:g63", "position 6: expected 'channel' or 'g<group>' with a group of 16, 32, 64, 128 or 256, got 'g63'"),
        ("int4:chanel", "got 'chanel'; did you mean 'channel'?"),
        ("int4:64", "got '64'"),
        ("int4:g64:asmy", "position 10: expected 'asym' or the end of the format, got 'asmy'; did you mean 'asym'?"),
        ("int4:g64:asym:asym", "position 15: expected 'asym' or the end"),
        ("fp16:g64", "position 6: expected the end of 'fp16', which has no options, got 'g64'"),
        ("int4:g64 +", "position 11: expected a format such as 'int4:g64', got the end"),
        ("", "position 1: expected a format such as 'int4:g64', got the end"),
        (": int4", "position 1: expected a format such as 'int4:g64', got ':'"),
        ("int4:", "position 6: expected an option, got the end"),
        ("int4:@", "position 6: expected an option, got '@'"),
        ("(int4:g64", "position 10: expected ')', got the end"),
        ("int4:g64)", "position 9: expected ':', '+', '@' or the end, got ')'"),
        ("int4:g64 int2", "position 10: expected ':', '+', '@' or the end, got 'int2'"),
        ("INT4:g64", "position 1: expected a format, got 'INT4'; did you mean 'int4'?"),
        ("int4:G64", "got 'G64'; did you mean 'g64'?"),
        ("lowrank:r0", "position 9: expected 'r<rank>' with a rank of 1 or more, got 'r0'; for example 'r16'"),
        ("monarch:k7j4", "got 'k7j4'; for example 'b4' or 'k8xj4'"),
        ("lowrank:r" + "9" * 5000, "position 9: expected numbers of at most 18 digits"),
        ("(" * 5000 + "int4:g64" + ")" * 5000, "position 65: expected at most 64 parentheses in each other, got '('"),
        ("int4 % 3", "position 6: expected a format name, an option, ':', '+', '@' or a parenthesis, got '%'"),
    ],
)
def test_errors_say_where_what_was_expected_and_what_was_found(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        format(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [None, 4, b"int4:g64", ["int4:g64"]])
def test_what_is_no_text_is_an_error(value: Any) -> None:
    with pytest.raises(ParseError, match=r"format: expected text such as 'int4:g64', got .*; write it in quotes"):
        format(value)


LEAVES = ("int4:g64", "fp16", "int8:channel", "lowrank:r3", "monarch:b2", "sparse:2x4", "kron:2x2", "tucker:2x2")
TEXTS = st.recursive(
    st.sampled_from(LEAVES),
    lambda texts: st.tuples(texts, st.sampled_from([" + ", " @ "]), texts).map(lambda t: f"({t[0]}){t[1]}({t[2]})"),
    max_leaves=5,
)


@given(TEXTS)
def test_every_text_is_a_format_whose_spelling_means_the_same_or_an_error(text: str) -> None:
    try:
        found = format(text)
    except FormatError:
        with pytest.raises(FormatError, match="expected a format with factors to the right of '@'"):
            format(text)
        return
    assert str(found) == found.spelling
    assert format(found.spelling) == found
    assert sorted(names_in(found.spelling)) == sorted(set(names_in(text)) - ({"fp16"} - set(names_in(str(found)))))


def test_products_of_products_are_products_with_factors_of_factors() -> None:
    assert format("int4:g64 @ (lowrank:r3 @ monarch:b2)") == format("(int4:g64 @ lowrank:r3) @ monarch:b2")
    assert str(format("(int8:channel + int4:g64) @ lowrank:r3")) == "(int8:channel + int4:g64) @ lowrank:r3"
    assert family_of("(int8:channel + int4:g64) @ lowrank:r3") == "(int8:channel + int4:g64) @ lowrank"
    assert format("fp16 + (int8:channel + int4:g64)") == format("fp16 + int8:channel + int4:g64")


def test_a_product_the_wrong_way_round_says_the_right_one() -> None:
    with pytest.raises(FormatError, match="write 'int8:channel @ lowrank:r3', or a sum"):
        format("lowrank:r3 @ int8:channel")
    with pytest.raises(FormatError, match="int4:g64 @ int8:channel: expected a format with factors"):
        format("int4:g64 @ (int8:channel @ lowrank:r3)")


def test_a_format_without_factors_has_no_product() -> None:
    with pytest.raises(FormatError, match="expected a format with factors to the right of '@', got 'int8:channel'"):
        format("int4:g64 @ int8:channel")
