"""Monarch: the error is the tail of every block's spectrum, indices are as in the DFT, and it compiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import instar
from instar.ir.errors import FormatError, ParseError
from instar.ir.ops import EAGER
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import Use, format
from instar.passes.formats.monarch import Monarch
from instar.passes.formats.monarch_blocks import Blocks, fit, project
from instar.passes.objective import PLAIN, Metric, Problem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(left: Tensor, right: Tensor, blocks: Blocks) -> Tensor:
    """The matrix of factors, one block at a time from the definition; padding is cut."""
    k, j, height, width = blocks.inputs, blocks.outputs, blocks.height, blocks.width
    whole = left.new_zeros(height * j, width * k)
    for b in range(k):
        for o in range(j):
            whole[o::j, b * width : (b + 1) * width] = left[b, o] @ right[b, o]
    return whole[: blocks.rows, : blocks.columns]


def pieces(matrix: Tensor, blocks: Blocks) -> list[Tensor]:
    """Blocks cut by slices, without padding."""
    return [
        matrix[o :: blocks.outputs, b * blocks.width : (b + 1) * blocks.width]
        for b in range(blocks.inputs)
        for o in range(blocks.outputs)
    ]


def tail(matrix: Tensor, blocks: Blocks, rank: int) -> Tensor:
    tails = [torch.linalg.svdvals(p)[rank:].square().sum() for p in pieces(matrix, blocks) if p.numel()]
    return torch.stack(tails).sum()


def moment_root(columns: int, seed: int) -> Tensor:
    x = normal(3 * columns, columns, seed=seed) @ normal(columns, columns, seed=seed + 1)
    return torch.linalg.cholesky(x.T @ x / len(x))


SIZES = {"rows": st.integers(2, 20), "columns": st.integers(2, 20), "k": st.integers(1, 5), "j": st.integers(1, 5)}


@settings(max_examples=40, deadline=None)
@given(**SIZES, rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_cost_is_the_tail_of_the_spectrum_of_every_block(
    rows: int, columns: int, k: int, j: int, rank: int, seed: int
) -> None:
    matrix, blocks = normal(rows, columns, seed=seed), Blocks(rows, columns, k, j)
    rank = min(rank, blocks.height, blocks.width)
    block_moment = torch.block_diag(*(moment_root(blocks.width, seed + b) for b in range(k)))[:columns, :columns]
    weights = normal(rows, seed=seed + 2).abs() + 0.1
    for metric in (
        PLAIN,
        Metric("rows", weights),
        Metric("diagonal", weights, normal(columns, seed=seed + 3).abs() + 0.1),
        Metric("blocks", weights, block_moment),
    ):
        left, right = project(matrix, blocks, rank, metric)
        difference = matrix - dense(left, right, blocks)
        cost, least = metric.whiten(difference).square().sum(), tail(metric.whiten(matrix), blocks, rank)
        assert torch.allclose(cost, least, rtol=1e-10, atol=1e-12)
        again = dense(fit(matrix, right, blocks, metric), right, blocks)
        assert torch.allclose(metric.whiten(matrix - again).square().sum(), least, rtol=1e-8, atol=1e-10)
        moved = dense(left + 1e-3 * normal(*left.shape, seed=seed + 9), right, blocks)
        assert metric.whiten(matrix - moved).square().sum() >= cost - 1e-12


@pytest.mark.parametrize(
    ("rows", "columns", "k", "j", "rank"), [(16, 16, 4, 4, 1), (24, 20, 4, 3, 2), (23, 18, 4, 3, 2)]
)
def test_planted_factors_are_found(rows: int, columns: int, k: int, j: int, rank: int) -> None:
    blocks = Blocks(rows, columns, k, j)
    planted = dense(normal(k, j, blocks.height, rank), normal(k, j, rank, blocks.width, seed=1), blocks)
    assert float((planted - dense(*project(planted, blocks, rank, PLAIN), blocks)).norm()) < 1e-10
    f = format(f"fp32 @ monarch:k{k}xj{j}:r{rank}")
    if f.refuses((rows, columns)) is None:
        assert torch.allclose(f.decode(f.encode(planted.float())).double(), planted, atol=1e-5)


def fourier(n: int) -> Tensor:
    index = torch.arange(n, dtype=torch.float64)
    return torch.polar(torch.ones(n, n, dtype=torch.float64), -2 * math.pi * torch.outer(index, index) / n)


def strided(n: int, blocks: int) -> Tensor:
    """Column ``k * i`` of the permuted matrix is column ``i * blocks + k``."""
    return torch.arange(n).reshape(n // blocks, blocks).T.reshape(-1)


@pytest.mark.parametrize(("n", "blocks"), [(16, 4), (64, 8), (36, 6)])
def test_the_dft_with_permuted_columns_is_exactly_monarch(n: int, blocks: int) -> None:
    """``exp(-2 pi i p c / n)``, row ``p = l b + j``, column ``c = i b + k``: rank one in ``(l, i)`` for ``n = b^2``."""
    cut, permuted = Blocks(n, n, blocks, blocks), fourier(n)[:, strided(n, blocks)]
    assert max(float(torch.linalg.svdvals(p)[1]) for p in pieces(permuted, cut)) < 1e-10
    assert float((permuted - dense(*project(permuted, cut, 1, PLAIN), cut)).norm()) < 1e-10
    natural = fourier(n)
    assert float((natural - dense(*project(natural, cut, 1, PLAIN), cut)).norm() / n) > 0.4
    rows_permuted = fourier(n)[strided(n, blocks)]  # the other index order: another class
    assert float((rows_permuted - dense(*project(rows_permuted, cut, 1, PLAIN), cut)).norm() / n) > 0.4


@settings(max_examples=15, deadline=None)
@given(**SIZES, seed=st.integers(0, 99))
def test_under_a_full_second_moment_blocks_gain_from_each_other_and_the_last_is_optimal(
    rows: int, columns: int, k: int, j: int, seed: int
) -> None:
    matrix, blocks, root = normal(rows, columns, seed=seed), Blocks(rows, columns, k, j), moment_root(columns, seed + 1)
    metric = Metric("full", normal(rows, seed=seed + 2).abs() + 0.1, root)
    left, right = project(matrix, blocks, 1, metric)
    cost = metric.whiten(matrix - dense(left, right, blocks)).square().sum()
    moment = root @ root.T
    alone = torch.zeros_like(moment)
    for first in range(0, columns, blocks.width):
        here = slice(first, first + blocks.width)
        alone[here, here] = moment[here, here]
    start = project(matrix, blocks, 1, Metric("alone", metric.rows, torch.linalg.cholesky(alone)))
    assert cost <= metric.whiten(matrix - dense(*start, blocks)).square().sum() * (1 + 1e-9) + 1e-20
    if k == 1:
        assert torch.allclose(cost, tail(metric.whiten(matrix), blocks, 1), rtol=1e-8, atol=1e-10)
    fitted = metric.whiten(matrix - dense(fit(matrix, right, blocks, metric), right, blocks)).square().sum()
    assert fitted <= cost * (1 + 1e-9) + 1e-20
    for size in (1e-4, 1e-2, 1.0):
        other, another = left.clone(), right.clone()
        other[-1] += size * normal(*left[-1].shape, seed=seed + 5)
        another[-1] += size * normal(*right[-1].shape, seed=seed + 6)
        assert metric.whiten(matrix - dense(other, another, blocks)).square().sum() >= cost * (1 - 1e-9) - 1e-20


def correlated(rows: int, columns: int, seed: int = 0) -> Problem:
    mixing = normal(columns, columns, seed=seed + 1) * torch.logspace(0, -1.5, columns).double()
    x = normal(4 * columns, columns, seed=seed) @ mixing
    known = WeightStatistics(len(x), (x.T @ x / len(x)).float(), normal(rows, seed=seed + 3).abs().float() + 0.05)
    return Problem(normal(rows, columns, seed=seed + 4).float(), known)


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (31, 45)])
def test_each_encoder_is_best_on_its_own_objective(rows: int, columns: int) -> None:
    for text in ("fp32 @ monarch:b4:r2", "fp32 @ monarch:k5xj3"):
        f, problem = format(text), correlated(rows, columns)
        whitened, plain = (f.decode(encoder(name).encode(f, problem)) for name in ("whitened", "svd"))
        assert problem.error(whitened) < 0.9 * problem.error(plain)
        assert (plain - problem.weight).norm() < (whitened - problem.weight).norm()


def test_factors_in_integers_see_statistics_of_their_own() -> None:
    problem = correlated(62, 61)
    f, exact = format("int4:g16 @ monarch:b4:r2"), format("fp32 @ monarch:b4:r2")
    nearest, fed = (problem.error(f.decode(encoder(e).encode(f, problem))) for e in ("whitened+rtn", "whitened+gptq"))
    assert problem.error(exact.decode(encoder("whitened").encode(exact, problem))) < fed < nearest


def test_spellings() -> None:
    assert format("monarch:b4") == Monarch(4, 4)
    assert format("monarch:k8xj4:r2") == Monarch(8, 4, 2)
    assert format("monarch:k4xj4:r1").spelling == "monarch:b4"
    for text in ("monarch:b4:r2", "monarch:k8xj4", "int8:channel @ monarch:b4", "monarch:b4 + int4:g16"):
        assert format(text).spelling == text
    for text in (
        "monarch",
        "monarch:4",
        "monarch:b0",
        "monarch:k8",
        "monarch:b4:2",
        "monarch:b4:r0",
        "monarch:b4:r2:x",
    ):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected blocks and a rank of 1 or more, got k0xj4:r1"):
        Monarch(0, 4)


def test_what_saves_nothing_is_refused_with_the_numbers() -> None:
    f = format("monarch:b4:r3")
    assert f.refuses((32, 32)) is None
    assert f.nbytes((32, 32)) == 2 * 3 * (4 * 32 + 4 * 32)
    assert format("monarch:b4:r4").refuses((32, 32)) == (
        "monarch:b4:r4: expected a rank that saves something, at most 3 for a weight of 32 x 32, got 4 in 4 x 4 blocks "
        "of 8 x 8, whose factors hold 1024 numbers against 1024"
    )
    reason = format("monarch:b8").refuses((9, 9))
    assert reason is not None
    assert "expected blocks that save something" in reason
    assert "8 x 8 blocks of 2 x 2, whose factors hold 256 numbers against 81" in reason
    window = format("monarch:b4").refuses((32, 32, 3, 3))
    assert window == "monarch:b4: expected a linear layer or a 1x1 convolution, got the weight [32, 32, 3, 3]"
    with pytest.raises(FormatError, match="keep this weight in another format"):
        format("monarch:b4").encode(torch.ones(4, 4))


STRIDED = {"stride": (2, 1), "padding": (1, 1)}


@pytest.mark.parametrize(
    "text", ["monarch:b4", "fp32 @ monarch:k5xj3:r2", "int8:channel @ monarch:b4", "monarch:b4 + int4:g16"]
)
@pytest.mark.parametrize(("rows", "columns"), [(32, 24), (29, 46)])
def test_every_kind_of_layer_computes_with_its_factors(text: str, rows: int, columns: int) -> None:
    f, shape, bias = format(text), (rows, columns), normal(rows, seed=4).float()
    vectors, image = normal(2, 5, columns, seed=5).float(), normal(2, columns, 7, 6, seed=6).float()
    uses = [
        (Use("linear", "aten.linear.default", "weight", "input", shape, {"bias": bias}), vectors),
        (Use("linear", "aten.linear.default", "weight", "input", shape), vectors[0, 0]),
        (Use("matmul", "aten.matmul.default", "other", "self", shape), vectors),
        (Use("embedding", "aten.embedding.default", "weight", "indices", shape), torch.tensor([[3, 0], [23, 3]])),
        (Use("conv", "aten.conv2d.default", "weight", "input", (*shape, 1, 1), {"bias": bias, **STRIDED}), image),
        (Use("conv", "aten.conv2d.default", "weight", "input", (*shape, 1, 1)), image[0]),
        (Use("conv", "aten.conv1d.default", "weight", "input", (*shape, 1), {"bias": bias}), image[:, :, 0]),
    ]
    for use, value in uses:
        encoded = f.encode(normal(*use.shape, seed=7).float())
        found = f.apply(EAGER, value, encoded.tensors, use)
        expected = use.dense(EAGER, value, f.decode(encoded))
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=2e-4), use


def test_a_convolution_in_groups_forms_its_weight() -> None:
    f, x = format("monarch:b4"), normal(2, 64, 5, 5).float()
    use = Use("conv", "aten.conv2d.default", "weight", "input", (32, 32, 1, 1), {"groups": 2})
    encoded = f.encode(normal(32, 32, 1, 1).float())
    expected = torch.nn.functional.conv2d(x, f.decode(encoded), groups=2)
    assert torch.allclose(f.apply(EAGER, x, encoded.tensors, use), expected, atol=1e-5)


def test_operations_are_those_of_the_two_products() -> None:
    assert format("monarch:b4:r2").flops((32, 64), 10) == 2 * 10 * 2 * (4 * 64 + 4 * 32)
    assert format("monarch:k8xj2").flops((32, 64), 10) == 2 * 10 * (2 * 64 + 8 * 32)


def cosines(n: int, blocks: int) -> Tensor:
    """The real part of the permuted DFT: two ranks a block."""
    return fourier(n).real[:, strided(n, blocks)].float() / 8


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_cosine_transform_compiles_to_monarch_and_replays(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    planted = model[0].weight
    assert isinstance(planted, Tensor)
    with torch.no_grad():
        planted.copy_(cosines(64, 8))
    x = torch.randn(6, 64)
    options: dict[str, Any] = {"formats": ["fp32", "monarch:b8:r2"], "activations": ["none"]}
    compiled = instar.compile(model, (x,), target=target, budget={"size": "75%"}, **options)
    first, second = (d.chosen for d in compiled.plan.decisions)
    assert (first.option.format, second.option.format) == ("monarch:b8:r2", "fp32")
    assert first.nbytes == 2 * 2 * 2 * 8 * 64
    assert first.bops == 6 * 2 * 2 * 8 * 64 * 16 * 32
    assert sum(name.startswith("aten.bmm") for name in compiled.graph.ops().elements()) == 2
    assert torch.allclose(compiled(x), model(x), atol=1e-2)
    compiled.plan.save(tmp_path / "plan.json")
    suffix = "onnx" if target == "onnx" else "safetensors"
    again = instar.compile(model, (x,), target=target, plan=tmp_path / "plan.json")
    for name, each in (("a", compiled), ("b", again)):
        each.save(tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_pointwise_convolution_compiles_with_padding(target: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(90, 122, 1, stride=2, padding=1), nn.ReLU(), nn.Conv2d(122, 8, 3)).eval()
    planted = model[0].weight
    assert isinstance(planted, Tensor)
    blocks = Blocks(122, 90, 4, 4)
    with torch.no_grad():
        planted.copy_(dense(normal(4, 4, 31, 1), normal(4, 4, 1, 23, seed=1), blocks).reshape(122, 90, 1, 1))
    x = torch.randn(2, 90, 5, 4)
    compiled = instar.compile(
        model, (x,), target=target, budget={"size": "70%"}, formats=["fp32", "fp32 @ monarch:b4"], activations=["none"]
    )
    assert [d.chosen.option.format for d in compiled.plan.decisions] == ["fp32 @ monarch:b4", "fp32"]
    assert torch.allclose(compiled(x), model(x), atol=1e-3)


def test_dynamic_sizes_stay_dynamic() -> None:
    torch.manual_seed(2)
    model = nn.Linear(64, 48).eval()
    x, batch, tokens = torch.randn(3, 5, 64), torch.export.Dim("batch"), torch.export.Dim("tokens")
    compiled = instar.compile(
        model, (x,), target="onnx", budget={"size": "60%"}, formats=["int8:channel @ monarch:k4xj8"],
        dynamic_shapes=({0: batch, 1: tokens},), activations=["none"],
    )  # fmt: skip
    f = format("int8:channel @ monarch:k4xj8")
    decoded = f.decode(encoder("svd+mse").encode(f, Problem(model.weight)))
    for other in (x, torch.randn(2, 7, 64)):
        expected = torch.nn.functional.linear(other, decoded, model.bias)
        assert torch.allclose(compiled(other), expected, atol=1e-3)
