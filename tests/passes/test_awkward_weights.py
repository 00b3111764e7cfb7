"""Zeros, constants, outliers, tails of groups, ties: what trips most grids, held against every class of formats."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.passes.formats import Format, format
from instar.passes.formats.base import SPARSE

from .every_format import FORMS

SHAPES = ((12, 50), (7, 33), (5, 1), (16, 32))
KINDS = ("normal", "zeros", "ones", "signs", "some rows", "outlier", "negative zeros", "transposed", "slice")
ALONE = ("int4:g16", "int3:g16:asym", "nf3:g16", "fp4_e2m1:g16", "mxfp4", "bfp4:g16", "int4:g16 + int2:g16")
"""Formats whose groups know nothing of each other."""

ONE_TABLE = ("codebook:2",)
"""Levels without scales: one is near the zeros of the whole weight, which is the least error, but need not be zero."""


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def awkward(kind: str, rows: int, columns: int, seed: int) -> Tensor:
    plain = normal(rows, columns, seed)
    outlier = plain.clone()
    outlier[0, -1] = 400.0
    return {
        "normal": plain,
        "zeros": torch.zeros(rows, columns),
        "ones": torch.full((rows, columns), -1.0 if seed % 2 else 1.0),
        "signs": plain.sign(),
        "some rows": plain * (torch.arange(rows) % 2)[:, None],
        "outlier": outlier,
        "negative zeros": torch.where(plain > 0, plain, -0.0),
        "transposed": normal(columns, rows, seed).T,
        "slice": normal(2 * rows, 3 * columns, seed)[::2, ::3],
    }[kind]


def fitting(f: Format, shape: tuple[int, int]) -> tuple[int, ...]:
    """The shape, or one that the format does not refuse."""
    return next(s for s in (shape, (32, 64), (12, 16, 3, 3)) if f.refuses(s) is None)


@pytest.mark.parametrize("text", FORMS)
@settings(max_examples=8, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    scale=st.sampled_from([2.0**-13, 1.0, 32.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_no_format_is_worse_than_zeros_and_zeros_stay(
    text: str, shape: tuple[int, int], kind: str, seed: int, scale: float, dtype: torch.dtype
) -> None:
    f = format(text)
    size = fitting(f, shape)
    flat = awkward(kind, size[0], math.prod(size[1:]), seed) * scale
    weight = flat.reshape(size).to(dtype)
    before, exact = weight.clone(), weight.float()
    decoded = f.decode(f.encode(weight))
    assert torch.equal(weight, before)
    assert bool(decoded.isfinite().all())
    assert float((decoded - exact).norm()) <= (1.0 + 1e-3) * float(exact.norm()) + 1e-5 * scale
    silent = (exact.reshape(size[0], -1).abs().amax(dim=1) == 0) & (text not in ONE_TABLE)
    assert float(decoded.reshape(size[0], -1)[silent].abs().sum()) <= 1e-4 * float(exact.abs().max()) + 1e-5
    if kind in ("ones", "signs") and SPARSE not in f.families and (kind == "ones" or f.is_dense):
        assert torch.allclose(decoded, exact, rtol=2.0**-8, atol=0.0), kind


@pytest.mark.parametrize("text", ALONE)
@settings(max_examples=5, deadline=None)
@given(columns=st.integers(33, 90), seed=st.integers(0, 999))
def test_the_short_last_group_is_stored_as_if_it_were_alone(text: str, columns: int, seed: int) -> None:
    f, weight, group = format(text), normal(3, columns, seed).pow(3), 32 if text == "mxfp4" else 16
    alone = [f.decode(f.encode(each)) for each in weight.split(group, dim=1)]
    assert torch.equal(f.decode(f.encode(weight)), torch.cat(alone, dim=1))


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        # steps of 1: half to even
        ("int8:channel", {127.0: 127.0, 0.5: 0.0, 1.5: 2.0, 2.5: 2.0, -0.5: 0.0, -1.5: -2.0}),
        ("int4:channel", {-8.0: -8.0, 0.5: 0.0, 1.5: 2.0, -2.5: -2.0, 6.5: 6.0}),
        # floats: to the even bit pattern
        ("fp4_e2m1:channel", {6.0: 6.0, 0.25: 0.0, 0.75: 1.0, 2.5: 2.0, 3.5: 4.0, 5.0: 4.0, -5.0: -4.0}),
        ("mxfp4", {6.0: 6.0, 0.25: 0.0, 0.75: 1.0, 2.5: 2.0, 3.5: 4.0, 5.0: 4.0, -5.0: -4.0}),
        # quarters: to the even mantissa
        ("bfp4:channel", {1.75: 1.75, 0.125: 0.0, 0.375: 0.5, -0.125: 0.0, -0.375: -0.5}),
        # tables: the lower level
        ("power:2:channel", {1.0: 1.0, 0.5: 0.0, -0.5: -1.0}),
        ("nf2:channel", {1.0: 1.0, -0.5: -1.0}),
    ],
)
def test_half_ways_go_where_the_documentation_says(text: str, halves: dict[float, float]) -> None:
    f, weight = format(text), torch.tensor([[*halves] * 6] * 8)
    decoded = f.decode(f.encode(weight))
    assert decoded[0, : len(halves)].tolist() == pytest.approx(list(halves.values()), rel=1e-6)
