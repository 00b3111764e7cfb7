"""Minifloats: published values, the published rounding formula, ties, the search of the bias, and ONNX Runtime."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import instar
from instar.ir.errors import FormatError, ParseError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format
from instar.passes.formats.minifloat import NAMES, FloatGrid, Minifloat, float_levels
from instar.passes.objective import Problem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_formula(x: Tensor, exponent: int, mantissa: int, largest: float) -> Tensor:
    """LLM-FP4: ``p = max(floor(log2 |x|) + b, 1)``, then whole steps of ``2^(p - M - b)``, half to even."""
    bias = 2 ** (exponent - 1) - 1
    clipped = x.double().clamp(-largest, largest)
    p = (torch.frexp(clipped).exponent - 1 + bias).clamp(min=1)
    step = torch.ldexp(torch.ones_like(clipped), p - mantissa - bias)
    return (clipped / step).round() * step


def test_published_values() -> None:
    assert float_levels(2, 1) == (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)
    largest = {(3, 0): 16, (1, 2): 3.5, (3, 2): 28, (2, 3): 7.5, (4, 3): 448, (5, 2): 57344}
    assert {key: max(float_levels(*key)) for key in largest} == largest


@pytest.mark.parametrize(("exponent", "mantissa", "dtype"), [(4, 3, torch.float8_e4m3fn), (5, 2, torch.float8_e5m2)])
def test_8_bit_codes_are_those_of_torch(exponent: int, mantissa: int, dtype: torch.dtype) -> None:
    values = torch.arange(256).to(torch.uint8).view(dtype).float()
    finite = values.isfinite()
    assert torch.equal(torch.tensor(float_levels(exponent, mantissa))[finite], values[finite])
    x = torch.cat([normal(500), torch.tensor([0.0, 1.0625, 1.1875, 1.125, 1.375, 17.0, 19.0])])
    codes = FloatGrid(float_levels(exponent, mantissa)).quantize(x, (torch.tensor(1.0),))
    numbers = torch.tensor(float_levels(exponent, mantissa))[codes.int()]
    assert torch.equal(numbers, x.to(dtype).float())  # ties included, half to even
    assert bool(finite[codes.int()].all())


@settings(max_examples=40, deadline=None)
@given(which=st.sampled_from([(2, 1), (3, 0), (1, 2), (3, 2), (2, 3), (4, 3)]), seed=st.integers(0, 999))
def test_the_formula_is_the_nearest_level(which: tuple[int, int], seed: int) -> None:
    levels = float_levels(*which)
    x = normal(64, seed=seed) * max(levels) * 0.6
    grid, one = FloatGrid(levels), (torch.tensor(1.0),)
    found = grid.dequantize(grid.quantize(x, one), one).double()
    nearest = (torch.tensor(levels).double() - x.double().unsqueeze(-1)).abs().amin(dim=-1)
    assert torch.equal((found - x.double()).abs(), nearest)
    assert torch.equal(found, by_formula(x, *which, max(levels)))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_stores_what_it_says(name: str) -> None:
    bits = int(name[2])
    for shape in ((6, 128), (5, 50), (4, 3, 3, 3)):
        f = format(f"{name}:g32")
        weight = 0.02 * normal(*shape)
        encoded = f.encode(weight)
        assert encoded.format == f.spelling == f"{name}:g32"
        assert encoded.nbytes == f.nbytes(shape)
        decoded = f.decode(encoded)
        assert decoded.shape == shape
        assert torch.equal(f.decode(f.encode(decoded)), decoded)
        assert float((decoded - weight).norm() / weight.norm()) < 0.36
    assert format(f"{name}:g32").bits_per_weight((256, 1024)) == bits + 16 / 32
    assert torch.equal(format(f"{name}:channel").decode(format(f"{name}:channel").encode(torch.zeros(2, 8))),
                       torch.zeros(2, 8))  # fmt: skip


@pytest.mark.parametrize("text", ["fp4_e2m1:g32", "fp3_e1m1:channel", "fp6_e3m2:g32"])
def test_searching_the_bias_and_error_feedback_are_never_worse(text: str) -> None:
    f = format(text)
    x = normal(400, 96, seed=1) @ normal(96, 96, seed=2)
    given_problem = Problem(normal(24, 96), WeightStatistics(400, x.T @ x / 400, torch.ones(24)))
    first, feedback = (given_problem.error(f.decode(encoder(n).encode(f, given_problem))) for n in ("rtn", "gptq"))
    assert feedback < 0.9 * first
    plain = Problem(normal(24, 96))
    assert plain.error(f.decode(encoder("mse").encode(f, plain))) < plain.error(f.decode(f.encode(plain)))


@pytest.mark.parametrize("name", ["rtn", "mse", "gptq"])
def test_the_search_of_the_bias_does_not_break_down_near_zero_or_below(name: str) -> None:
    """The bias of ``e2m1`` is ``3 - log2(scale)``: it is added to, so that powers of two move scales and no code."""
    f, x = format("fp4_e2m1:g32"), normal(200, 64, seed=5)
    plain = f.encode(Problem(normal(8, 64), WeightStatistics(200, x.T @ x / 200, torch.ones(8))), encoder=encoder(name))
    biases = set[bool]()
    for power in (-6, 2, 3, 4, 9):
        weight = torch.ldexp(normal(8, 64), torch.tensor(power))
        moved = f.encode(Problem(weight, WeightStatistics(200, x.T @ x / 200, torch.ones(8))), encoder=encoder(name))
        assert torch.equal(moved.tensors["codes"], plain.tensors["codes"])
        assert torch.equal(
            moved.tensors["scale"].float(), torch.ldexp(plain.tensors["scale"].float(), torch.tensor(power))
        )
        biases |= set((moved.tensors["scale"].float() * 2.0**-2 < 8.0).flatten().tolist())  # levels end at 1.5, not 6
    assert biases == {True, False}


def test_refusals() -> None:
    for text in ("fp4_e2m1", "fp4_e2m1:32", "fp4_e2m1:g32:asym", "fp4_e4m1:g32", "fp9_e4m4:g32"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected 1 or more bits of exponent and 3 to 8 bits with the sign"):
        Minifloat(32, 0, 3)
    with pytest.raises(FormatError, match="scales that float16 can hold"):
        format("fp4_e2m1:g32").encode(1e6 * normal(4, 64))


def test_onnx_runtime_decodes_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 40)).eval()
    x = torch.randn(8, 96)
    rules: dict[str, Any] = {"formats": ["fp4_e2m1:g32"], "activations": ["none"]}
    compiled = instar.compile(model, (x,), target="onnx", **rules)
    with torch.no_grad():
        error = float((compiled(x) - model(x)).norm() / model(x).norm())
    assert math.isfinite(error)
    assert error < 0.3
