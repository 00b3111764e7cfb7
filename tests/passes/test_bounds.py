"""Bounds that need no storing: nothing stored costs less, and where columns do not interact they are met."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.encoders.factors import Whitened
from instar.passes.formats import format
from instar.passes.formats.grids import decode_choice
from instar.passes.formats.integer import IntFormat
from instar.passes.objective import PLAIN, Metric, Placed, Problem

BOUNDED = ("sparse:2x4", "sparse:keep30", "kron:4x4", "kron:4x4:t3", "tucker:4x3", "lowrank:r3", "monarch:b4")


def problem(shape: tuple[int, ...], seed: int, samples: int = 60, *, diagonal: bool = False) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    columns = weight[0].numel()
    x = torch.randn(samples, columns, generator=generator) * torch.logspace(0, -1, columns)
    x = x if diagonal else x @ torch.randn(columns, columns, generator=generator)
    moment = x.T @ x / samples
    moment = torch.diag(moment.diagonal()) if diagonal else moment
    return Problem(weight, WeightStatistics(samples, moment, torch.rand(shape[0], generator=generator) + 0.1))


@settings(max_examples=8, deadline=None)
@given(text=st.sampled_from(BOUNDED), seed=st.integers(0, 999), diagonal=st.booleans())
def test_nothing_stored_costs_less_than_the_bound(text: str, seed: int, diagonal: bool) -> None:
    f = format(text)
    x = problem((12, 10, 3, 3) if text.startswith("tucker") else (16, 32), seed, diagonal=diagonal)
    whole = x.error(torch.zeros(x.shape))
    for metric, spelled in ((PLAIN, "svd"), (Whitened().metric(x), "whitened+obs")):
        least = f.least_cost(x, metric)
        stored = f.decode(encoder(spelled).encode(f, x)).reshape(x.matrix.shape)
        cost = float(metric.whiten(x.matrix - stored).double().square().sum())
        assert least is not None
        assert 0.0 <= least <= cost * 1.001 + 1e-5 * whole


def test_that_of_sparse_weights_is_met_where_columns_do_not_interact() -> None:
    x, f = problem((6, 32), 1, diagonal=True), format("fp32 @ sparse:2x4")
    metric = Whitened().metric(x)
    least, found = f.least_cost(x, metric), x.error(f.decode(encoder("wanda").encode(f, x)))
    assert least is not None
    assert found == pytest.approx(least, rel=1e-4)


def test_that_of_products_and_cores_is_met_without_weights() -> None:
    x = problem((16, 32), 2)
    f = format("fp32 @ kron:4x4:t2")
    least = f.least_cost(x, PLAIN)
    assert least == pytest.approx(float((x.weight - f.decode(f.encode(x))).double().square().sum()), rel=1e-4)
    window = Problem(torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)))
    full = format("fp32 @ tucker:3x6")  # no rank on the side of the inputs
    least = full.least_cost(window, Metric("plain"))
    assert least == pytest.approx(window.error(full.decode(full.encode(window))), rel=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), text=st.sampled_from(["sparse:2x4", "sparse:keep40"]), bits=st.sampled_from([2, 4]))
def test_codes_of_kept_weights_are_chosen_with_the_updates(seed: int, text: str, bits: int) -> None:
    x, f = problem((8, 48), seed, 200), format(f"int{bits}:g16 @ {text}")
    apart, joint = (x.error(f.decode(encoder(e).encode(f, x))) for e in ("mse+obs", "gptq+obs"))
    assert joint <= apart * 1.001


def test_one_pass_is_better_than_one_after_the_other() -> None:
    x, f = problem((24, 96), 5, 400), format("int3:g32 @ sparse:2x4")
    apart, joint = (x.error(f.decode(encoder(e).encode(f, x))) for e in ("mse+obs", "gptq+obs"))
    assert joint < 0.95 * apart


def test_places_are_those_of_the_mask() -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    placed = Placed(Problem(torch.ones(2, 3)), mask)
    assert torch.equal(placed.spread(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), torch.tensor([[1.0, 0, 2], [0, 3, 4]]))
    f = IntFormat(4, 16)
    choice = encoder("rtn").choose(f.grid, 16, Problem(torch.ones(2, 2)))
    assert decode_choice(f.grid, 16, choice).shape == (2, 2)
