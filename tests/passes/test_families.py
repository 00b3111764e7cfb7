"""Families of formats: what a name without options stands for, and bounds that nothing in a format goes below."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.ir.errors import ParseError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format
from instar.passes.formats.families import check_spelling, expand, family_of, is_family
from instar.passes.formats.low_rank import tails_of
from instar.passes.objective import PLAIN, Metric, Problem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def statistics(rows: int, columns: int, seed: int, *, diagonal: bool) -> WeightStatistics:
    x = normal(4 * columns, columns, seed=seed + 1) * torch.logspace(0, -1.0, columns)
    x = x if diagonal else x @ normal(columns, columns, seed=seed + 2)
    moment = x.T @ x / len(x)
    moment = torch.diag(moment.diagonal()) if diagonal else moment
    return WeightStatistics(len(x), moment, normal(rows, seed=seed + 3).abs() + 0.05)


def test_members_are_what_the_shape_accepts_fewest_bytes_first() -> None:
    for text in ("lowrank", "monarch", "int8:channel @ lowrank", "lowrank + int4:g16", "int4:g16 + monarch"):
        for shape in ((48, 64), (64, 16), (24, 4, 1, 1)):
            members = [format(member) for member in expand(text, shape)]
            assert members
            assert all(m.refuses(shape) is None and family_of(m.spelling) == text for m in members)
            sizes = [m.nbytes(shape) for m in members]
            assert sizes == sorted(sizes)
    assert expand("int4:g64", (8, 64)) == ("int4:g64",)
    assert expand("lowrank", (1, 64)) == ()
    assert set(expand("(lowrank + monarch)", (64, 64))) == set(expand("lowrank + monarch", (64, 64)))


def test_what_is_no_family_and_no_format_is_refused() -> None:
    assert [is_family(t) for t in ("lowrank", "lowrank:r2", "int4", "fp16 + monarch")] == [True, False, False, True]
    for text in ("lowrank", "int8:channel @ monarch", "lowrank:r4"):
        check_spelling(text)
    for text in ("lowrnk", "lowrank + int9:g64", "monarch @"):
        with pytest.raises(ParseError, match="expected"):
            check_spelling(text)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (6, 6)])
def test_tails_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = normal(*shape).double()
    values = torch.linalg.svdvals(matrix).square()
    expected = torch.stack([values[rank:].sum() for rank in range(min(shape) + 1)])
    assert torch.allclose(tails_of(matrix), expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=12, deadline=None)
@given(
    text=st.sampled_from(["lowrank", "monarch", "int8:channel @ lowrank", "int4:g16 @ monarch"]),
    known=st.sampled_from(["none", "diagonal", "full"]),
    seed=st.integers(0, 99),
)
def test_no_member_goes_below_its_bound(text: str, known: str, seed: int) -> None:
    of = None if known == "none" else statistics(20, 32, seed, diagonal=known == "diagonal")
    problem = Problem(normal(20, 32, seed=seed), of)
    method = encoder("svd+rtn" if of is None else "whitened+rtn")
    metric = method.metric(problem)
    for member in expand(text, (20, 32))[::3]:
        f = format(member)
        bound = f.least_cost(problem, metric)
        assert bound is not None
        assert bound * (1 - 1e-3) <= problem.error(f.decode(method.encode(f, problem)))


def test_bounds_are_reached_where_there_is_a_closed_form() -> None:
    problem = Problem(normal(20, 32), statistics(20, 32, 0, diagonal=False))
    metric = encoder("whitened").metric(problem)
    for rank in (1, 5, 9):
        f = format(f"fp32 @ lowrank:r{rank}")
        assert f.least_cost(problem, metric) == pytest.approx(
            problem.error(f.decode(encoder("whitened").encode(f, problem))), rel=1e-3
        )
    rows = Metric("rows", normal(20, seed=4).abs() + 0.1)
    for metric in (PLAIN, rows):
        f = format("fp32 @ monarch:k4xj2:r2")
        plain = Problem(normal(20, 32))
        weights = torch.ones(20) if metric.rows is None else metric.rows.square()
        method = encoder("svd" if metric.rows is None else "fwsvd")
        known = None if metric.rows is None else WeightStatistics(1, torch.eye(32), weights)
        stored = method.encode(f, Problem(plain.weight, known))
        error = float(((plain.matrix - f.decode(stored)).square().sum(dim=1) * weights).sum())
        assert f.least_cost(plain, metric) == pytest.approx(error, rel=1e-3)


def test_formats_without_a_closed_form_have_no_bound() -> None:
    for text in ("int4:g16", "lowrank:r2 + int4:g16", "codebook:4"):
        assert format(text).least_cost(Problem(normal(16, 16)), PLAIN) is None
