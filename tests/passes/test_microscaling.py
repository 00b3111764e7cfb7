"""Microscaling: the specification's scale and clipping, exact bytes, exact round trips, search, and ONNX Runtime."""

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
from instar.ir.packing import unpack
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format
from instar.passes.formats.microscaling import Microscaling
from instar.passes.objective import Problem

LARGEST_EXPONENT = {"mxfp4": 2, "mxfp6": 4, "mxfp6:e2m3": 2, "mxfp8": 8, "mxfp8:e5m2": 15}
BITS = {"mxfp4": 4, "mxfp6": 6, "mxfp6:e2m3": 6, "mxfp8": 8, "mxfp8:e5m2": 8}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("text", BITS)
@pytest.mark.parametrize("shape", [(8, 128), (7, 50), (3, 1), (5, 4, 3, 3)])
def test_spelling_and_sizes(text: str, shape: tuple[int, ...]) -> None:
    f = format(text)
    encoded = f.encode(normal(*shape))
    assert f.spelling == encoded.format == text
    assert encoded.nbytes == f.nbytes(shape)
    assert f.decode(encoded).shape == shape
    assert f.bits_per_weight((256, 1024)) == BITS[text] + 8 / 32
    assert torch.equal(f.decode(f.encode(torch.zeros(shape))), torch.zeros(shape))


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(list(BITS)), seed=st.integers(0, 999), power=st.integers(-100, 100))
def test_the_scale_is_that_of_the_specification(text: str, seed: int, power: int) -> None:
    f = format(text)
    weight = torch.ldexp(normal(3, 96, seed=seed), torch.tensor(power))
    encoded = f.encode(weight)
    largest = weight.reshape(3, 3, 32).abs().amax(-1).double()
    expected = (torch.floor(torch.log2(largest)) - LARGEST_EXPONENT[text]).clamp(-127, 127)
    assert torch.equal(encoded.tensors["scale"].double() - 127, expected)
    decoded = f.decode(encoded)
    assert torch.equal(f.decode(f.encode(decoded)), decoded)


def test_representable_blocks_come_back_bit_by_bit() -> None:
    block = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6]).repeat(3)[:32]
    for power in (-126, -20, 0, 20, 120):
        weight = torch.ldexp(block, torch.tensor(power)).reshape(1, 32)
        assert torch.equal(format("mxfp4").decode(format("mxfp4").encode(weight)), weight)
    codes = unpack(format("mxfp4").encode(block.reshape(1, 32)).tensors["codes"], 4, 32)
    assert codes[0, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9]  # sign, exponent, mantissa


def test_between_the_largest_level_and_the_next_power_of_two_it_clips_and_search_does_not() -> None:
    weight = torch.tensor([[7.9] + [0.0] * 31])
    f = format("mxfp4")
    assert float(f.decode(f.encode(weight)).max()) == 6.0
    searched = f.decode(encoder("mse").encode(f, Problem(weight)))
    assert float(searched.max()) == 8.0


@pytest.mark.parametrize("text", BITS)
def test_no_encoder_is_worse_than_round_to_nearest(text: str) -> None:
    f = format(text)
    x = normal(400, 96, seed=1) @ normal(96, 96, seed=2)
    known = Problem(normal(24, 96), WeightStatistics(400, x.T @ x / 400, torch.ones(24)))
    first, feedback = (known.error(f.decode(encoder(n).encode(f, known))) for n in ("rtn", "gptq"))
    assert feedback < 0.9 * first
    plain = Problem(normal(24, 96))
    assert plain.error(f.decode(encoder("mse").encode(f, plain))) <= plain.error(f.decode(f.encode(plain)))


def test_refusals() -> None:
    for text in ("mxfp5", "mxfp4:e3m2", "mxfp4:g32", "mxfp6:e2m3:e3m2"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected blocks of 32 and mxfp4 of e2m1"):
        Microscaling(64)


def test_onnx_runtime_decodes_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 40)).eval()
    x = torch.randn(8, 96)
    rules: dict[str, Any] = {"formats": ["mxfp4"], "activations": ["none"]}
    compiled = instar.compile(model, (x,), target="onnx", **rules)
    with torch.no_grad():
        error = float((compiled(x) - model(x)).norm() / model(x).norm())
    assert math.isfinite(error)
    assert error < 0.3
