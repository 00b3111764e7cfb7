"""Coordinate descent: no sweep raises the loss of a row, and where it ends no single other code is better."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.ir.errors import FormatError
from instar.passes.encoders import GPTQ
from instar.passes.encoders.descent import BLOCK, descend
from instar.passes.formats.affine import AffineGrid
from instar.passes.formats.grids import Choice, Grid, decode_choice, nearest
from instar.passes.formats.levels import LevelGrid
from instar.passes.formats.microscaling import BlockGrid
from instar.passes.formats.normal_float import normal_levels
from instar.passes.objective import row_errors

GRIDS = {
    "int": AffineGrid(2), "asymmetric": AffineGrid(3, asymmetric=True), "levels": LevelGrid(normal_levels(2)),
    "powers": BlockGrid((0.0, 0.5, 1.0, 2.0, -0.5, -1.0, -2.0, -2.0)),
}  # fmt: skip


def case(rows: int, columns: int, seed: int, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    x[:, 0] = 0.0  # a dead channel
    return torch.randn(rows, columns, generator=generator), x.T @ x / samples


def loss(grid: Grid, group: int, weight: Tensor, choice: Choice, moment: Tensor) -> Tensor:
    return row_errors(weight - decode_choice(grid, group, choice), moment)


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(sorted(GRIDS)), columns=st.integers(2, 40), group=st.sampled_from([0, 4, 16, 64]),
       seed=st.integers(0, 999), samples=st.sampled_from([1, 5, 100]))  # fmt: skip
def test_no_sweep_raises_the_loss_of_a_row(kind: str, columns: int, group: int, seed: int, samples: int) -> None:
    grid, (weight, moment) = GRIDS[kind], case(3, columns, seed, samples)
    found = [nearest(grid, group, weight)]
    found += [descend(weight, grid, group, found[0], moment, sweeps) for sweeps in (1, 2, 5)]
    losses = [loss(grid, group, weight, each, moment) for each in found]
    for before, after in itertools.pairwise(losses):
        assert bool((after <= before * 1.001 + 1e-5 * losses[0].max()).all())
    assert torch.equal(found[-1].codes[:, 0], found[0].codes[:, 0])


@pytest.mark.parametrize("kind", GRIDS)
def test_where_it_ends_no_single_other_code_is_better(kind: str) -> None:
    grid, (weight, moment) = GRIDS[kind], case(2, 10, 3, 50)
    best = descend(weight, grid, 4, nearest(grid, 4, weight), moment, 50)
    least = loss(grid, 4, weight, best, moment)
    for column in range(10):
        for code in range(4):
            codes = best.codes.clone()
            codes[:, column] = code
            assert bool((loss(grid, 4, weight, Choice(codes, best.parameters), moment) >= least * (1 - 1e-4)).all())


def test_columns_beyond_a_block_count() -> None:
    weight, moment = case(4, BLOCK + 30, 1, 400)
    grid = AffineGrid(2)
    start = nearest(grid, 0, weight)
    best = descend(weight, grid, 0, start, moment, 6)
    assert float(loss(grid, 0, weight, best, moment).sum()) < 0.5 * float(loss(grid, 0, weight, start, moment).sum())


def test_sweeps_are_checked() -> None:
    with pytest.raises(FormatError, match="expected sweeps of 0 or more, got -1"):
        GPTQ(sweeps=-1)
