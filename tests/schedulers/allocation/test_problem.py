"""Malformed problems are refused, each with its own message; importing costs nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import instar.schedulers.allocation
from instar.ir.errors import ScheduleError
from instar.schedulers.allocation import AllocationBudget, AllocationProblem, Choice, LayerChoices, Trait

from .instances import layer, small

UNTYPED: Any = (1.5, True)
"""What a caller without a type checker may pass as costs."""


def single(*costs: int, limit: int = 1) -> AllocationProblem:
    return AllocationProblem((LayerChoices("a", (Choice("x", 1.0, costs),)),), (AllocationBudget("size", limit),))


def shared(classes: dict[str, tuple[str, ...]]) -> AllocationProblem:
    return replace(small(), traits=(Trait("input", classes),))


def tied(**sides: Any) -> AllocationProblem:
    return replace(small(), ties=(("a", "b"),), **sides)


BROKEN: list[tuple[Callable[[], object], str]] = [
    (lambda: Choice("x", float("nan")), "choice 'x': expected a finite loss that is not negative, found nan"),
    (lambda: Choice("x", float("inf")), "choice 'x': expected a finite loss that is not negative, found inf"),
    (lambda: Choice("x", -1.0), "choice 'x': expected a finite loss that is not negative, found -1.0"),
    (lambda: Choice("x", 1.0, (-1,)), "choice 'x': expected integer costs that are not negative, found -1"),
    (lambda: Choice("x", 1.0, UNTYPED), "choice 'x': expected integer costs that are not negative, found 1.5"),
    (lambda: Choice("x", 1.0, UNTYPED[1:]), "choice 'x': expected integer costs that are not negative, found True"),
    (lambda: layer("a"), "layer 'a': expected at least one choice, found none"),
    (lambda: layer("a", ("x", 1.0, ()), ("x", 2.0, ())), "layer 'a': expected every choice once, found 'x' twice"),
    (
        lambda: AllocationProblem((layer("a", ("x", 1.0, ())),) * 2),
        "allocation: expected every layer once, found 'a' twice",
    ),
    (
        lambda: AllocationProblem((), (AllocationBudget("size", 1),) * 2),
        "allocation: expected every budget once, found 'size' twice",
    ),
    (lambda: single(1, limit=UNTYPED[0]), "budget 'size': expected an integer limit, found 1.5; round it down"),
    (single, "layer 'a', choice 'x': expected 1 costs, one per budget, found 0"),
    (lambda: single(1, 2), "layer 'a', choice 'x': expected 1 costs, one per budget, found 2"),
    (
        lambda: single(2**60 + 1),
        "budget 'size': expected costs that sum to at most 2\\*\\*60, found 1152921504606846977",
    ),
    (
        lambda: AllocationProblem((layer("a", ("x", 1e308, ())), layer("b", ("x", 1e308, ())))),
        "allocation: expected losses with a finite sum, found an overflow",
    ),
    (lambda: replace(small(), ties=(("a", "bb"),)), "ties: expected the name of a layer, found 'bb'; did you mean 'b'"),
    (lambda: shared({}), "trait 'input': expected the layers that share it, found none; name them, or drop it"),
    (lambda: shared({"aa": ("x",)}), "trait 'input': expected the name of a layer, found 'aa'; did you mean 'a'"),
    (
        lambda: shared({"a": ("x",)}),
        "trait 'input', layer 'a': expected 2 classes, one per choice, found 1",
    ),
    (
        lambda: shared({"a": ("x", "x"), "b": ("y", "y")}),
        "tie a, b: expected choices of the same class in all of them, found none; untie them",
    ),
    (
        lambda: Choice("x", 1.0, (), -1),
        "choice 'x': expected an integer preference that is not negative, found -1; 0 is preferred most",
    ),
    (
        lambda: AllocationProblem((LayerChoices("a", (Choice("x", 1.0, (), 2**61),)),)),
        "expected preferences that sum to at most 2..60, found 2305843009213693952; use smaller ones",
    ),
    (lambda: replace(small(), ties=(("a", "a"),)), "tie a, a: expected every layer once, found 'a' twice"),
    (lambda: replace(small(), forced=(("c", "int4"),)), "forced: expected the name of a layer, found 'c'; known: a, b"),
    (
        lambda: replace(small(), forced=(("a", "int44"),)),
        "forced choice of layer 'a': expected the name of a choice, found 'int44'; did you mean 'int4'",
    ),
    (lambda: replace(small(), forbidden=(("c", "int4"),)), "forbidden: expected the name of a layer, found 'c'"),
    (
        lambda: replace(small(), forbidden=(("a", "nf4"),)),
        "forbidden choice of layer 'a': expected the name of a choice, found 'nf4'",
    ),
    (
        lambda: replace(small(), forced=(("a", "int4"), ("a", "int8"))),
        "forced: expected one choice for layer 'a', found 'int4' and 'int8'; keep one",
    ),
    (
        lambda: replace(small(), forced=(("a", "int4"),), forbidden=(("a", "int4"),)),
        "layer 'a': expected a choice to be forced or forbidden, found 'int4' in both",
    ),
    (
        lambda: tied(forced=(("a", "int4"), ("b", "int8"))),
        "tie a, b: expected the same forced choice, found 'int4' for 'a' and 'int8' for 'b'",
    ),
    (
        lambda: AllocationProblem((layer("a", ("x", 1.0, ())), layer("b", ("y", 1.0, ()))), ties=(("a", "b"),)),
        "tie a, b: expected a choice name that all members have, found none",
    ),
    (
        lambda: replace(small(), forbidden=(("a", "int4"), ("a", "int8"))),
        "layer 'a': expected at least one choice that is not forbidden, found none",
    ),
    (
        lambda: tied(forbidden=(("a", "int4"), ("b", "int8"))),
        "tie a, b: expected at least one choice that is not forbidden, found none",
    ),
    (
        lambda: tied(forced=(("a", "int4"),), forbidden=(("b", "int4"),)),
        "tie a, b: expected at least one choice that is not forbidden, found none",
    ),
]


@pytest.mark.parametrize(("build", "message"), BROKEN)
def test_malformed_problems_are_refused(build: Callable[[], object], message: str):
    with pytest.raises(ScheduleError, match=message):
        build()


def test_an_unknown_choice_is_a_key_error():
    with pytest.raises(KeyError, match="int3"):
        small().layers[0].choice("int3")


def test_the_solver_is_imported_when_it_is_used():
    code = (
        "import sys, instar.schedulers.allocation as s; s.AllocationProblem; s.check; print('ortools' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_every_public_name_can_be_loaded():
    assert all(getattr(instar.schedulers.allocation, name) is not None for name in instar.schedulers.allocation.__all__)


def test_names_are_found_at_the_schedulers_too() -> None:
    for name in instar.schedulers.allocation.__all__:
        assert getattr(instar.schedulers, name) is getattr(instar.schedulers.allocation, name)
    with pytest.raises(AttributeError, match=r"module 'instar\.schedulers' has no attribute 'solv'"):
        _ = instar.schedulers.solv
