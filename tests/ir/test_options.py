"""Options: spellings of activations, and what an option says about its layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.ir.errors import ParseError
from instar.ir.options import KEPT, NONE, STATIC_INT8, Activation, Arithmetic, Option, activations_of

GRANULARITIES = st.one_of(st.sampled_from(["tensor", "token"]), st.integers(1, 512).map(lambda n: f"group:{n}"))
ACTIVATIONS = st.one_of(
    st.just(NONE),
    st.builds(Activation.static, st.integers(2, 8)),
    st.builds(Activation.dynamic, GRANULARITIES, st.integers(2, 8), st.one_of(st.none(), st.booleans())),
)


@given(activation=ACTIVATIONS)
def test_every_activation_is_read_back_from_its_spelling(activation: Activation) -> None:
    assert Activation.parse(activation.spelling) == activation
    assert activation.is_none + activation.is_dynamic + activation.is_static == 1


def test_activations_by_name() -> None:
    assert Activation.parse("dynamic_int8:tensor") == Activation.dynamic("tensor", 8, symmetric=False)
    assert Activation.parse("dynamic_int8:token") == Activation.dynamic("token", 8, symmetric=True)
    assert Activation.parse("dynamic_int4:g128:asym") == Activation.dynamic("group:128", 4, symmetric=False)
    assert Activation.parse("static_int8") == STATIC_INT8
    assert Activation.parse("none") == NONE
    assert (NONE.bits, STATIC_INT8.bits) == (32, 8)


@pytest.mark.parametrize(
    "text",
    ["dynamic_int8", "dynamic_int9:token", "static_int8:token", "static_int8:sym", "dynamic_int8:g0", "int8", ""],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ParseError, match="expected 'none', 'static_int8', 'dynamic_int8:tensor'"):
        Activation.parse(text)


def test_the_nearest_word_is_suggested() -> None:
    with pytest.raises(ParseError, match="did you mean 'dynamic_int8:token'"):
        Activation.parse("dynamic_int8:tokn")


def test_one_word_of_a_config_stands_for_two_granularities() -> None:
    found = activations_of(["dynamic_int8", "none", "dynamic_int8:token", "dynamic_int8:g32"])
    assert [a.spelling for a in found] == ["dynamic_int8:tensor", "dynamic_int8:token", "none", "dynamic_int8:g32"]


def test_what_an_option_says() -> None:
    option = Option("int4:g64", "gptq", Activation.dynamic("tensor"), "int8", Arithmetic.INT8_ROWS)
    assert option.name == "int4:g64 gptq dynamic_int8:tensor @int8"
    assert not option.unchanged
    assert not option.keeps_weight
    floating = option.with_own_weight()
    assert floating.keeps_weight
    assert not floating.unchanged
    assert floating.arithmetic is Arithmetic.FLOAT
    assert KEPT.unchanged
    assert KEPT.name == "fp32 @float"
    assert list(option.words.values()) == ["int4:g64", "gptq", "dynamic_int8:tensor", "int8"]
