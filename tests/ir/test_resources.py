"""Resources: amounts in the solver's integers and in words keep to the side of a limit that makes it hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.ir.budget import parse_limit
from instar.ir.options import KEPT, PricedOption
from instar.ir.resources import LATENCY, OPS, RESOURCES, SIZE, Resource

EVERY = pytest.mark.parametrize("resource", list(RESOURCES.values()), ids=list(RESOURCES))


def test_what_an_option_takes() -> None:
    option = PricedOption(KEPT, 3, 0.5, 7, 0.0)
    assert [r.of(option) for r in RESOURCES.values()] == [3, 0.5, 7]
    assert LATENCY.of(PricedOption(KEPT, 3, None, 7, 0.0)) is None


def test_steps() -> None:
    assert (SIZE.steps_up(17), SIZE.steps_down(17.9)) == (17, 17)
    assert (LATENCY.steps_up(0.5), LATENCY.steps_up(0.5000001)) == (500000, 500001)
    assert LATENCY.steps_down(0.5000009) == 500000
    assert (OPS.steps_up(1), OPS.steps_up(2_000_000), OPS.steps_down(2_999_999)) == (1, 2, 2)
    assert OPS.steps_up(10**18 + 1) == 10**12 + 1


@EVERY
@given(amount=st.floats(1e-3, 1e12))
def test_words_are_a_limit_that_the_amount_meets(resource: Resource, amount: float) -> None:
    limit = parse_limit(resource.name, resource.words(amount)).absolute(1.0)
    assert amount * (1 - 1e-9) <= limit <= amount * 1.002


@EVERY
@given(amount=st.integers(0, 10**12))
def test_steps_lie_around_an_amount(resource: Resource, amount: int) -> None:
    assert resource.amount(resource.steps_down(amount)) <= amount <= resource.amount(resource.steps_up(amount))
    assert resource.steps_up(amount) - resource.steps_down(amount) in (0, 1)


def test_two_measurements_differ() -> None:
    assert not LATENCY.exceeds(1.02, 1.0)
    assert LATENCY.exceeds(1.04, 1.0)
    assert SIZE.exceeds(1001, 1000)
