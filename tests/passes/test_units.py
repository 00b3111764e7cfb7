"""The unit in which activations and gradients were measured changes neither what is stored nor what it loses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format
from instar.passes.formats.patterns import Pattern
from instar.passes.objective import Problem

TEXTS = (
    "int3:g16", "nf2:g16", "mxfp4", "power:3:g16", "codebook:2", "lowrank:r3", "int4:g16 @ lowrank:r3", "monarch:b2",
    "monarch:k5xj2", "int8:channel @ monarch:b4", "kron:2x2", "tucker:2x2", "int8:channel @ tucker:3x2", "sparse:1x4",
    "sparse:3x7", "sparse:keep10", "int4:g16 @ sparse:keep25", "lowrank:r2 + int3:g16", "sparse:keep5 + lowrank:r2",
)  # fmt: skip
ENCODERS = ("whitened+gptq+sequential+obs", "fwsvd+mse+sequential+wanda")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("text", TEXTS)
def test_statistics_in_other_units_give_the_same_weight(text: str) -> None:
    f, weight = format(text), normal(24, 32)
    if f.refuses(weight.shape) is not None:
        weight = normal(8, 4, 3, 3)
    columns = weight[0].numel()
    x = normal(60, columns, seed=1) * torch.logspace(0, -1, columns)
    moment, rows = x.T @ x / 60, normal(len(weight), seed=2).abs() + 0.05
    for name in ENCODERS:
        found = list[float]()
        for unit, share in itertools.product((1.0, 2.0**-46, 2.0**26), (1.0, 2.0**-46, 2.0**26)):
            problem = Problem(weight, WeightStatistics(60, moment * unit, rows * share))
            found.append(problem.error(f.decode(encoder(name).encode(f, problem))) / unit / share)
        assert found == pytest.approx([found[0]] * len(found), rel=0.02)


@pytest.mark.parametrize("unit", [1.0, 2.0**-40, 2.0**40])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(3, 7), Pattern(5, 33), Pattern(1, 50)])
def test_the_highest_scores_are_kept_whatever_their_size(pattern: Pattern, unit: float) -> None:
    scores = normal(6, 33).abs()
    assert torch.equal(pattern.mask(scores * unit), pattern.mask(scores))
    assert (pattern.mask(scores).sum(dim=1) == pattern.kept(33)).all()
