"""Static activation parameters and the streaming histogram they come from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instar.ir import dialect
from instar.ir.errors import CalibrationError, ParseError
from instar.ir.statistics import HISTOGRAM_BINS, ActivationStatistics, RangeObserver, WeightStatistics
from instar.passes.activations import (
    StaticParameters,
    least_squares,
    min_max,
    parameters_of_range,
    percentile,
    static_parameters,
)


def observe(*batches: Tensor) -> ActivationStatistics:
    observer = RangeObserver()
    for batch in batches:
        observer.update(batch)
    return observer.statistics()


def error(x: Tensor, p: StaticParameters) -> float:
    done = dialect.fake_quantize_static(x, p.scale, p.zero_point, p.bits, p.symmetric)
    return float((done - x).square().mean())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scales=st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 7.0, 1e20]), min_size=1, max_size=5),
)
def test_cutting_or_reordering_batches_changes_nothing(seed: int, scales: list[float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(5, 7, generator=generator) * scale for scale in scales]
    together = observe(torch.cat(batches))
    for other in (observe(*batches), observe(*reversed(batches))):
        assert (other.count, other.minimum, other.maximum, other.limit) == (
            together.count, together.minimum, together.maximum, together.limit,
        )  # fmt: skip
        assert torch.equal(other.histogram, together.histogram)


def test_histogram_counts_every_value_near_its_bin_centre() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    seen = observe(x)
    assert int(seen.histogram.sum()) == seen.count == 1000
    assert seen.limit / 2 <= float(x.abs().max()) < seen.limit
    centers = seen.centers.repeat_interleave(seen.histogram)
    assert float((centers - x.double().sort().values).abs().max()) <= seen.limit / HISTOGRAM_BINS + 1e-9


def test_observing_nothing_or_nonsense_is_refused() -> None:
    with pytest.raises(CalibrationError, match="expected at least one value, got none"):
        observe(torch.zeros(0))
    with pytest.raises(CalibrationError, match="got 2 NaN or infinite of 3"):
        observe(torch.tensor([1.0, math.nan, math.inf]))


def test_min_max_covers_the_range_within_half_a_step() -> None:
    x = torch.randn(999, generator=torch.Generator().manual_seed(1)) + 1.0
    for symmetric in (False, True):
        p = min_max(observe(x), symmetric=symmetric)
        done = dialect.fake_quantize_static(x, p.scale, p.zero_point, 8, symmetric)
        assert float((done - x).abs().max()) <= p.scale * 0.5001 + (0.0 if symmetric else p.scale * 0.5)


def test_min_max_unsigned_is_what_dynamic_quantization_would_choose() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(2))
    p = min_max(observe(x))
    static = dialect.fake_quantize_static(x, p.scale, p.zero_point, 8, False)
    assert torch.allclose(static, dialect.fake_quantize_dynamic(x, 8, "tensor", False), atol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_clipping_methods_beat_min_max_on_an_outlier(symmetric: bool) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    x[7] = 90.0
    seen = observe(x)
    covering, searched = (
        error(x, min_max(seen, symmetric=symmetric)),
        error(x, least_squares(seen, symmetric=symmetric)),
    )
    assert searched < covering
    bulk = torch.cat([x[:7], x[8:]])
    assert error(bulk, percentile(seen, symmetric=symmetric)) < 0.05 * error(bulk, min_max(seen, symmetric=symmetric))


def test_mse_is_never_worse_than_min_max_over_the_histogram() -> None:
    for seed in range(5):
        x = torch.randn(4000, generator=torch.Generator().manual_seed(seed)).pow(3)
        assert error(x, least_squares(observe(x))) <= error(x, min_max(observe(x))) * 1.001


def test_percentile_of_everything_is_min_max() -> None:
    x = torch.rand(100, generator=torch.Generator().manual_seed(4)) - 0.3
    assert percentile(observe(x), share=100.0) == min_max(observe(x))


def test_all_zero_and_one_sided_ranges() -> None:
    for method in ("minmax", "percentile", "mse"):
        assert static_parameters(observe(torch.zeros(5)), method) == StaticParameters(1.0, 0)
        assert static_parameters(observe(torch.ones(5)), method).zero_point == 0
        assert static_parameters(observe(-torch.ones(5)), method).zero_point == 255
    assert parameters_of_range(0.0, 1e-45).scale > 0.0


def test_unknown_methods_shares_and_activations_are_refused() -> None:
    seen = observe(torch.ones(3))
    with pytest.raises(ParseError, match="got 'percentil'; did you mean 'percentile'"):
        static_parameters(seen, "percentil")
    with pytest.raises(CalibrationError, match="expected a share above 0 and at most 100, got 101"):
        percentile(seen, share=101.0)


def test_weight_statistics_are_checked() -> None:
    ones = torch.ones(3)
    with pytest.raises(CalibrationError, match="expected a second moment or a row frequency, got neither"):
        WeightStatistics(1, None, ones)
    with pytest.raises(CalibrationError, match=r"expected a square second moment, got shape \[2, 3\]"):
        WeightStatistics(1, torch.ones(2, 3), ones)
    with pytest.raises(CalibrationError, match="expected a finite second moment"):
        WeightStatistics(1, torch.full((2, 2), math.nan), ones)
    with pytest.raises(CalibrationError, match=r"expected row_frequency of shape \[3\], got \[2\]"):
        WeightStatistics(1, None, ones, torch.ones(2))
    with pytest.raises(CalibrationError, match="expected row_weight to be finite and not negative"):
        WeightStatistics(1, torch.eye(2), -ones)
