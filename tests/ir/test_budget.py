from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.ir.budget import Budget, Limit, parse_limit
from instar.ir.errors import ConfigError
from instar.ir.resources import ResourceName


@pytest.mark.parametrize(
    ("resource", "text", "expected"),
    [
        ("size", "15%", Limit(0.15, relative=True)),
        ("size", "12MB", Limit(12e6, relative=False)),
        ("size", " 1.5 kB ", Limit(1500, relative=False)),
        ("size", "11MiB", Limit(11 * 2**20, relative=False)),
        ("size", "1.5TB", Limit(1.5e12, relative=False)),
        ("size", "1TiB", Limit(2.0**40, relative=False)),
        ("size", 4096, Limit(4096, relative=False)),
        ("size", "4096", Limit(4096, relative=False)),
        ("latency", "60%", Limit(0.6, relative=True)),
        ("latency", "8ms", Limit(8, relative=False)),
        ("latency", "900us", Limit(0.9, relative=False)),
        ("latency", "1.5s", Limit(1500, relative=False)),
        ("ops", "3.5GBOPS", Limit(3.5e9, relative=False)),
        ("ops", 10**12, Limit(1e12, relative=False)),
    ],
)
def test_limits(resource: ResourceName, text: str | int, expected: Limit) -> None:
    limit = parse_limit(resource, text)
    assert limit.relative == expected.relative
    assert limit.value == pytest.approx(expected.value, rel=1e-12)


@pytest.mark.parametrize(
    ("resource", "value", "message"),
    [
        ("size", "12Mb", r"budget.size: expected a unit out of B, kB, .* or %, found 'Mb'; did you mean 'MB'\?"),
        ("size", "12 parsecs", "budget.size: expected a unit out of .*, found 'parsecs'"),
        ("size", "a lot", "budget.size: expected '15%', '12MB' or a number of bytes, found 'a lot'"),
        ("size", 1.5, "budget.size: expected '15%', '12MB' or a number of bytes, found 1.5"),
        ("size", True, "budget.size: expected .* found True"),
        ("size", "0%", "budget.size: expected a positive amount, found '0%'"),
        ("size", "-3MB", "budget.size: expected a positive amount, found '-3MB'"),
        ("size", -1, "budget.size: expected a positive amount, found -1"),
        ("size", "1e999MB", "budget.size: expected a positive amount, found '1e999MB'"),
        ("latency", "8", r"budget.latency: expected a unit \(us, ms, s or %\), found '8'; write '8ms'\?"),
        ("latency", 8, "budget.latency: expected '60%' or '8ms', found 8"),
        (
            "latency",
            "8msec",
            r"budget.latency: expected a unit out of us, ms, s or %, found 'msec'; did you mean 'ms'\?",
        ),
        ("ops", "3GB", r"budget.ops: expected a unit out of BOPS, .*, found 'GB'; did you mean 'GBOPS'\?"),
    ],
)
def test_what_does_not_parse(resource: ResourceName, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_limit(resource, value)


def test_absolute_amounts() -> None:
    limits = Budget(size="25%", latency="8ms").limits
    assert limits["size"].absolute(1000) == 250
    assert limits["latency"].absolute(100) == 8
    assert list(limits) == ["size", "latency"]


def test_budget_checks_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"budget.size: .* found 'huge'"):
        Budget(size="huge")


def test_an_empty_budget() -> None:
    with pytest.raises(ConfigError, match="budget: expected at least one of size, latency and ops, found none"):
        Budget()


def test_command_line_items() -> None:
    assert Budget.parse(["size=15%", "ops = 7"]) == Budget(size="15%", ops=7)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["15%"], "budget: expected 'name=amount' such as 'size=15%', 'smallest' or 'fastest' alone, found '15%'"),
        (
            ["sise=15%"],
            r"expected size, latency, ops, minimise, each_shape, found 'sise'; did you mean 'size'\?",
        ),
        (["size=15%", "size=20%"], "budget: expected each name once, found 'size' twice"),
        (["size=15%", "each_shape=true"], "budget.each_shape: expected a bound on latency beside it, found none"),
        (["latency=15%", "each_shape=yes"], "budget.each_shape: expected true or false, found 'yes'"),
        (
            ["latency=15%", "each_shape=true", "minimise=latency"],
            "budget.each_shape: expected a bound on latency that is not minimised too, found minimise='latency'",
        ),
        (["size="], "budget.size: expected '15%'"),
    ],
)
def test_command_line_items_that_do_not_parse(items: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget.parse(items)


@given(st.text(max_size=12))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        limit = parse_limit("size", text)
    except ConfigError:
        return
    assert limit.value > 0


def test_mapping_round_trip() -> None:
    budget = Budget(size="12MB", ops=5)
    assert Budget.from_mapping(budget.to_mapping()) == budget


def test_an_unknown_bound_is_refused_with_the_nearest_name() -> None:
    unknown: dict[str, Any] = {"sise": "15%"}
    with pytest.raises(ConfigError, match=r"budget: expected size, .*found 'sise'; did you mean 'size'\?"):
        Budget(**unknown)
    many: tuple[Any, ...] = ("15%", "8ms", "40%", "1%", "1%", "1%", "1%", "1%")
    with pytest.raises(ConfigError, match=r"expected at most \d bounds, size, .*; found 8"):
        Budget(*many)


def test_each_shape_in_all_spellings() -> None:
    budget = Budget(size="20%", latency="80%", each_shape=True)
    assert Budget.parse(["size=20%", "latency=80%", "each_shape=true"]) == budget
    assert budget.to_mapping() == {"size": "20%", "latency": "80%", "each_shape": True}
    assert Budget.from_mapping(budget.to_mapping()) == budget
    assert budget.without("size") == Budget(latency="80%", each_shape=True)
    assert budget.without("latency") == Budget(size="20%")
    assert "each_shape" not in Budget(latency="80%").to_mapping()
