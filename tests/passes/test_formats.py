"""Formats: exact sizes, error bounds derived from the bit width, awkward weights, and the graph they build."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from instar.ir.context import Context
from instar.ir.errors import FormatError
from instar.ir.evaluate import evaluate
from instar.ir.ops import EAGER, Building
from instar.ir.types import TensorType
from instar.passes.formats import (
    FORMATS,
    FloatFormat,
    Format,
    IntegerRows,
    IntFormat,
    SumFormat,
    TensorSpec,
    Use,
    format,
)
from instar.passes.formats.registry import names_in

INTEGERS = [
    f"int{b}:{layout}{zero}" for b in range(2, 9) for layout in ("channel", "g16", "g64") for zero in ("", ":asym")
]
EVERY = ["fp32", "fp16", *INTEGERS, "int4:g32 + int2:channel", "int3:channel + fp16"]


def weights(rows: int, columns: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + shift


def round_trip(f: Format, weight: Tensor) -> Tensor:
    return f.decode(f.encode(weight))


def steps_of(f: IntFormat, weight: Tensor) -> Tensor:
    """The stored step of every weight, ``[rows, columns]``."""
    scale = f.encode(weight).tensors["scale"].float().abs()
    return scale.repeat_interleave(f.group or weight.shape[1], dim=1)[:, : weight.shape[1]]


def slack(f: IntFormat) -> float:
    """Steps that rounding the scale to float16 may add at the end of the range."""
    return 0.5 + 2.0**f.bits * 2.0**-11


# ------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("shape", [(8, 128), (7, 50), (3, 1), (5, 4, 3, 3), (1, 257)])
def test_announced_tensors_are_the_stored_tensors(text: str, shape: tuple[int, ...]) -> None:
    f = format(text)
    encoded = f.encode(weights(shape[0], math.prod(shape[1:])).reshape(shape))
    assert {n: TensorSpec(tuple(t.shape), t.dtype) for n, t in encoded.tensors.items()} == f.tensors(shape)
    assert encoded.nbytes == f.nbytes(shape)
    assert f.bits_per_weight(shape) == 8 * f.nbytes(shape) / math.prod(shape)
    assert encoded.format == f.spelling == text
    assert all(t.is_contiguous() for t in encoded.tensors.values())
    decoded = f.decode(encoded)
    assert (decoded.shape, decoded.dtype) == (shape, torch.float32)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [16, 32, 64, 128, 256])
def test_bits_per_weight_is_the_published_formula(bits: int, group: int) -> None:
    shape = (256, 2048)  # groups per row divisible by 8: packed zero points need no padding
    assert IntFormat(bits, group).bits_per_weight(shape) == bits + 16 / group
    assert IntFormat(bits, group, asymmetric=True).bits_per_weight(shape) == bits + (16 + bits) / group
    assert IntFormat(bits).bits_per_weight(shape) == bits + 16 / 2048


def test_four_bits_in_groups_of_128_with_zero_points_is_4_156() -> None:
    assert format("int4:g128:asym").bits_per_weight((4096, 4096)) == 4.15625


def test_flops_are_two_per_weight_and_token() -> None:
    assert format("int4:g64").flops((8, 64), 3) == 2 * 8 * 64 * 3
    assert format("int4:g64 + fp16").flops((8, 4, 4, 4), 3) == 2 * 8 * 64 * 3  # the weights are added, not the outputs


# ------------------------------------------------------------------------------------------------- accuracy
@pytest.mark.parametrize(("bits", "floor"), [(8, 43), (6, 31), (5, 25), (4, 18), (3, 10), (2, -0.4)])
def test_signal_to_noise_of_two_linears_per_bit_width(bits: int, floor: float) -> None:
    """Floors 2 dB under the mean measured for two stacked default linears with symmetric rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.Linear(256, 128))
    x = torch.randn(64, 128)
    with torch.no_grad():
        expected = model(x)
        for parameter in (model[0].weight, model[1].weight):
            assert isinstance(parameter, Tensor)
            parameter.copy_(round_trip(IntFormat(bits), parameter))
        noise = model(x) - expected
    assert 10 * math.log10(float(expected.square().sum() / noise.square().sum())) >= floor


@pytest.mark.parametrize("text", INTEGERS)
def test_no_weight_moves_by_more_than_half_a_step(text: str) -> None:
    f = format(text)
    assert isinstance(f, IntFormat)
    for shift in (0.0, 0.7, -5.0):
        weight = weights(6, 150, shift=shift)
        bound = steps_of(f, weight) * (slack(f) + (0.5 if f.asymmetric else 0.0))
        moved = (round_trip(f, weight) - weight).abs()
        assert bool((moved <= bound).all())
        assert float((moved / steps_of(f, weight) <= 0.5001).float().mean()) > 0.97


@settings(max_examples=60, deadline=None)
@given(text=st.sampled_from(["fp32", "fp16", *INTEGERS]), seed=st.integers(0, 1000), columns=st.integers(1, 140),
       shift=st.sampled_from([0.0, 1.0, -4.0]))  # fmt: skip
def test_decoded_weights_are_stored_without_further_loss(text: str, seed: int, columns: int, shift: float) -> None:
    f = format(text)
    decoded = round_trip(f, weights(4, columns, seed, shift))
    assert torch.equal(round_trip(f, decoded), decoded)


def test_signed_scales_use_the_lowest_code() -> None:
    """The value of largest magnitude is exact on either side, with a step of an eighth of it."""
    for sign in (1.0, -1.0):
        encoded = format("int4:channel").encode(torch.tensor([[sign * 8.0, sign * 3.0, -sign * 2.0]]))
        assert float(encoded.tensors["scale"]) == -sign
        assert format("int4:channel").decode(encoded).tolist() == [[sign * 8.0, sign * 3.0, -sign * 2.0]]


def test_eight_symmetric_bits_have_positive_scales_and_no_code_minus_128() -> None:
    encoded = format("int8:channel").encode(weights(9, 40))
    assert bool((encoded.tensors["scale"] > 0).all())
    assert int(encoded.tensors["codes"].min()) >= 1


def test_a_sum_stores_what_the_first_part_left_over() -> None:
    weight = weights(16, 96)
    first, both = format("int4:g32"), format("int4:g32 + int4:g32")
    assert float((round_trip(both, weight) - weight).norm()) < 0.15 * float((round_trip(first, weight) - weight).norm())
    rest = weight - round_trip(first, weight)
    assert torch.equal(round_trip(both, weight), round_trip(first, weight) + round_trip(first, rest))


# ------------------------------------------------------------------------------------------------- awkward weights
KINDS = ("normal", "zero", "constant", "zero row", "two values", "transposed", "slice")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@settings(max_examples=120, deadline=None)
@given(
    text=st.sampled_from(EVERY),
    rows=st.integers(1, 5),
    columns=st.integers(1, 90),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-8, 1e-6, 1e-3, 1.0, 100.0, 30_000.0]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
)
def test_every_format_survives_awkward_weights(
    text: str, rows: int, columns: int, seed: int, scale: float, dtype: torch.dtype, kind: str
) -> None:
    f = format(text)
    normal = weights(rows, columns, seed).clamp(-2, 2)
    weight = {
        "normal": normal,
        "zero": torch.zeros(rows, columns),
        "constant": torch.full((rows, columns), -1.0 if seed % 2 else 1.0),
        "zero row": normal * (torch.arange(rows) % 2)[:, None],
        "two values": normal.sign(),
        "transposed": weights(columns, rows, seed).clamp(-2, 2).T,
        "slice": weights(2 * rows, 3 * columns, seed).clamp(-2, 2)[::2, ::3],
    }[kind]
    weight = (weight * scale).to(dtype)
    before = weight.clone()
    exact = weight.float()
    try:
        decoded = round_trip(f, weight)
    except FormatError:  # only where every weight is far below what float16 scales can express
        assert 0.0 < float(exact.abs().max()) < 2.0**-24
        return
    assert torch.equal(weight, before)
    assert bool(decoded.isfinite().all())
    assert bool((decoded[exact.abs().amax(dim=1) == 0] == 0).all())
    widths = [p.bits for p in (f.parts if isinstance(f, SumFormat) else (f,)) if isinstance(p, IntFormat)]
    step = 2.0 ** (2 - min(widths, default=12)) * float(exact.abs().max())
    assert float((decoded - exact).abs().max()) <= step + 2.0**-24
    if kind in ("constant", "two values") and scale >= 1.0 and not isinstance(f, SumFormat):
        assert torch.allclose(decoded, exact, rtol=2.0**-10, atol=0.0)


@pytest.mark.parametrize("text", ["int8:channel", "int4:g16", "int3:g16:asym"])
def test_tiny_groups_beside_normal_ones_are_coarse_but_bounded(text: str) -> None:
    weight = weights(2, 64)
    weight[:, :16] *= 1e-7
    assert float((round_trip(format(text), weight) - weight)[:, :16].abs().max()) <= float(
        weight[:, 16:].abs().max() if "channel" in text else 2.0**-24
    )


def test_ragged_groups_are_encoded_as_if_they_were_alone() -> None:
    weight = weights(5, 40)
    for text in ("int4:g16", "int4:g16:asym"):
        alone = [round_trip(format(text), part) for part in (weight[:, :16], weight[:, 16:32], weight[:, 32:])]
        assert torch.equal(round_trip(format(text), weight), torch.cat(alone, dim=1))


# ------------------------------------------------------------------------------------------------- refusals
def test_values_that_are_not_finite_are_named() -> None:
    weight = weights(4, 6)
    weight[2, 3] = math.nan
    weight[3, 0] = math.inf
    for text in ("fp32", "fp16", "int4:g16"):
        with pytest.raises(
            FormatError, match=rf"{text}: expected finite float32 weights, got nan at row 2, column 3 \(2 such"
        ):
            format(text).encode(weight)


def test_a_finite_weight_whose_sum_is_not_finite_is_stored() -> None:
    weight = torch.full((4, 64), 3e38)
    assert torch.equal(round_trip(format("fp32"), weight), weight)


def test_scales_beyond_float16_are_named() -> None:
    weight = weights(4, 64)
    weight[2, 40] = 1e7
    with pytest.raises(FormatError, match=r"at most 65504, got 1\.25e\+06 at row 2, group 2; rescale"):
        format("int4:g16").encode(weight)
    tiny = torch.zeros(4, 64)
    tiny[3, 17] = -5e-8
    with pytest.raises(FormatError, match=r"5\.96e-08 or more, got at most 5e-08 at row 3, column 17; rescale"):
        format("int4:g16").encode(tiny)
    assert round_trip(format("int4:g16"), tiny * 2)[3, 17] != 0.0
    with pytest.raises(FormatError, match=r"got inf at row 0, group 0"):
        format("int8:channel:asym").encode(torch.tensor([[3e38, -3e38]]))


def test_values_beyond_float16_are_named() -> None:
    weight = weights(4, 6)
    weight[1, 5] = -7e4
    with pytest.raises(
        FormatError, match=r"fp16: expected weights of at most 65504, got 7e\+04, first at row 1, column 5"
    ):
        format("fp16").encode(weight)


@pytest.mark.parametrize("text", ["fp32", "int4:g16", "int4:g16 + fp16"])
def test_shapes_that_are_no_matrix_are_refused(text: str) -> None:
    assert format(text).refuses((4, 4)) is None
    assert "two or more dimensions, got shape [4]" in str(format(text).refuses((4,)))
    with pytest.raises(FormatError, match=r"got the empty shape \[0, 4\]; keep this weight"):
        format(text).encode(torch.zeros(0, 4))


def test_integer_weights_are_refused() -> None:
    with pytest.raises(FormatError, match=r"expected a floating-point weight, got torch\.int64"):
        format("fp16").encode(torch.zeros(2, 2, dtype=torch.int64))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(FormatError, match="expected 2 to 8 bits, got 9"):
        IntFormat(9)
    with pytest.raises(FormatError, match="expected a group of 16, 32, 64, 128 or 256, got 48"):
        IntFormat(4, 48)
    with pytest.raises(FormatError, match="expected 16 or 32 bits, got 8"):
        FloatFormat(8)
    with pytest.raises(FormatError, match="expected two or more parts, got 1"):
        SumFormat((IntFormat(4),))


# ------------------------------------------------------------------------------------------------- graphs
@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("shape", [(6, 40), (6, 4, 3, 3)])
def test_the_built_node_computes_what_decode_says(text: str, shape: tuple[int, ...]) -> None:
    f = format(text)
    encoded = f.encode(weights(shape[0], math.prod(shape[1:])).reshape(shape))
    context = Context()
    constants = {name: context.constant(name, tensor) for name, tensor in encoded.tensors.items()}
    node = f.weight(Building(context), constants, shape)
    (value,) = evaluate(context.graph((), (node,)), ())
    assert torch.equal(value, f.decode(encoded))


def test_the_weight_that_a_kernel_with_one_scale_a_row_multiplies() -> None:
    weight = weights(6, 64)
    for text in ("int4:g16", "int8:channel:asym", "fp16", "int4:g16 + fp16"):
        f = format(text)
        encoded = f.encode(weight)
        rounded = f.weight(IntegerRows(EAGER), encoded.tensors, encoded.shape)
        assert torch.equal(rounded, f.decode(encoded)) != f.has_groups
        assert float((rounded - f.decode(encoded)).abs().max()) <= float(weight.abs().max()) / 100


class Uses:
    """One node of each kind that computes with a weight of a shape, and a value that it takes."""

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        self.bias = weights(1, shape[0], seed=5)[0]
        others: dict[str, Any] = {"bias": self.bias} if kind in ("linear", "conv") else {}
        if kind == "conv":
            others |= {"stride": (2, 1), "padding": (1, 1)}
        op, weight, given = {
            "linear": ("aten.linear.default", "weight", "input"), "matmul": ("aten.matmul.default", "other", "self"),
            "conv": ("aten.conv2d.default", "weight", "input"),
            "embedding": ("aten.embedding.default", "weight", "indices"),
        }[kind]  # fmt: skip
        self.use = Use(kind, op, weight, given, shape, others)
        sizes = (2, shape[1], 7, 6) if kind == "conv" else (3, 5, shape[1])
        self.x = torch.randn(sizes, generator=torch.Generator().manual_seed(6))
        if kind == "embedding":
            self.x = torch.tensor([[0, 3], [shape[0] - 1, 3]])


@pytest.mark.parametrize("kind", ["linear", "matmul", "conv", "embedding"])
@pytest.mark.parametrize("text", ["fp32", "int4:g16", "int8:channel:asym + fp16"])
def test_a_layer_computes_with_the_decoded_weight(text: str, kind: str) -> None:
    """Evaluated and built are the same lines; both are the layer with the weight that `decode` gives."""
    shape = (12, 4, 3, 3) if kind == "conv" else (12, 40)
    f, given = format(text), Uses(shape, kind)
    encoded = f.encode(weights(shape[0], math.prod(shape[1:])).reshape(shape))
    found = f.apply(EAGER, given.x, encoded.tensors, given.use)
    assert torch.allclose(found, given.use.dense(EAGER, given.x, f.decode(encoded)), atol=1e-6)
    context = Context()
    x = context.input("x", TensorType(given.x.dtype, tuple(given.x.shape)))
    constants = {name: context.constant(name, tensor) for name, tensor in encoded.tensors.items()}
    bias = {"bias": context.constant("bias", given.bias)} if "bias" in given.use.others else {}
    use = replace(given.use, others={**given.use.others, **bias})
    node = f.apply(Building(context), x, constants, use)
    (value,) = evaluate(context.graph((x,), (node,)), (given.x,))
    assert torch.equal(value, found)


def test_registered_names_spell_themselves() -> None:
    for name in FORMATS:
        text = FORMATS[name].example(name)
        assert format(text).spelling == text
        assert names_in(text) == (name,)
