"""Every op of the ONNX Runtime dialect: the exported model gives the numbers of the torch reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.packing import pack, row_bytes
from instar.ir.plan import Plan
from instar.passes.run import run_passes
from instar.targets.onnx.export import export_module, to_proto
from instar.targets.onnx.kernels.nbits import block_codes, block_size
from instar.targets.onnx.legalize import passes
from instar.targets.onnx.lower import lower
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import executed_kernels, make_session

ort: Any = torch.ops.instar_ort
instar_ops: Any = torch.ops.instar


class Apply(nn.Module):
    """A function of the inputs and of named constants, as a module."""

    def __init__(self, function: Callable[..., Any], **constants: Tensor | None) -> None:
        super().__init__()
        self.function = function
        self.names = tuple(constants)
        for name, tensor in constants.items():
            if tensor is None:
                setattr(self, name, None)
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *(getattr(self, name) for name in self.names))


def round_trip(module: nn.Module, x: Tensor, dynamic: bool = False) -> tuple[list[Tensor], list[Tensor], Counter[str]]:
    """Outputs of torch and of ONNX Runtime, and the kernels that ran; ``dynamic`` runs with more rows than exported."""
    shapes = [{0: torch.export.Dim("rows", min=2, max=4096)}] if dynamic else None
    proto = to_proto(export_module(module, [x], dynamic_shapes=shapes))
    fed = torch.cat([x, x[:1]]) if dynamic else x
    session = make_session(proto, threads=1)
    feeds = {session.get_inputs()[0].name: fed.numpy()}
    got = [torch.from_numpy(np.asarray(o)) for o in session.run(None, feeds)]
    expected = module(fed)
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    return expected, got, executed_kernels(proto, feeds)


def agree(expected: list[Tensor], got: list[Tensor], tolerance: float = 1e-5) -> None:
    for left, right in zip(expected, got, strict=True):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        if left.dtype.is_floating_point:
            assert (left - right).norm() <= tolerance * left.norm() + 1e-12
        else:
            assert (left.int() - right.int()).abs().max() <= 1
            assert (left != right).float().mean() < 0.01


def stored(rows: int, columns: int, bits: int, group: int, zero: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Random packed codes, scales and zero points in instar's storage."""
    generator = torch.Generator().manual_seed(rows * 1000 + columns * 10 + bits)
    groups = -(-columns // group) if group else 1
    codes = pack(torch.randint(0, 1 << bits, (rows, columns), generator=generator), bits)
    scale = (torch.rand(rows, groups, generator=generator) * 0.02 + 0.01).to(torch.float16)
    points = pack(torch.randint(0, 1 << bits, (rows, groups), generator=generator), bits) if zero else None
    return codes, scale, points


def activations(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 33)])
def test_dynamic_quantize(shape: tuple[int, ...]) -> None:
    expected, got, kernels = round_trip(Apply(instar_ops.quantize_dynamic), activations(*shape), dynamic=True)
    agree(expected, got)
    assert kernels["DynamicQuantizeLinear"] == 1


def test_dynamic_quantize_of_zeros_and_of_one_sign() -> None:
    for x in (torch.zeros(3, 4), activations(3, 4).abs() + 1, -activations(3, 4).abs() - 1):
        agree(*round_trip(Apply(instar_ops.quantize_dynamic), x)[:2])


def test_token_quantize_keeps_small_rows() -> None:
    x = activations(6, 40)
    x[1] *= 1e-4
    x[2] = 0
    expected, got, _ = round_trip(Apply(instar_ops.quantize_tokens), x, dynamic=True)
    agree(expected, got)
    restored = (expected[0].float() - 128) * expected[1]
    assert ((restored - torch.cat([x, x[:1]])).norm(dim=1) <= 0.01 * torch.cat([x, x[:1]]).norm(dim=1) + 1e-20).all()


def test_static_codes_round_trip() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = instar_ops.quantize_static(x, 0.017, 100)
        return codes, instar_ops.dequantize_static(codes, 0.017, 100)

    agree(*round_trip(Apply(both), activations(9, 31) * 3, dynamic=True)[:2])


WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def stored_all(rows: int, columns: int, group: int, zero: bool) -> dict[str, Tensor | None]:
    """The constants of every width: one export tests them all."""
    constants: dict[str, Tensor | None] = {}
    for bits in WIDTHS:
        codes, scale, points = stored(rows, columns, bits, group, zero)
        constants |= {f"codes{bits}": codes, f"scale{bits}": scale, f"points{bits}": points}
    return constants


def per_width(constants: tuple[Tensor, ...]) -> list[tuple[int, tuple[Tensor, ...]]]:
    return [(bits, constants[3 * i : 3 * i + 3]) for i, bits in enumerate(WIDTHS)]


@pytest.mark.parametrize(("group", "columns", "zero"), [(0, 45, True), (32, 96, False), (32, 77, True)])
def test_int8_linear_from_stored_codes(group: int, columns: int, zero: bool) -> None:
    """A model for each width: with exact products the runtime cannot load two weights that share their zero points."""
    rows = 19
    for bits in WIDTHS:

        def linear(x: Tensor, bias: Tensor, *packed: Tensor, bits: int = bits) -> Tensor:
            weight = instar_ops.int8_weight(*packed, bits, group, [rows, columns], True)
            return instar_ops.linear_int8(*instar_ops.quantize_dynamic(x), *weight, bias)

        codes, scale, points = stored(rows, columns, bits, group, zero)
        module = Apply(linear, bias=torch.randn(rows), codes=codes, scale=scale, points=points)
        expected, got, kernels = round_trip(module, activations(11, columns), dynamic=True)
        agree(expected, got)
        # expansions are folded at load
        assert kernels in ({"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 1}, {"DynamicQuantizeMatMul": 1})


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [0, 64])
def test_expanded_weight_is_close_to_the_stored_one(bits: int, group: int) -> None:
    codes, scale, points = stored(8, 128, bits, group, zero=True)
    weight, weight_scale, weight_zero = instar_ops.int8_weight(codes, scale, points, bits, group, [8, 128], False)
    restored = (weight.float() - weight_zero.float()[:, None]) * weight_scale[:, None]
    exact = instar_ops.dequantize(codes, scale, points, bits, group, [8, 128])
    assert (restored - exact).abs().max() <= (0.0 if group == 0 else 0.5001 * float(weight_scale.max()))


def test_one_quantization_is_shared_by_three_linears() -> None:
    weights = {f"w{i}": torch.randint(-127, 128, (48, 24), dtype=torch.int8) for i in range(3)}

    def three(x: Tensor, scale: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        quantized = instar_ops.quantize_dynamic(x)
        return tuple(instar_ops.linear_int8(*quantized, w, scale) for w in weights)

    module = Apply(three, scale=torch.rand(24) * 0.01 + 0.001, **weights)
    expected, got, kernels = round_trip(module, activations(2, 5, 48), dynamic=True)
    agree(expected, got)
    assert kernels["DynamicQuantizeLinear"] == 1
    assert kernels["MatMulIntegerToFloat"] == 3


@pytest.mark.parametrize("with_bias", [False, True])
def test_int8_linear_token(with_bias: bool) -> None:
    weight = torch.randint(-127, 128, (50, 21), dtype=torch.int8)
    constants = {"weight": weight, "scale": torch.rand(21) * 0.01 + 0.001, "zero": torch.zeros(21, dtype=torch.int8)}

    def linear(x: Tensor, *rest: Tensor) -> Tensor:
        return instar_ops.linear_int8_tokens(*instar_ops.quantize_tokens(x), *rest)

    bias = {"bias": torch.randn(21)} if with_bias else {}
    expected, got, kernels = round_trip(Apply(linear, **constants, **bias), activations(7, 50), dynamic=True)
    agree(expected, got, 2e-3)  # a rounding that falls the other way moves one code
    assert kernels["MatMulIntegerToFloat"] == 1


@pytest.mark.parametrize(
    ("bits", "group", "columns", "zero"),
    [(4, 32, 96, False), (4, 32, 77, True), (2, 64, 128, True), (8, 16, 40, False), (4, 0, 45, False)],
)
def test_matmul_nbits(bits: int, group: int, columns: int, zero: bool) -> None:
    codes, scale, points = stored(13, columns, bits, group, zero)
    block = block_size(columns, group)

    def product(x: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        return (
            ort.matmul_nbits(x, *constants, bits, block, columns, 1),
            ort.matmul_nbits(x, *constants, bits, block, columns, 4),
        )

    packed = block_codes(codes, bits, group, columns)
    assert packed.shape == (13, -(-columns // block), row_bytes(block, bits))
    module = Apply(product, codes=packed, scale=scale, points=points, bias=torch.randn(13))
    expected, got, kernels = round_trip(module, activations(4, columns), dynamic=True)
    agree(expected[:1], got[:1])
    agree(expected[1:], got[1:], 2e-3)
    assert kernels == {"MatMulNBits": 2}


@pytest.mark.parametrize(("group", "columns", "zero"), [(0, 30, False), (16, 48, True), (32, 45, False)])
def test_gather_packed(group: int, columns: int, zero: bool) -> None:
    def rows(indices: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for bits, (codes, *rest) in per_width(constants):
            results.append(ort.gather_packed(codes, indices, *rest, bits, group, columns))
        return tuple(results)

    constants = stored_all(23, columns, group, zero)
    indices = torch.tensor([[0, 22, 5], [1, 1, 2]])
    expected, got, _ = round_trip(Apply(rows, **constants), indices, dynamic=True)
    agree(expected, got, 1e-6)
    for bits, result in zip(WIDTHS, expected, strict=True):
        packed = [constants[f"{name}{bits}"] for name in ("codes", "scale", "points")]
        assert torch.equal(result[:2], instar_ops.dequantize(*packed, bits, group, [23, columns])[indices])


@pytest.mark.parametrize(("bits", "zero"), [(4, False), (4, True), (8, False)])
def test_gather_block_quantized(bits: int, zero: bool) -> None:
    codes, scale, points = stored(23, 64, bits, 32, zero)

    def rows(indices: Tensor, codes: Tensor, scale: Tensor, points: Tensor | None) -> Tensor:
        return ort.gather_block_quantized(codes, indices, scale, points, bits, 32, 64)

    module = Apply(rows, codes=codes, scale=scale, points=points)
    expected, got, kernels = round_trip(module, torch.tensor([[0, 22, 5], [1, 1, 2]]), dynamic=True)
    agree(expected, got, 1e-3)  # this kernel multiplies in float16 where scales are float16
    assert kernels["GatherBlockQuantized"] == 1


def test_gather_half() -> None:
    module = Apply(lambda i, table: ort.gather_half(table, i), table=torch.randn(9, 5).half())
    expected, got, kernels = round_trip(module, torch.tensor([8, 0, 3]), dynamic=True)
    assert torch.equal(expected[0], got[0])
    assert kernels == {"Gather": 1, "Cast": 1}


@pytest.mark.parametrize(("group", "shape"), [(0, (6, 10, 3, 3)), (32, (6, 100)), (16, (6, 48))])
def test_stored_float_weight_is_folded(group: int, shape: tuple[int, ...]) -> None:
    columns = int(np.prod(shape[1:]))

    def use(x: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for bits, packed in per_width(constants):
            for weight_op in (instar_ops.dequantize, instar_ops.dequantize_int8):
                weight = weight_op(*packed, bits, group, list(shape))
                results.append(nn.functional.linear(x, weight.flatten(1)))
        return tuple(results)

    module = Apply(use, **stored_all(shape[0], columns, group, zero=group == 32))
    expected, got, kernels = round_trip(module, activations(3, columns), dynamic=True)
    agree(expected[::2], got[::2])
    agree(expected[1::2], got[1::2], 5e-3)  # a tie that rounds the other way moves one weight by one step
    assert set(kernels) <= {"MatMul", "Gemm", "FusedMatMul"}


@pytest.mark.parametrize(
    ("stride", "groups", "padding", "with_bias"), [(1, 1, 1, True), (2, 1, 0, False), (1, 4, 1, True)]
)
def test_run_of_int8_convolutions(stride: int, groups: int, padding: int, with_bias: bool) -> None:
    codes, scale, _ = stored(8, 8 // groups * 9, 4, 0, zero=False)

    def run(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        weight, steps, _ = instar_ops.int8_weight(codes, scale, None, 4, 0, [8, 8 // groups, 3, 3], False)
        geometry = ([stride, stride], [padding, padding], [1, 1], groups)
        value = instar_ops.quantize_static(x, 0.03, 128)
        value = instar_ops.conv_int8(value, 0.03, 128, weight, steps, bias, 0.02, 0, *geometry)
        value = instar_ops.conv_int8(value, 0.02, 0, weight, steps, bias, 0.05, 120, *geometry)
        return instar_ops.dequantize_static(value, 0.05, 120)

    bias = {"bias": torch.randn(8)} if with_bias else {}
    expected, got, kernels = round_trip(Apply(run, codes=codes, scale=scale, **bias), activations(2, 8, 13, 11), True)
    assert (expected[0] - got[0]).abs().max() <= 0.0501
    assert (expected[0] != got[0]).float().mean() < 0.01
    assert kernels["QLinearConv"] == 2
    assert kernels["Conv"] == kernels["Gather"] == 0


@pytest.mark.parametrize(("shape", "axis"), [((2, 16, 7, 9), 1), ((3, 5, 16), -1)])
def test_what_is_dequantized_apart_stays_in_float_between_codes(shape: tuple[int, ...], axis: int) -> None:
    """The runtime rounds weights of products between codes of one scale by itself, which no plan asked for."""
    weight = torch.randn(24, 16, *(3, 3) if axis == 1 else ())

    def run(x: Tensor, weight: Tensor) -> Tensor:
        codes = instar_ops.quantize_static(x, 0.03, 128)
        value = instar_ops.dequantize_apart(codes, 0.03, 128, axis, 16)
        product = nn.functional.conv2d(value, weight) if axis == 1 else nn.functional.linear(value, weight)
        return instar_ops.quantize_static(product, 0.2, 128)

    expected, got, kernels = round_trip(Apply(run, weight=weight), activations(*shape), dynamic=True)
    assert (expected[0].int() - got[0].int()).abs().max() <= 1
    assert (
        kernels["QLinearConv"] == kernels["QGemm"] == kernels["QLinearMatMul"] == kernels["MatMulIntegerToFloat"] == 0
    )


def test_floats_behind_a_pool_of_codes_stay_in_float() -> None:
    """The runtime pulls a pool in front of the conversion, and would round the weights behind it."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            value = instar_ops.fake_quantize_static(x, 0.03, 128, 8, False)
            value = self.conv(nn.functional.max_pool2d(value, 2))
            return instar_ops.fake_quantize_static(value, 0.02, 128, 8, False)

    x = activations(2, 16, 12, 12)
    graph, _ = run_passes(instar.capture(Pooled().eval(), (x,)), passes(OnnxOptions()))
    apart = [node for node in graph.nodes() if node.op.name == "instar.dequantize_apart.default"]
    assert len(apart) == 1
    lowered = lower(graph, Plan((), "", "onnx"), [[x]], OnnxOptions())
    assert executed_kernels(lowered.proto(), {lowered.input_names[0]: x.numpy()})["QLinearConv"] == 0


def test_int8_add_saturates_like_a_relu() -> None:
    def add(x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = instar_ops.quantize_static(x, 0.02, 128), instar_ops.quantize_static(x * 0.5, 0.01, 128)
        total = instar_ops.add_int8(left, 0.02, 128, right, 0.01, 128, 0.015, 0)
        return total, instar_ops.dequantize_static(total, 0.015, 0)

    expected, got, kernels = round_trip(Apply(add), activations(2, 3, 5, 7), dynamic=True)
    agree(expected[:1], got[:1])
    assert kernels["QLinearAdd"] == 1
    assert float(got[1].min()) == 0.0


def test_softmax_clamped_is_softmax_where_scores_are_masked() -> None:
    x = activations(2, 6, 6) * 20
    x = x.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    expected, got, _ = round_trip(Apply(lambda x: ort.softmax_clamped(x, -1)), x, dynamic=True)
    agree(expected, got)
    assert (expected[0][:2] - torch.softmax(x, -1)).abs().max() <= 1e-12 + 6e-8


@pytest.mark.parametrize(("shape", "heads"), [((2, 3, 6, 8), 0), ((2, 6, 24), 3)])
def test_rotary_is_one_kernel(shape: tuple[int, ...], heads: int) -> None:
    angles = torch.rand(6, 4) * 3
    module = Apply(lambda *a: ort.rotary(*a, heads), cos=angles.cos(), sin=angles.sin())
    expected, got, kernels = round_trip(module, activations(*shape), dynamic=True)
    agree(expected, got)
    assert kernels == {"RotaryEmbedding": 1}


def test_reshape_and_repeat_know_dynamic_sizes_without_arithmetic() -> None:
    module = Apply(lambda x: ort.reshape(ort.repeat(x, 3, 1), (0, -1, 2, 4)))
    expected, got, kernels = round_trip(module, activations(2, 5, 6, 8), dynamic=True)
    agree(expected, got)
    assert expected[0].shape == (3, 90, 2, 4)
    assert set(kernels) <= {"Reshape", "Expand", "Unsqueeze"}


def test_residual_add_keeps_the_fast_layer_norm() -> None:
    def block(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.layer_norm(ort.residual_add(x, x * 2), [32], weight, bias)

    module = Apply(block, weight=torch.rand(32), bias=torch.rand(32))
    expected, got, kernels = round_trip(module, activations(2, 5, 32), dynamic=True)
    agree(expected, got)
    assert kernels["LayerNormalization"] == 1
    assert kernels["SkipLayerNormalization"] == 0


def test_activation_quantization_without_a_kernel() -> None:
    dynamic = [(8, "tensor", False), (8, "tensor", True), (8, "token", True), (6, "token", True)]
    static = [(130, 8, False), (-3, 8, True), (9, 5, False)]

    def quantize(x: Tensor) -> tuple[Tensor, ...]:
        return (
            *(instar_ops.fake_quantize_static(x, 0.05, *options) for options in static),
            *(instar_ops.fake_quantize_dynamic(x, *options) for options in dynamic),
        )

    expected, got, _ = round_trip(Apply(quantize), activations(5, 24), dynamic=True)
    agree(expected, got, 1e-3)
