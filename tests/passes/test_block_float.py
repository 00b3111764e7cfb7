"""Block floating point: what blocks can hold comes back bit for bit, bounds from the mantissa, encoders, targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import instar
from instar.ir.errors import FormatError, ParseError
from instar.passes.encoders import encoder
from instar.passes.formats import format
from instar.passes.formats.block_float import BlockFloat, signed_mantissas
from instar.passes.objective import Problem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), bits=st.integers(2, 8), exponent=st.integers(-100, 100))
def test_what_a_block_can_hold_comes_back_bit_for_bit(seed: int, bits: int, exponent: int) -> None:
    top = (1 << (bits - 1)) - 1
    whole = torch.randint(-top, top + 1, (3, 40), generator=torch.Generator().manual_seed(seed)).float()
    whole[:, ::16] = float(top)  # so that the exponent of each block is known
    weight = torch.ldexp(whole, torch.full((3, 40), exponent))
    f = format(f"bfp{bits}:g16")
    assert torch.equal(f.decode(f.encode(weight)), weight)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), bits=st.integers(2, 8), columns=st.integers(1, 90))
def test_no_weight_moves_by_more_than_half_a_step_but_what_is_clipped(seed: int, bits: int, columns: int) -> None:
    f, weight = format(f"bfp{bits}:g32"), normal(4, columns, seed=seed) ** 3
    decoded = f.decode(f.encode(weight))
    blocks = torch.nn.functional.pad(weight, (0, -columns % 32)).reshape(4, -1, 32)
    power = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(dim=-1, keepdim=True))))
    step = (power * 2.0 ** (2 - bits)).expand(blocks.shape).reshape(4, -1)[:, :columns]
    # between the largest mantissa and the next power of two there is one step
    clipped = weight.abs() > step * ((1 << (bits - 1)) - 1)
    bound = torch.where(clipped, step, step / 2)
    assert bool(((decoded - weight).abs() <= bound * (1 + 1e-6)).all())


def test_bits_per_weight_spelling_and_levels() -> None:
    assert format("bfp4:g32").bits_per_weight((64, 4096)) == 4.25
    assert format("bfp3:g16").bits_per_weight((64, 4096)) == 3.5
    for text in ("bfp4:g16", "bfp2:channel", "bfp8:g256"):
        f, shape = format(text), (5, 4, 3, 3)
        assert f.spelling == text
        encoded = f.encode(normal(*shape))
        assert encoded.nbytes == f.nbytes(shape)
        assert f.decode(encoded).shape == shape
    assert sorted(set(signed_mantissas(4))) == [k / 4 for k in range(-7, 8)]


def test_clip_search_takes_the_power_above_where_clipping_costs_more() -> None:
    for bits in (2, 3, 4):
        f, x = format(f"bfp{bits}:g16"), Problem(normal(32, 128))
        first, search = (x.error(f.decode(encoder(name).encode(f, x))) for name in ("rtn", "mse"))
        assert search < first
    weight = torch.zeros(1, 16)
    weight[0, :2] = torch.tensor([1.99, 0.4])
    f = format("bfp2:g16")  # levels -1, 0, 1 times a power
    assert f.decode(encoder("rtn").encode(f, Problem(weight)))[0, :2].tolist() == [1.0, 0.0]
    assert f.decode(encoder("mse").encode(f, Problem(weight)))[0, :2].tolist() == [2.0, 0.0]


def test_refusals() -> None:
    for text in ("bfp4", "bfp4:g48", "bfp4:g16:x", "bfp9:g16"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="bfp9: expected 2 to 8 bits of mantissa"):
        BlockFloat(16, 9)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_it_compiles_and_replays(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 70)).eval()
    x = torch.randn(8, 256)
    compiled = instar.compile(
        model, (x,), target=target, budget={"size": "17%"}, formats=["bfp4:g16"], activations=["none"]
    )
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {"bfp4:g16"}
    with torch.no_grad():
        assert float((compiled(x) - model(x)).norm() / model(x).norm()) < 0.2
    compiled.plan.save(tmp_path / "plan.json")
    again = instar.compile(model, (x,), target=target, plan=tmp_path / "plan.json")
    assert torch.equal(compiled(x), again(x))
