"""Tucker-2: sweeps never raise the error, HOSVD keeps its bound, three convolutions are one."""

from __future__ import annotations

import itertools
from pathlib import Path

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
from instar.passes.formats.families import expand
from instar.passes.formats.tucker import Tucker, hooi
from instar.passes.objective import Problem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(rows: int, channels: int, window: tuple[int, ...], out: int, into: int) -> Tensor:
    core = normal(out, into, *window, seed=2)
    return torch.einsum("mo,oihw,ic->mchw", normal(rows, out), core, normal(into, channels, seed=1))


def error(weight: Tensor, left: Tensor, right: Tensor) -> float:
    """Squared, of the best core for orthonormal factors."""
    core = torch.einsum("mo,mcp,ic->oip", left, weight, right)
    return float((weight - torch.einsum("mo,oip,ic->mcp", left, core, right)).square().sum())


@settings(max_examples=30, deadline=None)
@given(m=st.integers(2, 9), c=st.integers(2, 9), p=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_sweeps_never_raise_the_error_and_hosvd_keeps_its_bound(
    m: int, c: int, p: int, seed: int, data: st.DataObject
) -> None:
    weight = normal(m, c, p, seed=seed)
    out, into = data.draw(st.integers(1, min(m, c * p))), data.draw(st.integers(1, min(c, m * p)))
    errors = [error(weight, *hooi(weight, out, into, sweeps)) for sweeps in range(6)]
    tails = [
        float(torch.linalg.svdvals(unfolded)[rank:].square().sum())
        for unfolded, rank in ((weight.flatten(1), out), (weight.transpose(0, 1).flatten(1), into))
    ]
    assert max(tails) - 1e-9 <= errors[0] <= sum(tails) + 1e-9
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))


def test_sweeps_are_worth_something() -> None:
    weight = normal(12, 10, 9)
    assert error(weight, *hooi(weight, 4, 3)) < 0.995 * error(weight, *hooi(weight, 4, 3, 0))


def test_planted_ranks_are_exact() -> None:
    weight = planted(12, 10, (3, 3), 4, 3)
    assert error(weight.flatten(2), *hooi(weight.flatten(2), 4, 3)) < 1e-18 * float(weight.square().sum())
    f = format("tucker:4x3")
    assert f.nbytes((12, 10, 3, 3)) == 2 * (12 * 4 + 4 * 3 * 9 + 3 * 10)
    decoded = f.decode(f.encode(weight.float())).double()
    assert float((decoded - weight).norm()) < 2e-3 * float(weight.norm())


@pytest.mark.parametrize("text", ["tucker:4x3", "int8:channel @ tucker:5x2"])
@pytest.mark.parametrize("others", [{}, {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}])
def test_three_convolutions_are_the_one(text: str, others: dict[str, object]) -> None:
    f, shape = format(text), (12, 10, 3, 3)
    assert f.spelling == text
    encoded = f.encode(normal(*shape).float())
    assert encoded.nbytes == f.nbytes(shape)
    x, bias = normal(2, 10, 9, 11, seed=3).float(), normal(12, seed=4).float()
    use = Use("conv", "aten.conv2d.default", "weight", "input", shape, {"bias": bias, **others})
    found, expected = f.apply(EAGER, x, encoded.tensors, use), use.dense(EAGER, x, f.decode(encoded))
    assert torch.allclose(found, expected, atol=1e-3)
    grouped = Use("conv", "aten.conv2d.default", "weight", "input", shape, {"groups": 2})
    x = normal(2, 20, 9, 11, seed=3).float()
    found, expected = f.apply(EAGER, x, encoded.tensors, grouped), grouped.dense(EAGER, x, f.decode(encoded))
    assert torch.equal(found, expected)


def test_statistics_make_the_layers_error_no_worse() -> None:
    weight, (rows, columns) = normal(16, 8, 3, 3).float(), (16, 72)
    x = normal(200, columns, seed=5) @ normal(columns, columns, seed=6)
    known = WeightStatistics(len(x), (x.T @ x / len(x)).float(), normal(rows, seed=7).square().float())
    for text in ("tucker:6x4", "int8:channel @ tucker:6x4"):
        f, problem = format(text), Problem(weight, known)
        methods = ("svd", "whitened") if "@" not in text else ("svd+gptq", "whitened+gptq")
        plain, whitened = (problem.error(f.decode(encoder(m).encode(f, problem))) for m in methods)
        assert whitened < 0.95 * plain


def test_ladder_refusals_and_errors() -> None:
    assert "tucker:16x8" in expand("tucker", (32, 16, 3, 3))
    assert expand("tucker", (32, 16)) == ()
    assert format("tucker:12x10").refuses((12, 10, 3, 3)) == (
        "tucker:12x10: expected ranks that save something for the weight [12, 10, 3, 3], got factors that hold 1324 "
        "numbers against 1080"
    )
    assert "at most 12x10" in str(format("tucker:13x2").refuses((12, 10, 3, 3)))
    for shape in ((12, 10), (12, 10, 1, 1)):
        assert "expected a convolution with a window" in str(format("tucker:4x3").refuses(shape))
    for text in ("tucker", "tucker:4", "tucker:0x4", "tucker:4x3:x"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected ranks of 1 or more, got 0x3"):
        Tucker(0, 3)
    with pytest.raises(FormatError, match=r"with a window, .* operations are counted of linear layers"):
        format("tucker:4x3").flops((24, 10, 3, 3), 8)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_planted_convolution_compiles_and_replays(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(10, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 3)).eval()
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.copy_(planted(24, 10, (3, 3), 4, 3).float() / 10)
    x = torch.randn(4, 10, 12, 12)
    compiled = instar.compile(
        model, (x,), target=target, budget={"size": "80%"}, formats=["fp32", "tucker:4x3"], activations=["none"]
    )
    assert [d.chosen.option.format for d in compiled.plan.decisions] == ["tucker:4x3", "fp32"]
    macs = 144 * 10 * 3 + 36 * (3 * 3 * 3 * 4 + 4 * 24)  # of 12 x 12 inputs and 6 x 6 outputs
    assert compiled.plan.decisions[0].chosen.bops == 4 * macs * 16 * 32
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), atol=2e-2)
    compiled.plan.save(tmp_path / "plan.json")
    again = instar.compile(model, (x,), target=target, plan=tmp_path / "plan.json")
    assert torch.equal(compiled(x), again(x))
