"""Encoders of factors: each is the optimum of its own objective, and whitening is that of the layer's output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.ir.errors import FormatError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import ENCODERS, encoder, encoders_for
from instar.passes.formats import format
from instar.passes.objective import Problem, weighted_error

METHODS = ("svd", "fwsvd", "whitened")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: int, columns: int, seed: int = 0) -> Problem:
    """Correlated inputs of falling power, and rows that differ in weight."""
    mixing = normal(columns, columns, seed=seed + 1) * torch.logspace(0, -1.5, columns)
    x = normal(4 * columns, columns, seed=seed + 2) @ mixing.T
    weights = normal(rows, seed=seed + 3).abs() + 0.05
    return Problem(normal(rows, columns, seed=seed), WeightStatistics(len(x), x.T @ x / len(x), weights))


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(6, 20), columns=st.integers(6, 20), rank=st.integers(1, 2), seed=st.integers(0, 99))
def test_each_is_best_on_its_own_objective(rows: int, columns: int, rank: int, seed: int) -> None:
    given_, f = problem(rows, columns, seed), format(f"fp32 @ lowrank:r{rank}")
    statistics = given_.statistics
    assert statistics is not None
    objectives = {
        "svd": None,
        "fwsvd": WeightStatistics(1, torch.eye(columns), statistics.row_weight),
        "whitened": statistics,
    }
    decoded = {name: f.decode(encoder(name).encode(f, given_)) for name in METHODS}
    for name, objective in objectives.items():
        errors = {other: weighted_error(given_.matrix, decoded[other], objective) for other in METHODS}
        assert errors[name] <= min(errors.values()) * (1 + 1e-4)


def test_rows_that_count_alike_are_those_of_svd_and_rows_that_never_counted_stay_finite() -> None:
    f, bare = format("fp32 @ lowrank:r3"), normal(14, 18)
    alike = Problem(bare, WeightStatistics(4, torch.eye(18), torch.full((14,), 0.3)))
    plain, rows = (f.decode(encoder(name).encode(f, alike)) for name in ("svd", "fwsvd"))
    assert torch.equal(plain, rows)
    silent = Problem(bare, WeightStatistics(4, torch.eye(18), torch.tensor([0.0, 0.0, *[1.0] * 12])))
    decoded = f.decode(encoder("fwsvd").encode(f, silent))
    assert bool(decoded.isfinite().all())
    assert float(decoded[:2].norm()) < 10.0 * float(bare[:2].norm())  # a floor under weights, not a division by nothing
    alone = torch.linalg.svdvals(bare[2:])[3:].square().sum()
    assert silent.error(decoded) == pytest.approx(float(alone), rel=1e-3)


def test_the_output_error_is_the_tail_of_the_whitened_spectrum() -> None:
    given_ = problem(24, 32)
    statistics = given_.statistics
    assert statistics is not None
    assert statistics.second_moment is not None
    lower = torch.linalg.cholesky(statistics.second_moment.double())
    spectrum = torch.linalg.svdvals(statistics.row_weight.double().sqrt().unsqueeze(1) * given_.matrix.double() @ lower)
    for rank in (1, 4, 9):
        f = format(f"fp32 @ lowrank:r{rank}")
        error = given_.error(f.decode(encoder("whitened:damping=0").encode(f, given_)))
        assert error == pytest.approx(float(spectrum[rank:].square().sum()), rel=1e-3)


def test_a_diagonal_second_moment_needs_no_factorization_and_dead_columns_are_finite() -> None:
    power = torch.rand(16, generator=torch.Generator().manual_seed(5))
    power[3] = 0.0
    given_ = Problem(normal(8, 16), WeightStatistics(9, torch.diag(power), torch.ones(8)))
    f = format("fp32 @ lowrank:r2")
    whitened, plain = (given_.error(f.decode(encoder(name).encode(f, given_))) for name in ("whitened", "svd"))
    assert whitened <= plain
    assert whitened < float("inf")


def test_the_decomposition_is_computed_once_for_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, svd = list[int](), torch.linalg.svd

    def counted(matrix: Tensor, full_matrices: bool = True) -> tuple[Tensor, ...]:
        calls.extend([1] * (matrix.shape == (20, 24)))  # factors that are fitted again are decomposed too
        return svd(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    given_ = problem(20, 24)
    for text in ("lowrank:r2", "lowrank:r5"):
        encoder("whitened+gptq").encode(format(text), given_)
    assert len(calls) == 1
    for text in ("int8:channel @ lowrank:r3", "int4:g16 @ lowrank:r4"):
        encoder("whitened+gptq").encode(format(text), given_)
    assert len(calls) == 2  # the plainest way, which products are compared with, is by the plain decomposition


def test_formats_of_two_families_take_an_encoder_for_each() -> None:
    assert set(METHODS) <= set(ENCODERS)
    product = format("int8:channel @ lowrank:r4")
    assert encoders_for(product, (), calibrated=True) == ("whitened+gptq",)
    assert encoders_for(product, (), calibrated=False) == ("svd+mse",)
    assert encoders_for(product, ("rtn", "svd", "fwsvd"), calibrated=True) == ("svd+rtn", "fwsvd+rtn")
    assert encoders_for(format("lowrank:r4"), ("gptq",), calibrated=True) == ("whitened",)
    assert encoders_for(format("int4:g32"), ("whitened",), calibrated=True) == ("gptq",)


def test_what_needs_data_says_so() -> None:
    f, bare = format("lowrank:r2"), Problem(normal(12, 12))
    table = WeightStatistics(9, None, torch.ones(12), torch.rand(12))
    for name in ("fwsvd", "whitened"):
        with pytest.raises(FormatError, match=f"{name}: expected calibration statistics, got none; .*'svd'"):
            encoder(name).encode(f, bare)
    with pytest.raises(FormatError, match="expected a second moment of the layer's inputs, got row frequencies only"):
        encoder("whitened").encode(f, Problem(normal(12, 12), table))
    assert encoder("fwsvd").encode(f, Problem(normal(12, 12), table)).nbytes == 2 * 2 * 24
    with pytest.raises(FormatError, match=r"expected damping between 0 and 1, got 2\.0"):
        encoder("whitened:damping=2")
    indefinite = WeightStatistics(9, torch.tensor([[1.0, -9.0], [-9.0, 1.0]]).repeat(6, 6), torch.ones(12))
    with pytest.raises(FormatError, match="expected a positive semidefinite second moment"):
        encoder("whitened").encode(f, Problem(normal(12, 12), indefinite))


def test_factors_in_integers_see_statistics_of_their_own() -> None:
    given_, f = problem(48, 64), format("int4:g16 @ lowrank:r8")
    nearest, fed = (
        given_.error(f.decode(encoder(name).encode(f, given_))) for name in ("whitened+rtn", "whitened+gptq")
    )
    exact = given_.error(
        format("fp32 @ lowrank:r8").decode(encoder("whitened").encode(format("fp32 @ lowrank:r8"), given_))
    )
    assert exact < fed < nearest
