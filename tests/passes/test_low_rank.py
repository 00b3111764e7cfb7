"""Low rank: the error is the tail of the spectrum, two products are built and counted, and it compiles and replays."""

from __future__ import annotations

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
from instar.passes.formats import Use, format
from instar.passes.formats.low_rank import LowRank, Svd, fit_left
from instar.passes.formats.truncated import truncated_svd
from instar.passes.objective import PLAIN, Metric


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metrics(rows: int, columns: int, seed: int) -> list[Metric]:
    x = normal(3 * columns, columns, seed=seed + 1)
    lower = torch.linalg.cholesky(x.T @ x / len(x))
    return [
        PLAIN,
        Metric("rows", normal(rows, seed=seed + 2).abs() + 0.1),
        Metric("diagonal", None, normal(columns, seed=seed + 3).abs() + 0.1),
        Metric("full", normal(rows, seed=seed + 2).abs() + 0.1, lower),
    ]


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 12), columns=st.integers(2, 12), rank=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_cost_is_the_tail_of_the_weighted_spectrum(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = normal(rows, columns, seed=seed)
    for metric in metrics(rows, columns, seed):
        svd = Svd(*truncated_svd(metric.whiten(matrix), min(matrix.shape)))
        left, right = svd.factors(min(rank, rows, columns), metric)
        cost = metric.whiten(matrix - left @ right).square().sum()
        assert torch.allclose(cost, svd.s[rank:].square().sum(), rtol=1e-10, atol=1e-12)
        assert torch.allclose(fit_left(matrix, right, metric) @ right, left @ right, atol=1e-8)
        moved = left + 1e-3 * normal(*left.shape, seed=seed + 9)
        assert metric.whiten(matrix - moved @ right).square().sum() >= cost - 1e-12


def test_a_planted_rank_is_found() -> None:
    weight = (normal(40, 3) @ normal(3, 60, seed=1)).float()
    f = format("fp32 @ lowrank:r3")
    assert torch.allclose(f.decode(f.encode(weight)), weight, atol=1e-5)
    half = format("lowrank:r3")
    assert half.nbytes((40, 60)) == 2 * 3 * (40 + 60)
    assert torch.allclose(half.decode(half.encode(weight)), weight, atol=5e-3)


def test_spellings() -> None:
    assert format("lowrank:r8") == LowRank(8)
    for text in ("lowrank:r8", "int8:channel @ lowrank:r8", "lowrank:r4 + int4:g16", "int4:g16 @ lowrank:r4 + fp16"):
        assert format(text).spelling == text
    for text in ("lowrank", "lowrank:8", "lowrank:r0", "lowrank:r4:x"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected a rank of 1 or more, got 0"):
        LowRank(0)


def test_a_rank_that_saves_nothing_is_refused_with_the_numbers() -> None:
    assert format("lowrank:r15").refuses((32, 32)) is None
    reason = format("lowrank:r16").refuses((32, 32))
    assert reason is not None
    assert "at most 15 for a weight of 32 x 32, got 16, whose factors hold 1024 numbers against 1024" in reason


CONV = {"stride": (2, 1), "padding": (1, 1)}


@pytest.mark.parametrize("text", ["lowrank:r4", "int8:channel @ lowrank:r4", "lowrank:r2 + int4:g16"])
def test_every_kind_of_layer_computes_with_its_factors(text: str) -> None:
    f = format(text)
    bias, x = normal(24, seed=4).float(), normal(5, 32, seed=5).float()
    uses = [
        (Use("linear", "aten.linear.default", "weight", "input", (24, 32), {"bias": bias}), x),
        (Use("matmul", "aten.matmul.default", "other", "self", (24, 32)), x),
        (Use("embedding", "aten.embedding.default", "weight", "indices", (24, 32)), torch.tensor([[3, 0], [23, 3]])),
        (Use("conv", "aten.conv2d.default", "weight", "input", (24, 4, 3, 3), {"bias": bias, **CONV}),
         normal(2, 4, 7, 6, seed=6).float()),
        (Use("conv", "aten.conv2d.default", "weight", "input", (24, 4, 3, 3), {"bias": bias, "groups": 2, **CONV}),
         normal(2, 8, 7, 6, seed=6).float()),
    ]  # fmt: skip
    for use, value in uses:
        encoded = f.encode(normal(*use.shape, seed=7).float())
        found = f.apply(EAGER, value, encoded.tensors, use)
        expected = use.dense(EAGER, value, f.decode(encoded))
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=2e-4), use.kind


def test_operations_are_those_of_what_is_built() -> None:
    assert format("lowrank:r4").flops((24, 32), 10) == 2 * 10 * 4 * (24 + 32)
    assert format("lowrank:r4 + int4:g16").flops((24, 32), 10) == 2 * 10 * (4 * (24 + 32) + 24 * 32) + 10 * 24


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_model_with_a_planted_rank_compiles_to_two_products_and_replays(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    planted = model[0].weight
    assert isinstance(planted, Tensor)
    with torch.no_grad():
        planted.copy_((normal(128, 4) @ normal(4, 96, seed=1)).float() / 10)
    x = torch.randn(8, 96)
    options: dict[str, Any] = {"formats": ["fp32", "lowrank:r4"], "activations": ["none"]}
    compiled = instar.compile(model, (x,), target=target, budget={"size": "45%"}, **options)
    first, second = (d.chosen for d in compiled.plan.decisions)
    assert (first.option.format, second.option.format) == ("lowrank:r4", "fp32")
    assert first.bops == 8 * 4 * (96 + 128) * 16 * 32
    assert first.nbytes == 2 * 4 * (96 + 128)
    assert sum(name.startswith("aten.linear") for name in compiled.graph.ops().elements()) == 3
    assert torch.allclose(compiled(x), model(x), atol=2e-2)
    compiled.plan.save(tmp_path / "plan.json")
    suffix = "onnx" if target == "onnx" else "safetensors"
    again = instar.compile(model, (x,), target=target, plan=tmp_path / "plan.json")
    for name, each in (("a", compiled), ("b", again)):
        each.save(tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
