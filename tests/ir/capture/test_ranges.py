"""The least size from which on all conditions of a model hold."""

from __future__ import annotations

import pytest
import sympy
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from instar.ir.capture.ranges import narrowed

LENGTH = sympy.Symbol("length", integer=True)


@pytest.mark.parametrize("quotient", [Mod, PythonMod, FloorDiv])
def test_a_size_that_a_condition_divides_by_may_be_zero(quotient: type[sympy.Function]):
    condition = sympy.Ne(quotient(12, LENGTH), 100)

    assert narrowed([condition], ["length"], {}) == "length = Dim('length', min=1)"


def test_a_size_at_which_a_divisor_vanishes_does_not_hold():
    condition = sympy.Ge(FloorDiv(12, LENGTH - 3), -100)

    assert narrowed([condition], ["length"], {}) == "length = Dim('length', min=4)"


def test_no_range_is_named_where_no_bound_from_below_holds():
    assert narrowed([sympy.Eq(Mod(LENGTH, 8), 0)], ["length"], {}) == ""


def test_no_range_is_named_that_was_given_already():
    """Torch cannot prove that the condition holds; a range that it holds in anyway does not help."""
    condition = sympy.Ne(Mod(2 * LENGTH - 1, LENGTH), 0)

    assert narrowed([condition], ["length"], {"length": 1}) == "length = Dim('length', min=2)"
    assert narrowed([condition], ["length"], {"length": 4}) == ""
