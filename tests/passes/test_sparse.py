"""Sparse weights: masks against every mask of a row, updates that never lose to a mask alone, sizes and targets."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import instar
from instar.ir.errors import FormatError, ParseError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.encoders.registry import encoders_for
from instar.passes.formats import format
from instar.passes.formats.patterns import Pattern
from instar.passes.formats.sparse import Sparse, kept_statistics
from instar.passes.objective import Problem, row_errors

from .small_files import network, replays_to_the_same_bytes, run_operators

SPELLINGS = ["sparse:2x4", "sparse:1x4", "sparse:keep50", "sparse:keep7", "int4:g32 @ sparse:2x4"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: int = 12, columns: int = 64, seed: int = 0) -> Problem:
    x = normal(2 * columns, columns, seed=seed + 1) @ normal(columns, columns, seed=seed + 2)
    x = x * torch.logspace(0.0, 1.0, columns)
    weights = normal(rows, seed=seed + 3).square()
    return Problem(normal(rows, columns, seed=seed), WeightStatistics(len(x), x.T @ x / len(x), weights))


def masks(columns: int, pattern: Pattern) -> list[Tensor]:
    """Every mask of a row that a pattern allows."""
    found = []
    for bits in itertools.product((False, True), repeat=columns):
        runs = [bits[i : i + pattern.group] for i in range(0, columns, pattern.group)]
        if all(sum(run) == min(pattern.keep, len(run)) for run in runs):
            found.append(torch.tensor(bits))
    return found


def lost(x: Problem, values: Tensor, importance: Tensor | None = None) -> Tensor:
    changed = (x.matrix - values).square()
    return (changed if importance is None else importance * changed).sum(dim=1)


def rows_lost(x: Problem, values: Tensor) -> Tensor:
    assert x.second_moment is not None
    changed = (x.matrix - values).double()
    return ((changed @ x.second_moment.double()) * changed).sum(dim=1)


def best_of_all(x: Problem, every: Tensor, importance: Tensor) -> Tensor:
    return torch.stack([lost(x, x.matrix * mask, importance) for mask in every]).amin(dim=0)


@pytest.mark.parametrize(("pattern", "columns"), [((2, 4), 8), ((1, 4), 9), ((2, 4), 11), ((3, 10), 10)])
def test_the_mask_of_a_row_is_the_best_of_all(pattern: tuple[int, int], columns: int) -> None:
    rule = Pattern(*pattern)
    for seed in range(4):
        x = problem(3, columns, seed)
        moment = x.second_moment
        assert moment is not None
        every = torch.stack(masks(columns, rule))
        assert bool((every.sum(dim=1) == rule.kept(columns)).all())
        largest, wanda = (encoder(name).prune(rule, x) for name in ("magnitude", "wanda"))
        assert torch.allclose(lost(x, largest.values), best_of_all(x, every, torch.ones(columns)), rtol=1e-6)
        least = best_of_all(x, every, moment.diagonal())
        own = lost(x, wanda.values, moment.diagonal())
        kept_largest = (wanda.mask == largest.mask).all(dim=1)
        assert torch.all(torch.isclose(own, least, rtol=1e-6) | kept_largest)  # what Wanda says, or what loses less
        assert all(any(torch.equal(row, mask) for mask in every) for row in wanda.mask)
        assert bool((rows_lost(x, wanda.values) <= rows_lost(x, largest.values) * (1 + 1e-6)).all())
        surgeon = encoder("obs").prune(rule, x)
        assert all(any(torch.equal(row, mask) for mask in every) for row in surgeon.mask)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    columns=st.integers(5, 300),
    text=st.sampled_from(["2x4", "1x4", "keep50", "keep20", "3x8"]),
)
def test_updates_never_lose_to_a_mask_alone(seed: int, columns: int, text: str) -> None:
    x, f = problem(5, columns, seed), format(f"sparse:{text}")
    assert isinstance(f, Sparse)
    moment = x.second_moment
    assert moment is not None
    pattern = f.pattern(columns)
    surgeon, wanda, plain = (encoder(name).prune(pattern, x) for name in ("obs", "wanda", "magnitude"))
    for each in (surgeon, wanda, plain):
        assert bool((each.mask.sum(dim=1) == f.kept((5, columns))[1]).all())
        assert not bool(each.values[~each.mask].any())
    errors = [row_errors(x.matrix - each.values, moment) for each in (surgeon, wanda, plain)]
    assert bool((errors[0] <= torch.minimum(errors[1], errors[2])).all())


def test_updates_are_worth_much_where_inputs_are_correlated() -> None:
    x = problem(32, 128)
    for text in ("sparse:2x4", "sparse:keep50"):
        f = format(text)
        obs, wanda, plain = (x.error(f.decode(encoder(n).encode(f, x))) for n in ("obs", "wanda", "magnitude"))
        assert obs < 0.8 * wanda
        assert wanda < plain


def test_one_dropped_weight_is_made_up_for_as_the_optimal_brain_surgeon_says() -> None:
    """Dropping the first column alone: the others move by ``-w / [H^-1]_00 [H^-1]_0`` (Hassibi and Stork, 1993)."""
    x = problem(1, 6)
    moment = x.second_moment
    assert moment is not None
    x.weight[0, 0] = 1e-4  # so small that it is the one that is dropped of the first run
    x.weight[0, 5] = 1e-9  # and of the last one
    pruned = encoder("obs:damping=0.0").prune(Pattern(4, 5), x)
    inverse = torch.linalg.inv(moment.double())
    weight = x.matrix[0].double()
    expected = weight - weight[0] / inverse[0, 0] * inverse[0]
    assert pruned.mask[0].tolist() == [False, True, True, True, True, True]
    assert torch.allclose(pruned.values[0].double(), expected, atol=1e-6)


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("shape", [(8, 128), (7, 75), (5, 8, 3, 3)])
def test_sizes_shapes_and_what_is_decoded(text: str, shape: tuple[int, ...]) -> None:
    f, weight = format(text), normal(*shape)
    assert f.spelling == text
    encoded = f.encode(weight)
    assert {n: (tuple(t.shape), t.dtype) for n, t in encoded.tensors.items()} == {
        n: (s.shape, s.dtype) for n, s in f.tensors(shape).items()
    }
    assert encoded.nbytes == f.nbytes(shape)
    decoded = f.decode(encoded)
    assert decoded.shape == shape
    assert isinstance(f, Sparse)
    kept = decoded.reshape(shape[0], -1) != 0.0
    assert bool((kept.sum(dim=1) <= f.kept(shape)[1]).all())
    if "@" not in text:
        assert bool((kept.sum(dim=1) == f.kept(shape)[1]).all())
        exact = weight.reshape(shape[0], -1)
        assert torch.allclose(decoded.reshape(shape[0], -1)[kept], exact[kept], rtol=2**-11, atol=2**-25)
        assert torch.equal(f.decode(f.encode(decoded)), decoded)


def test_bits_per_weight_are_those_of_mask_and_kept_numbers() -> None:
    shape = (512, 4096)
    assert format("sparse:2x4").bits_per_weight(shape) == 16 * 0.5 + 1
    assert format("sparse:keep25").bits_per_weight(shape) == 16 * 0.25 + 1
    assert format("int4:g32 @ sparse:2x4").bits_per_weight(shape) == 0.5 * (4 + 16 / 32) + 1


def test_a_dense_product_is_what_it_is_priced_with() -> None:
    assert format("sparse:1x4").flops((64, 96), 10) == format("fp32").flops((64, 96), 10) == 2 * 64 * 96 * 10
    assert format("sparse:1x4").is_dense


def test_elements_are_encoded_with_the_importance_of_what_is_kept() -> None:
    x = problem(6, 32)
    known, mask = x.statistics, Pattern(2, 4).mask(x.matrix.abs())
    found = kept_statistics(known, mask, (6, 16))
    assert known is not None
    assert found is not None
    assert found.importance is not None
    assert known.importance is not None
    by_hand = torch.stack([known.importance[row.nonzero().flatten()] for row in mask]).mean(dim=0)
    assert torch.allclose(found.importance, by_hand)
    assert kept_statistics(None, mask, (6, 16)) is None
    f = format("int3:g16 @ sparse:2x4")
    names = encoders_for(f, (), calibrated=True)
    assert names == ("gptq+obs",)
    assert x.error(f.decode(encoder(names[0]).encode(f, x))) < x.error(f.decode(encoder("rtn").encode(f, x)))


def test_sparse_and_low_rank_are_better_together() -> None:
    """A planted sum: neither part alone has it (SLTrain's form, arXiv 2406.02214)."""
    weight = normal(96, 4) @ normal(4, 80, seed=1) / 2
    places = torch.rand(96, 80, generator=torch.Generator().manual_seed(3)).argsort(dim=1)[:, :2]
    weight.scatter_add_(1, places, 20.0 * normal(96, 2, seed=2).sign())
    f = format("sparse:keep3 + lowrank:r4")
    relative = {
        text: float((format(text).decode(encoder("alternate").encode(format(text), Problem(weight))) - weight).norm())
        for text in (f.spelling, "lowrank:r8", "sparse:keep15")
    }
    assert relative[f.spelling] < 5e-3 * float(weight.norm())
    assert 10.0 * relative[f.spelling] < min(relative["lowrank:r8"], relative["sparse:keep15"])
    assert f.nbytes((96, 80)) < min(format("lowrank:r8").nbytes((96, 80)), format("sparse:keep15").nbytes((96, 80)))


def test_refusals_and_errors_have_the_numbers() -> None:
    assert format("sparse:keep97").refuses((64, 128)) == (
        "sparse:keep97: expected fewer bytes than the 16384 of fp16 for a weight of 64 x 128, got 16896: mask and 124 "
        "kept weights a row"
    )
    assert "than the 2112 of int2:channel" in str(format("int2:channel @ sparse:keep75").refuses((64, 124)))
    for text in ("sparse:4x4", "sparse:0x4", "sparse:keep0", "sparse:keep100", "sparse:50", "sparse:2x4:x"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(ParseError, match="expected ':' and '<kept>x<of>'"):
        format("sparse")
    with pytest.raises(FormatError, match="expected to keep 1 or more and not all, got '4x4'"):
        Sparse(4, 4)
    for name in ("wanda", "obs"):
        with pytest.raises(FormatError, match=f"{name}: expected a second moment of the layer's inputs, got none"):
            encoder(name).encode(format("sparse:2x4"), Problem(normal(4, 16)))
    with pytest.raises(FormatError, match="obs: expected damping between 0 and 10"):
        encoder("obs:damping=11.0")
    assert encoder("obs:damping=0.05").spelling == "obs:damping=0.05"


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_it_compiles_to_a_small_file_and_replays(target: str, tmp_path: Path) -> None:
    model, x = network()
    x = torch.randn(64, 4, 4, 4)
    rules: dict[str, Any] = {"formats": ["sparse:2x4", "int8:channel @ sparse:keep25"], "activations": ["none"]}
    compiled = instar.compile(model, (x,), target=target, budget={"size": "19%"}, calibration=[(x,)], **rules)
    assert {d.chosen.option.format for d in compiled.plan.decisions} == set(rules["formats"])
    with torch.no_grad():
        assert float((compiled(x) - model(x)).norm() / model(x).norm()) < 0.7
    path = replays_to_the_same_bytes(compiled, model, x, tmp_path)
    if target == "onnx":
        assert path.stat().st_size < sum(d.chosen.nbytes for d in compiled.plan.decisions) + 20000
        assert not {"GatherElements", "CumSum"} & run_operators(path)


def test_percent_of_small_rows_keeps_one() -> None:
    assert format("sparse:keep1").nbytes((2, 10)) == 2 * (math.ceil(10 / 8) + 2)
