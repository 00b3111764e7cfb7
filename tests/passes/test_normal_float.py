"""Normal floats: the published levels, double quantization to the byte, and every encoder, target and replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import instar
from instar.ir.errors import FormatError, ParseError
from instar.ir.packing import unpack
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.encoders.base import Encoder
from instar.passes.formats import format
from instar.passes.formats.levels import LevelGrid
from instar.passes.formats.normal_float import NormalFloat, dynamic_levels, normal_levels
from instar.passes.objective import Problem

from .small_files import network, replays_to_the_same_bytes, run_operators

PUBLISHED = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""QLoRA (arXiv 2305.14314), appendix E."""

SPELLINGS = [f"nf{b}:{layout}{dq}" for b in (2, 3, 4) for layout in ("channel", "g16", "g64") for dq in ("", ":dq")]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: int = 24, columns: int = 96, seed: int = 0) -> Problem:
    x = normal(4 * columns, columns, seed=seed + 1) @ normal(columns, columns, seed=seed + 2)
    return Problem(normal(rows, columns, seed=seed), WeightStatistics(len(x), x.T @ x / len(x), torch.ones(rows)))


def relative(text: str, weight: Tensor) -> float:
    f = format(text)
    return float((f.decode(f.encode(weight)) - weight).norm() / weight.norm())


def test_levels_are_the_published_ones() -> None:
    assert normal_levels(4) == pytest.approx(PUBLISHED, abs=2e-7)
    expected = (-1.0, -0.4786, -0.2171, 0.0, 0.1609, 0.3379, 0.5626, 1.0)
    assert normal_levels(3) == pytest.approx(expected, abs=5e-5)
    assert normal_levels(2) == pytest.approx((-1.0, 0.0, 0.3379, 1.0), abs=5e-5)


def test_levels_of_scales_are_dynamic_trees() -> None:
    levels = dynamic_levels()
    assert len(set(levels)) == 256
    assert list(levels) == sorted(levels)
    positive = [x for x in levels if 0.0 < x < 1.0]
    assert levels[:127] == pytest.approx([-x for x in reversed(positive)], rel=1e-15)
    decades = [sum(10.0 ** (e - 1) < x < 10.0**e for x in positive) for e in range(-6, 1)]
    assert decades == [1, 2, 4, 8, 16, 32, 64]
    assert positive[0] == pytest.approx(0.55e-6)
    assert positive[-1] == pytest.approx(0.1 + 0.9 * 63.5 / 64)


def test_bits_per_weight_are_the_published_formulas() -> None:
    shape = (4096, 4096)
    assert format("nf4:g64").bits_per_weight(shape) == 4 + 16 / 64
    assert format("nf4:g64:dq").bits_per_weight(shape) == 4 + 8 / 64 + 32 / (64 * 256) + 32 / 4096**2
    assert format("nf3:g64:dq").bits_per_weight(shape) == 3 + 8 / 64 + 32 / (64 * 256) + 32 / 4096**2


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("shape", [(8, 128), (7, 50), (3, 1), (5, 4, 3, 3)])
def test_spelling_sizes_and_shapes(text: str, shape: tuple[int, ...]) -> None:
    f = format(text)
    encoded = f.encode(normal(*shape))
    assert f.spelling == encoded.format == text
    assert encoded.nbytes == f.nbytes(shape)
    assert {n: (tuple(t.shape), t.dtype) for n, t in encoded.tensors.items()} == {
        n: (s.shape, s.dtype) for n, s in f.tensors(shape).items()
    }
    assert f.decode(encoded).shape == shape


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), columns=st.integers(1, 90), bits=st.sampled_from([2, 3, 4]))
def test_the_nearest_level_is_chosen_and_encoding_again_changes_nothing(seed: int, columns: int, bits: int) -> None:
    f = format(f"nf{bits}:g32")
    weight = normal(3, columns, seed=seed)
    encoded = f.encode(weight)
    decoded = f.decode(encoded)
    spread = encoded.tensors["scale"].float().repeat_interleave(32, dim=1)[:, :columns]
    table = torch.tensor(normal_levels(bits)) * spread.unsqueeze(-1)
    nearest = (table - weight.unsqueeze(-1)).abs().amin(dim=-1)
    assert torch.allclose((decoded - weight).abs(), nearest, atol=1e-6)
    assert torch.equal(f.decode(f.encode(decoded)), decoded)


def test_zero_and_both_ends_are_exact() -> None:
    weight = torch.tensor([[0.5, -0.5, 0.0, 0.1]])
    assert format("nf4:g16").decode(format("nf4:g16").encode(weight))[0, :3].tolist() == [0.5, -0.5, 0.0]
    for text in SPELLINGS:
        assert torch.equal(format(text).decode(format(text).encode(torch.zeros(4, 64))), torch.zeros(4, 64))


def test_normal_weights_lose_less_than_in_integers() -> None:
    weight = normal(256, 1024)
    assert relative("nf4:g64", weight) < 0.094 < 0.096 < relative("int4:g64", weight)
    assert relative("nf3:g64", weight) < relative("int3:g64", weight)
    assert relative("nf4:g64:dq", weight) < 1.002 * relative("nf4:g64", weight)


def test_double_quantization_keeps_codes_and_groups_of_zeros_do_not_move_the_others() -> None:
    weight = 1e-3 * normal(64, 256)
    weight[:, 64:128] = 0.0
    plain, double = format("nf4:g64").encode(weight), format("nf4:g64:dq").encode(weight)
    assert torch.equal(plain.tensors["codes"], double.tensors["codes"])
    assert bool((format("nf4:g64:dq").decode(double)[:, 64:128] == 0.0).all())
    assert relative("nf4:g64:dq", weight) < 1.01 * relative("nf4:g64", weight)


def test_levels_may_be_in_any_order() -> None:
    grid = LevelGrid((0.0, 1.0, -1.0, 0.0))
    codes = grid.quantize(torch.tensor([-3.0, -0.6, -0.4, 0.5, 0.51, 9.0]), (torch.tensor(1.0),))
    assert codes.tolist() == [2.0, 2.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("text", ["nf4:g32", "nf3:channel", "nf2:g32", "nf3:g32:dq", "nf2:g16:dq"])
def test_no_encoder_is_worse_than_round_to_nearest_on_what_it_minimises(text: str) -> None:
    f = format(text)
    for seed in range(3):
        given_problem = problem(seed=seed)
        first, search, feedback = (
            given_problem.error(f.decode(encoder(name).encode(f, given_problem))) for name in ("rtn", "mse", "gptq")
        )
        assert feedback < 0.9 * first
        assert feedback <= search * (1 + 1e-5)
        weight = Problem(given_problem.weight)
        assert weight.error(f.decode(encoder("mse").encode(f, weight))) < weight.error(f.decode(f.encode(weight)))


@pytest.mark.parametrize(("name", "gain"), [("mse", 0.0), ("gptq:sweeps=0", -1e-12), ("gptq", 0.01)])
def test_codes_are_chosen_again_for_the_scales_that_are_stored(
    name: str, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of rows that differ ten times are some way from those that one byte can say."""
    f, chosen, plain = format("nf3:g16:dq"), encoder(name), problem(seed=1)
    rows = torch.logspace(-0.5, 0.5, plain.weight.shape[0]).unsqueeze(1)
    uneven = Problem(plain.weight * rows, plain.statistics)
    again = uneven.error(f.decode(f.encode(uneven, encoder=chosen)))
    monkeypatch.setattr(type(chosen), "recode", Encoder.recode)
    assert again <= (1.0 - gain) * uneven.error(f.decode(f.encode(uneven, encoder=chosen)))


def test_refusals() -> None:
    for text in ("nf4", "nf4:64", "nf4:g48", "nf4:g64:asym", "nf4:g64:dq:dq"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected 2, 3 or 4 bits, got 5"):
        NormalFloat(64, 5)
    with pytest.raises(FormatError, match="expected a group of 16"):
        NormalFloat(48)
    with pytest.raises(FormatError, match="scales that float16 can hold"):
        format("nf4:g64").encode(1e6 * normal(4, 64))


@pytest.mark.parametrize(("target", "size"), [("torch", "12.5%"), ("onnx", "14%")])
def test_it_compiles_to_a_small_file_that_decodes_while_it_loads_and_replays(
    target: str, size: str, tmp_path: Path
) -> None:
    model, x = network()
    rules: dict[str, Any] = {"formats": ["nf4:g64:dq", "nf3:g32"], "activations": ["none"], "calibration": [(x,)]}
    compiled = instar.compile(model, (x,), target=target, budget={"size": size}, **rules)
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {"nf4:g64:dq", "nf3:g32"}
    with torch.no_grad():
        assert float((compiled(x) - model(x)).norm() / model(x).norm()) < 0.3
    path = replays_to_the_same_bytes(compiled, model, x, tmp_path)
    if target == "onnx":
        assert path.stat().st_size < sum(d.chosen.nbytes for d in compiled.plan.decisions) + 16000
        assert not {"Gather", "BitShift", "Cast"} & run_operators(path)


def test_codes_are_stored_low_nibble_first() -> None:
    encoded = format("nf4:channel").encode(torch.tensor([[1.0, -1.0, 0.0, 1.0]]))
    assert unpack(encoded.tensors["codes"], 4, 4).tolist() == [[15, 0, 7, 15]]
    assert encoded.tensors["codes"].tolist() == [[0x0F, 0xF7]]
