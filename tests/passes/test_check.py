"""Comparing outputs: norms, NaN and infinity, integers, plain values, and fingerprints of values."""

from __future__ import annotations

import math

import pytest
import torch

from instar.passes.check import Deviation, compare, relative_error
from instar.passes.culprit import fingerprint

INF, NAN = math.inf, math.nan


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        (tensor(3.0, 4.0), tensor(3.0, 4.0), 0.0),
        (tensor(3.0, 4.0), tensor(3.0, 4.5), 0.1),
        (tensor(0.0, 0.0), tensor(0.0, 0.25), 0.25),
        (tensor(), tensor(), 0.0),
        (tensor(1.0, INF, -INF, NAN), tensor(1.0, INF, -INF, NAN), 0.0),
        (tensor(2.0, INF), tensor(3.0, INF), 0.5),
        (tensor(1.0, INF), tensor(1.0, -INF), INF),
        (tensor(1.0, NAN), tensor(1.0, 0.0), INF),
        (tensor(1.0, 2.0), tensor(1.0, NAN), INF),
        (tensor(1.0, 2.0), tensor(1.0, INF), INF),
        (tensor(1.0, 2.0), tensor(1.0), INF),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), 0.0),
        (torch.tensor([3, 4]), torch.tensor([3, 9]), 1.0),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0),
        (torch.tensor([3 + 4j]), torch.tensor([3 + 4j]), 0.0),
        (torch.tensor([3 + 4j]), torch.tensor([3 + 9j]), 1.0),
        (None, None, 0.0),
        (3, 4, INF),
        (tensor(1.0), 1.0, INF),
    ],
)
def test_relative_error(before: object, after: object, error: float) -> None:
    assert relative_error(before, after) == pytest.approx(error)


def test_the_worst_output_of_all_examples() -> None:
    expected = [[tensor(1.0), tensor(1.0)], [tensor(1.0), tensor(1.0)]]
    found = [[tensor(1.0), tensor(1.001)], [tensor(1.1), tensor(1.0)]]
    worst = compare(expected, found)
    assert (worst.output, worst.example) == (0, 1)
    assert worst.error == pytest.approx(0.1)
    assert worst.sqnr_db == pytest.approx(20, abs=1e-4)
    assert compare(expected, expected) == Deviation()
    assert compare([[tensor(1.0)]], [[tensor(NAN)]]) == Deviation(INF, -INF)


def test_fingerprints_tell_values_apart() -> None:
    x = torch.randn(3, 4)
    assert fingerprint(x) == fingerprint(x.clone())
    assert fingerprint(x)[0] != fingerprint(x.reshape(4, 3))[0]
    assert fingerprint(x)[2] != fingerprint(x.flip(0))[2]
    assert fingerprint(tensor(NAN, 1.0)) == fingerprint(tensor(0.0, 1.0))
    assert fingerprint(torch.tensor([True, False]))[1] == 1.0
