"""Encoders: the identities of error feedback, what each may not do worse than, and their spellings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.ir.errors import FormatError, ParseError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import (
    ENCODERS,
    GPTQ,
    ClipSearch,
    RoundToNearest,
    encoder,
    encoders_for,
    error_feedback,
)
from instar.passes.formats import IntFormat, format
from instar.passes.formats.affine import AffineGrid
from instar.passes.formats.grids import decode_choice
from instar.passes.objective import FactoredHessian, Problem, row_errors, weighted_error


class FixedStep:
    """Rounds to multiples of 0.25, whatever the column."""

    def start_group(self, first: int, columns: Tensor) -> None:
        pass

    def column(self, index: int, values: Tensor) -> Tensor:
        return (values * 4).round() / 4


class CoveringStep:
    """Fits one step to each group of updated weights."""

    def __init__(self) -> None:
        self.step = torch.ones(())

    def start_group(self, first: int, columns: Tensor) -> None:
        self.step = columns.abs().amax(dim=0) / 7

    def column(self, index: int, values: Tensor) -> Tensor:
        return (values / self.step).round() * self.step


def correlated(columns: int, tokens: int = 400, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A second moment with a falling spectrum, as real activations have."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=dtype) * torch.logspace(
        0, -2, columns, dtype=dtype
    )
    x = torch.randn(tokens, columns, generator=generator, dtype=dtype) @ mixing.T
    return x.T @ x / tokens


def normal(rows: int, columns: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def statistics(columns: int, rows: int, seed: int = 0) -> WeightStatistics:
    return WeightStatistics(400, correlated(columns, seed=seed).float(), torch.ones(rows))


# ------------------------------------------------------------------------------------------------- error feedback
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [0, 16])
def test_squared_errors_add_up_to_the_objective(act_order: bool, group: int) -> None:
    weight = normal(7, 50)
    factored = FactoredHessian.of(correlated(50), act_order=act_order)
    decoded, loss = error_feedback(weight, factored, CoveringStep(), group, block=20)
    difference = weight - decoded if factored.order is None else (weight - decoded)[:, factored.order]
    expected = ((difference @ factored.damped) * difference).sum(dim=1)
    assert torch.allclose(loss, expected, rtol=1e-8, atol=0.0)


def test_the_factor_is_that_of_the_inverse() -> None:
    moment = correlated(40)
    factored = FactoredHessian.of(moment, damping=0.02)
    damped = moment + 0.02 * moment.diagonal().mean() * torch.eye(40, dtype=torch.float64)
    assert torch.allclose(factored.damped, damped, rtol=1e-12)
    assert torch.equal(factored.upper, factored.upper.triu())
    assert torch.allclose(factored.upper.T @ factored.upper @ damped, torch.eye(40, dtype=torch.float64), atol=1e-9)


def test_uncorrelated_inputs_give_round_to_nearest() -> None:
    weight = normal(6, 40)
    moment = torch.diag(torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1)
    decoded, _ = error_feedback(weight, FactoredHessian.of(moment), FixedStep())
    assert torch.equal(decoded, (weight * 4).round() / 4)
    stats = WeightStatistics(1, moment.float(), torch.ones(6))
    for f in (IntFormat(3, 16), IntFormat(4, None, asymmetric=True)):
        plain, fed = (f.decode(f.encode(weight, stats, e)) for e in (RoundToNearest(), GPTQ(steps=0)))
        assert torch.equal(plain, fed)


@settings(max_examples=25, deadline=None)
@given(columns=st.integers(1, 70), group=st.sampled_from([0, 5, 16, 32]), block=st.integers(1, 80))
def test_the_block_size_does_not_change_the_result(columns: int, group: int, block: int) -> None:
    weight = normal(5, columns)
    factored = FactoredHessian.of(correlated(columns))
    one, loss_one = error_feedback(weight, factored, CoveringStep(), group, block=columns)
    other, loss_other = error_feedback(weight, factored, CoveringStep(), group, block=block)
    assert torch.allclose(one, other, atol=1e-9)
    assert torch.allclose(loss_one, loss_other, rtol=1e-8)


def test_equal_to_optimal_brain_quantization_in_fixed_order() -> None:
    """Oracle: explicit inverse of the remaining columns, downdated after each one."""
    weight = normal(6, 30)
    factored = FactoredHessian.of(correlated(30))
    pending, inverse = weight.clone(), torch.linalg.inv(factored.damped)
    for column in range(30):
        rounded = (pending[:, column] * 4).round() / 4
        error = (pending[:, column] - rounded) / inverse[column, column]
        pending[:, column:] -= torch.outer(error, inverse[column, column:])
        pending[:, column] = rounded
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    decoded, _ = error_feedback(weight, factored, FixedStep(), block=8)
    assert torch.allclose(decoded, pending, atol=1e-9)


def test_dead_columns_are_rounded_on_their_own() -> None:
    moment = correlated(20)
    moment[[3, 11]] = 0.0
    moment[:, [3, 11]] = 0.0
    weight = normal(4, 20)
    decoded, _ = error_feedback(weight, FactoredHessian.of(moment), FixedStep())
    assert torch.equal(decoded[:, [3, 11]], ((weight * 4).round() / 4)[:, [3, 11]])
    silent, _ = error_feedback(weight, FactoredHessian.of(torch.zeros_like(moment)), FixedStep())
    assert torch.equal(silent, (weight * 4).round() / 4)


def test_damping_is_raised_until_a_singular_matrix_factors() -> None:
    x = normal(3, 30, dtype=torch.float32)
    factored = FactoredHessian.of(x.T @ x, damping=0.0)
    assert factored.damping > 0.0
    assert bool(factored.upper.isfinite().all())


def test_a_matrix_that_is_no_second_moment_is_refused() -> None:
    moment = torch.eye(4)
    moment[0, 1] = moment[1, 0] = -1e9
    with pytest.raises(FormatError, match="expected a positive semidefinite second moment, got one that is indefinite"):
        FactoredHessian.of(moment)


def test_error_feedback_checks_its_arguments() -> None:
    factored = FactoredHessian.of(correlated(4))
    with pytest.raises(FormatError, match="expected a factored second moment of 5 columns, got 4"):
        error_feedback(normal(2, 5), factored, FixedStep())
    with pytest.raises(FormatError, match="expected a block of 1 or more columns, got 0"):
        error_feedback(normal(2, 4), factored, FixedStep(), block=0)


# ------------------------------------------------------------------------------------------------- encoders
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_order_of_encoders_on_correlated_inputs(bits: int, group: int | None, asymmetric: bool) -> None:
    f, weight, stats = IntFormat(bits, group, asymmetric), normal(24, 100).float(), statistics(100, 24)
    loss = {name: weighted_error(weight, f.decode(f.encode(weight, stats, encoder(name))), stats)
            for name in ("rtn", "mse", "gptq", "gptq:act_order")}  # fmt: skip
    assert loss["mse"] <= loss["rtn"] * 1.05
    assert loss["gptq"] < 0.7 * loss["rtn"]
    assert loss["gptq:act_order"] < 0.7 * loss["rtn"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 500), columns=st.integers(1, 60), bits=st.integers(2, 8), group=st.sampled_from([None, 16]),
       asymmetric=st.booleans(), act_order=st.booleans(), rank=st.integers(1, 80))  # fmt: skip
def test_gptq_is_never_worse_than_round_to_nearest_for_any_row(
    seed: int, columns: int, bits: int, group: int | None, asymmetric: bool, act_order: bool, rank: int
) -> None:
    x = normal(rank, columns, seed, torch.float32)
    stats = WeightStatistics(rank, x.T @ x / rank, torch.ones(6))
    f, weight = IntFormat(bits, group, asymmetric), normal(6, columns, seed + 1, torch.float32)
    moment = stats.second_moment
    assert moment is not None
    plain, fed = (
        row_errors(weight - f.decode(f.encode(weight, stats, e)), moment)
        for e in (RoundToNearest(), GPTQ(act_order=act_order, steps=6))
    )
    assert bool((fed <= plain * 1.001 + 1e-6 * float(plain.max())).all())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 500), bits=st.integers(2, 8), group=st.sampled_from([0, 16]), asymmetric=st.booleans())
def test_clip_search_is_never_worse_than_round_to_nearest_for_any_group(
    seed: int, bits: int, group: int, asymmetric: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    importance = torch.rand(40, generator=generator)
    weight = torch.randn(5, 40, generator=generator).pow(3)
    f = IntFormat(bits, group or None, asymmetric)
    stats = WeightStatistics(1, torch.diag(importance), torch.ones(5))
    plain, searched = (
        (weight - f.decode(f.encode(weight, stats, e))).square() * importance for e in (RoundToNearest(), ClipSearch())
    )
    size = group or 40
    for first in range(0, 40, size):
        part = slice(first, first + size)
        assert bool((searched[:, part].sum(dim=1) <= plain[:, part].sum(dim=1) * 1.0001 + 1e-12).all())


def test_clip_search_gains_at_few_bits() -> None:
    weight = normal(32, 256, dtype=torch.float32)
    f = IntFormat(3, 64)
    plain, searched = (
        (weight - f.decode(f.encode(weight, None, e))).square().sum() for e in (RoundToNearest(), ClipSearch())
    )
    assert float(searched) < 0.85 * float(plain)


def test_a_shared_problem_changes_nothing() -> None:
    stats, weight = statistics(48, 5), normal(5, 48).float()
    shared = Problem(weight, stats)
    for e in (GPTQ(), GPTQ(act_order=True), RoundToNearest()):
        e.prepare(shared)
        for f in (IntFormat(4, 16), IntFormat(3), format("int4:g16 + int2:channel")):
            alone, together = f.encode(weight, stats, e), e.encode(f, shared)
            assert all(torch.equal(alone.tensors[n], together.tensors[n]) for n in alone.tensors)


def test_the_second_moment_is_factored_once_for_all_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, calls = Problem(normal(5, 48).float(), statistics(48, 5)), list[int]()
    factor = FactoredHessian.of

    def counted(moment: Tensor, damping: float = 0.01, act_order: bool = False) -> FactoredHessian:
        calls.append(1)
        return factor(moment, damping, act_order)

    monkeypatch.setattr(FactoredHessian, "of", counted)
    for text in ("int4:g16", "int3:channel", "int4:g16 + int2:channel"):
        GPTQ().encode(format(text), problem)
    assert len(calls) == 1


def test_one_encoder_for_each_family_of_a_format() -> None:
    assert encoder("gptq:act_order").families == {"grid"}
    assert encoders_for(format("int4:g16"), ("mse", "gptq"), calibrated=False) == ("mse", "gptq")
    assert encoders_for(format("int4:g16 + fp16"), (), calibrated=False) == ("mse+alternate",)
    assert encoders_for(format("int4:g16 + fp16"), ("rtn", "sequential"), calibrated=True) == ("rtn+sequential",)
    assert encoders_for(format("fp16"), ("gptq",), calibrated=True) == ("rtn",)
    assert encoder("mse+gptq").spelling == "mse+gptq"
    with pytest.raises(ParseError, match="expected an encoder, got 'gpqt'; did you mean 'gptq'"):
        encoder("mse+gpqt")


def test_encoding_is_deterministic_and_leaves_its_inputs_alone() -> None:
    stats, weight = statistics(40, 5), normal(5, 40).float()
    assert stats.second_moment is not None
    before = weight.clone(), stats.second_moment.clone()
    f, e = IntFormat(3, 16), GPTQ(act_order=True)
    first, second = f.encode(weight, stats, e), f.encode(weight, stats, e)
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert torch.equal(weight, before[0])
    assert torch.equal(stats.second_moment, before[1])


def test_codes_of_every_encoder_are_in_range_for_zero_and_outlier_rows() -> None:
    weight = normal(4, 50).float()
    weight[0] = 0.0
    weight[1, 7] = 1e4
    for name in (*ENCODERS, "gptq:act_order"):
        for asymmetric in (False, True):
            f = IntFormat(4, 16, asymmetric)
            decoded = f.decode(f.encode(weight, statistics(50, 4), encoder(name)))
            assert bool(decoded.isfinite().all())
            assert not decoded[0].any()


# ------------------------------------------------------------------------------------------------- the objective
def test_weighted_error_is_the_weighted_change_of_the_output() -> None:
    x, weight, decoded = normal(200, 12), normal(5, 12, 3), normal(5, 12, 4)
    row_weight = torch.rand(5, generator=torch.Generator().manual_seed(5))
    stats = WeightStatistics(200, (x.T @ x / 200).float(), row_weight)
    change = (x @ (weight - decoded).T).square().mean(dim=0)
    assert weighted_error(weight, decoded, stats) == pytest.approx(float(change @ row_weight.double()), rel=1e-5)
    conv = weighted_error(weight.reshape(5, 3, 2, 2), decoded.reshape(5, 3, 2, 2), stats)
    assert conv == pytest.approx(weighted_error(weight, decoded, stats))


def test_weighted_error_of_embeddings_ties_and_no_statistics() -> None:
    weight, decoded = normal(4, 6).float(), normal(4, 6, 2).float()
    squares = (weight - decoded).square().sum(dim=1)
    frequency = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert weighted_error(weight, decoded) == pytest.approx(float(squares.sum()), rel=1e-6)
    table = WeightStatistics(9, None, torch.ones(4), frequency)
    assert weighted_error(weight, decoded, table) == pytest.approx(float(squares @ frequency), rel=1e-6)
    tied = WeightStatistics(9, torch.eye(6), torch.ones(4), frequency)
    assert weighted_error(weight, decoded, tied) == pytest.approx(float(squares @ (frequency + 1)), rel=1e-6)


def test_weighted_error_does_not_depend_on_the_rows_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, decoded = normal(7, 6).float(), normal(7, 6, 2).float()
    frequency = torch.rand(7, generator=torch.Generator().manual_seed(1))
    tied = WeightStatistics(9, correlated(6).float(), torch.rand(7), frequency)
    whole = [weighted_error(weight, decoded, known) for known in (None, tied)]
    monkeypatch.setattr("instar.passes.objective.loss.CHUNK", 13)  # two rows, and one that is left
    assert [weighted_error(weight, decoded, known) for known in (None, tied)] == pytest.approx(whole, rel=1e-6)


def test_statistics_of_another_layer_are_refused() -> None:
    for name in ("mse", "gptq"):
        with pytest.raises(FormatError, match=r"expected those of a \[4, 10\] weight, got those of a \[4, 12\] weight"):
            IntFormat(4).encode(normal(4, 10), statistics(12, 4), encoder(name))
    with pytest.raises(FormatError, match=r"got those of a \[5, 10\] weight; calibrate this layer"):
        weighted_error(normal(4, 10), normal(4, 10), statistics(10, 5))


@pytest.mark.parametrize("group", [None, 16])
def test_gptq_takes_rows_in_parts(group: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    f, weight, stats = IntFormat(3, group), normal(37, 48).float(), statistics(48, 37)
    whole = f.decode(f.encode(weight, stats, GPTQ()))
    monkeypatch.setattr("instar.passes.encoders.gptq.CHUNK", 10 * 48)
    parts = f.decode(f.encode(weight, stats, GPTQ()))
    assert (whole != parts).float().mean() < 0.01  # sums in another order may turn a tie
    assert weighted_error(weight, parts, stats) == pytest.approx(weighted_error(weight, whole, stats), rel=1e-3)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_codes_of_large_weights_are_bytes(asymmetric: bool) -> None:
    matrix, x = torch.randn(8, 32), torch.randn(64, 32)
    problem = Problem(matrix, WeightStatistics(64, x.T @ x / 64, torch.ones(8)))
    chosen = IntFormat(8, 16, asymmetric)
    choice = GPTQ().choose(chosen.grid, 16, problem)
    assert choice.codes.dtype == torch.uint8
    decoded = chosen.decode(GPTQ().encode(chosen, problem))
    torch.testing.assert_close(decode_choice(chosen.grid, 16, choice), decoded)


def test_gptq_refuses_what_has_no_second_moment() -> None:
    table = WeightStatistics(9, None, torch.ones(4), torch.ones(4))
    assert "expected calibration statistics, got none" in str(GPTQ().refuses(None))
    assert "use the encoder 'mse'" in str(GPTQ().refuses(table))
    assert GPTQ().refuses(statistics(4, 4)) is None
    assert ClipSearch().refuses(table) is None
    with pytest.raises(FormatError, match="got row frequencies only"):
        IntFormat(4).encode(normal(4, 6), table, GPTQ())
    assert IntFormat(4).encode(normal(4, 6), table, ClipSearch()).nbytes == 4 * 3 + 8


# ------------------------------------------------------------------------------------------------- spellings
@pytest.mark.parametrize(
    "text", [*ENCODERS, "mse:steps=40", "gptq:act_order", "gptq:damping=0.05:block=64:act_order:steps=0"]
)
def test_spelling_parses_back(text: str) -> None:
    assert encoder(text).spelling == text


def test_spelled_options_are_set() -> None:
    assert encoder("gptq:act_order:damping=0.05") == GPTQ(damping=0.05, act_order=True)
    assert encoder("gptq:act_order=false") == GPTQ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gptp", "expected an encoder, got 'gptp'; did you mean 'gptq'"),
        ("gptq:act_ordr", "expected an option of 'gptq', got 'act_ordr'; did you mean 'act_order'"),
        ("rtn:steps=3", "expected an option of 'rtn', got 'steps'; 'rtn' has no options"),
        ("gptq:3", "expected an option of 'gptq', got '3'; known: damping=0.01, block=128, act_order, steps"),
        ("mse:steps=3:steps=4", "expected option 'steps' once, got it twice"),
        ("mse:steps=x", "expected 'steps' to be a whole number, got 'x'; write steps=16"),
        ("gptq:damping", "expected 'damping' to be a number, got ''; write damping=0.01"),
        ("gptq:act_order=1", "expected 'act_order' to be true or false, got '1'"),
    ],
)
def test_misspelled_encoders_are_refused(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        encoder(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mse:steps=0", "expected steps of 1 or more, got 0"),
        ("gptq:damping=-1", r"expected damping between 0 and 10, got -1\.0"),
        ("gptq:block=0", "expected a block of 1 or more columns, got 0"),
        ("gptq:steps=-1", "expected steps of 0 or more, got -1"),
    ],
)
def test_options_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        encoder(text)


def test_every_grid_offers_as_many_candidates_as_asked() -> None:
    for bits in range(2, 9):
        for asymmetric in (False, True):
            found = list(AffineGrid(bits, asymmetric).candidates(torch.randn(3, 2, 16), 5))
            assert [tuple(p.shape) for p in found[0]] == [(3, 2, 1)] * (1 + asymmetric)
            assert len(found) == 5
