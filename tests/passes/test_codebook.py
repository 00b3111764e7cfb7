"""Tables of levels: k-means against its conditions and uniform grids, powers against the identity that defines them."""

from __future__ import annotations

import itertools
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
from instar.passes.formats import format
from instar.passes.formats.clusters import Samples, clusters, power_exponent, power_levels, uniform_levels
from instar.passes.formats.codebook import Codebook
from instar.passes.objective import Problem

from .small_files import network, replays_to_the_same_bytes, run_operators

SPELLINGS = ["codebook:4", "codebook:3:channel", "codebook:2:g16", "power:4", "power:3:channel", "power:5:g32"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: int = 24, columns: int = 96, seed: int = 0) -> Problem:
    x = normal(4 * columns, columns, seed=seed + 1) @ normal(columns, columns, seed=seed + 2)
    x = x * torch.logspace(0.0, 1.0, columns)
    rows_weight = normal(rows, seed=seed + 3).square()
    return Problem(normal(rows, columns, seed=seed), WeightStatistics(len(x), x.T @ x / len(x), rows_weight))


def by_hand(values: Tensor, weights: Tensor, levels: Tensor) -> float:
    nearest = (values.double().unsqueeze(1) - levels.double()).square().amin(dim=1)
    return float((weights.double() * nearest).sum())


def best_of_all(values: Tensor, weights: Tensor, count: int) -> float:
    """The least error of all ways to cut sorted values into ``count`` runs."""
    order = values.argsort()
    v, w = values[order].double(), weights[order].double()
    least = float("inf")
    for cuts in itertools.combinations(range(1, len(v)), count - 1):
        runs = itertools.pairwise((0, *cuts, len(v)))
        total = 0.0
        for a, b in runs:
            mean = (w[a:b] * v[a:b]).sum() / w[a:b].sum()
            total += float((w[a:b] * (v[a:b] - mean).square()).sum())
        least = min(least, total)
    return least


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), bits=st.integers(2, 5), size=st.integers(33, 400))
def test_levels_are_means_of_their_cells_and_no_worse_than_uniform_grids(seed: int, bits: int, size: int) -> None:
    values, weights = normal(size, seed=seed) ** 3, normal(size, seed=seed + 1).square() + 1e-3
    samples = Samples.of(values, weights)
    levels = clusters(samples, bits)
    assert samples.error(levels) == pytest.approx(by_hand(values, weights, levels), rel=1e-6, abs=1e-9)
    largest, half = values.abs().max(), 1 << (bits - 1)
    for grid in (uniform_levels(bits, half), -uniform_levels(bits, half), uniform_levels(bits, half - 1)):
        assert by_hand(values, weights, levels) <= by_hand(values, weights, grid * largest) * (1 + 1e-6)
    cell = (values.unsqueeze(1) - levels).square().argmin(dim=1)
    means = torch.stack([
        (weights * values)[cell == k].sum() / weights[cell == k].sum() if bool((cell == k).any()) else levels[k]
        for k in range(1 << bits)
    ])  # fmt: skip
    moved = by_hand(values, weights, means)
    assert moved >= 0.99 * by_hand(values, weights, levels)


def test_small_cases_are_near_the_best_of_all() -> None:
    ratios = []
    for seed in range(12):
        values, weights = normal(12, seed=seed), normal(12, seed=50 + seed).square() + 0.1
        least = best_of_all(values, weights, 4)
        ratios.append(by_hand(values, weights, clusters(Samples.of(values, weights), 2)) / least)
    assert min(ratios) >= 1.0 - 1e-6
    assert sorted(ratios)[6] < 1.1


def test_few_distinct_values_are_kept_exactly() -> None:
    weight = torch.tensor([0.3, -7.0, 0.0, 123.456])[torch.randint(0, 4, (8, 50), generator=torch.Generator())]
    for text in ("codebook:2", "codebook:4"):
        assert torch.equal(format(text).decode(format(text).encode(weight)), weight)
    for text in SPELLINGS:
        zeros = format(text).decode(format(text).encode(torch.zeros(16, 64)))
        assert float(zeros.abs().max()) <= 6e-8


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_table_is_never_worse_than_integers_of_one_scale(bits: int) -> None:
    """In the weighted error that it is fitted to, on the very weights."""
    for seed in range(3):
        x = problem(seed=seed)
        assert x.statistics is not None
        assert x.importance is not None
        diagonal = WeightStatistics(1, torch.diag(x.importance), x.statistics.row_weight)
        judged = Problem(x.weight, diagonal)
        f, uniform = format(f"codebook:{bits}"), format(f"int{bits}:channel")
        integers = uniform.decode(uniform.encode(x.weight.reshape(1, -1))).reshape(x.shape)
        assert judged.error(f.decode(f.encode(judged))) < judged.error(integers)
        grouped, g32 = format(f"codebook:{bits}:g32"), format(f"int{bits}:g32")
        assert judged.error(grouped.decode(grouped.encode(judged))) < judged.error(g32.decode(g32.encode(judged)))


@pytest.mark.parametrize("text", ["codebook:3", "codebook:4:g32", "power:3:g32", "power:3"])
def test_no_encoder_is_worse_than_round_to_nearest(text: str) -> None:
    f = format(text)
    for seed in range(2):
        x = problem(seed=seed)
        first, search, feedback = (x.error(f.decode(encoder(n).encode(f, x))) for n in ("rtn", "mse", "gptq"))
        assert feedback < 0.95 * first
        assert feedback <= search * (1 + 1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), columns=st.integers(20, 90), text=st.sampled_from(SPELLINGS))
def test_codes_are_those_of_the_nearest_level(seed: int, columns: int, text: str) -> None:
    f, weight = format(text), normal(24, columns, seed=seed)
    encoded = f.encode(weight)
    decoded = f.decode(encoded)
    table = encoded.tensors["table"]
    scale = encoded.tensors.get("scale")
    group = getattr(f, "group", 0) or columns
    spread = 1.0 if scale is None else scale.float().repeat_interleave(group, dim=1)[:, :columns, None]
    nearest = (table * spread - weight.unsqueeze(-1)).abs().amin(dim=-1)
    assert torch.allclose((decoded - weight).abs(), nearest, atol=1e-6)


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("shape", [(8, 128), (7, 75), (5, 8, 3, 3)])
def test_spelling_sizes_and_shapes(text: str, shape: tuple[int, ...]) -> None:
    f = format(text)
    encoded = f.encode(normal(*shape))
    assert f.spelling == encoded.format == text
    assert encoded.nbytes == f.nbytes(shape)
    assert {n: (tuple(t.shape), t.dtype) for n, t in encoded.tensors.items()} == {
        n: (s.shape, s.dtype) for n, s in f.tensors(shape).items()
    }
    assert f.decode(encoded).shape == shape


def test_bits_per_weight() -> None:
    assert format("codebook:4").bits_per_weight((512, 512)) == 4 + 32 * 16 / 512**2
    assert format("power:3:g64").bits_per_weight((512, 512)) == 3 + 16 / 64 + 32 * 8 / 512**2


def test_powers_of_products_are_products_and_an_exponent_of_one_is_uniform() -> None:
    top = 7
    assert torch.equal(power_levels(4, 1.0), torch.arange(-8, 8).clamp(min=-top).double() / top)
    for a in (0.4, 0.65, 1.0):
        levels = power_levels(4, a)[8:]  # k = 0 .. 7
        products = levels.unsqueeze(1) * levels
        k = torch.arange(8, dtype=torch.float64)
        assert torch.allclose(products, (k.unsqueeze(1) * k / top**2) ** (1.0 / a), rtol=1e-12)


def test_normal_weights_want_an_exponent_below_one() -> None:
    """Standard normal weights, one scale for all: levels closer together where most weights are err less."""
    weight = normal(256, 256)
    samples, largest = Samples.of(weight, torch.ones_like(weight)), float(weight.abs().max())
    exponent = power_exponent(samples, 4, largest)
    assert 0.5 < exponent < 0.75
    relative = {a: (samples.error(power_levels(4, a) * largest) / samples.square) ** 0.5 for a in (exponent, 1.0)}
    assert relative[exponent] < 0.85 * relative[1.0]


def test_refusals_and_errors() -> None:
    assert format("codebook:8").refuses((16, 32)) == (
        "codebook:8: expected fewer bytes than the 1024 of fp16 for a weight of 16 x 32, got 1536, of which the table "
        "is 1024"
    )
    for text in ("codebook", "codebook:1", "codebook:9", "codebook:4:g48", "power:x", "power:4:g64:x"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="codebook: expected 2 to 8 bits, got 9"):
        Codebook(9)
    with pytest.raises(FormatError, match="scales that float16 can hold"):
        format("codebook:4:g64").encode(1e6 * normal(8, 64))


@pytest.mark.parametrize(("target", "size"), [("torch", "12%"), ("onnx", "14%")])
def test_it_compiles_to_a_small_file_that_decodes_while_it_loads_and_replays(
    target: str, size: str, tmp_path: Path
) -> None:
    model, x = network()
    rules: dict[str, Any] = {"formats": ["codebook:4:g64", "power:3"], "activations": ["none"], "calibration": [(x,)]}
    compiled = instar.compile(model, (x,), target=target, budget={"size": size}, **rules)
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {"codebook:4:g64", "power:3"}
    with torch.no_grad():
        assert float((compiled(x) - model(x)).norm() / model(x).norm()) < 0.4
    path = replays_to_the_same_bytes(compiled, model, x, tmp_path)
    if target == "onnx":
        assert path.stat().st_size < sum(d.chosen.nbytes for d in compiled.plan.decisions) + 16000
        assert not {"Gather", "BitShift", "Cast"} & run_operators(path)
