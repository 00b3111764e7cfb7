"""Ranks by one threshold: monotone, never above the limit, and no lower threshold fits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from instar.schedulers.allocation.thresholds import RULES, explained_variance, kept, ranks_within, welore

spectra = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=8).map(lambda values: sorted(values, reverse=True))


@given(
    st.lists(st.tuples(spectra, st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 200),
    st.sampled_from([*RULES]),
)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_the_threshold_is_the_least_that_fits(layers: list[tuple[list[float], int]], limit: int, rule: str) -> None:
    shares = [RULES[rule](spectrum) for spectrum, _ in layers]
    nbytes = [lambda rank, each=each: each * rank for _, each in layers]
    found = ranks_within(shares, nbytes, limit)

    def total(threshold: float) -> int:
        return sum(cost(kept(s, threshold)) for s, cost in zip(shares, nbytes, strict=True))

    thresholds = sorted({share for each in shares for share in each})
    fitting = [t for t in thresholds if total(t) <= limit]
    assert (found.threshold if found else None) == (fitting[0] if fitting else None)
    assert [total(t) for t in thresholds] == sorted((total(t) for t in thresholds), reverse=True)
    if found is not None:
        assert found.ranks == tuple(kept(s, found.threshold) for s in shares)


def test_shares_of_a_spectrum() -> None:
    assert welore([5.0, 3.0, 1.0]) == (1.0, 0.5, 0.0)
    assert explained_variance([2.0, 1.0]) == (0.8, 0.2)


def test_spectra_without_a_width_keep_everything() -> None:
    assert welore([2.0, 2.0]) == (1.0, 1.0)
    assert explained_variance([0.0, 0.0]) == (1.0, 1.0)
