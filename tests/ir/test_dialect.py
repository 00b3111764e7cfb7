"""The dialect: numbers equal to ONNX's and the runtime's, gradients, export with dynamic shapes, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from instar.ir import dialect
from instar.ir.errors import FormatError
from instar.ir.packing import pack

OPS = torch.ops.instar


def session(nodes: list[Any], inputs: list[tuple[str, int]], output: str, constants: dict[str, Any]) -> Any:
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in inputs],
        [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def dynamic_quantize_linear() -> Any:
    nodes = [
        onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return session(nodes, [("x", onnx.TensorProto.FLOAT)], "y", {})


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 70), scale=st.sampled_from([1e-20, 1e-3, 1.0, 50.0, 1e20]),
       shift=st.sampled_from([-3.0, -1.0, 0.0, 1.0, 3.0]))  # fmt: skip
def test_tensor_granularity_is_dynamic_quantize_linear(
    dynamic_quantize_linear: Any, seed: int, size: int, scale: float, shift: float
) -> None:
    x = (torch.randn(3, size, generator=torch.Generator().manual_seed(seed)) + shift) * scale
    expected = dynamic_quantize_linear.run(None, {"x": x.numpy()})[0]
    assert np.array_equal(OPS.fake_quantize_dynamic(x, 8, "tensor", False).numpy(), expected)


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [0.5, 1.5, 2.5, 127.5, 255.0], [-1.0, -1.0], [3.0], [-128.0, 127.0, 0.5]]
)
def test_tensor_granularity_on_ties_zeros_and_one_sign(dynamic_quantize_linear: Any, values: list[float]) -> None:
    x = torch.tensor(values)
    expected = dynamic_quantize_linear.run(None, {"x": x.numpy()})[0]
    assert np.array_equal(OPS.fake_quantize_dynamic(x, 8, "tensor", False).numpy(), expected)


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_group_granularity_is_what_matmul_n_bits_does(block: int) -> None:
    rng = np.random.default_rng(block)
    rows, columns = 24, 512
    codes = rng.integers(0, 16, (rows, columns)).astype(np.uint8)
    scale = (rng.random((rows, columns // block)) * 0.1 + 0.01).astype(np.float32)
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(rows, columns // block, block // 2)
    attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": 4, "block_size": block, "accuracy_level": 4}
    node = onnx.helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **attributes)
    run = session([node], [("x", onnx.TensorProto.FLOAT)], "y", {"b": packed, "s": scale})
    x = torch.randn(7, columns, generator=torch.Generator().manual_seed(block))
    x[0, :block] = 0.0
    weight = OPS.dequantize(pack(torch.from_numpy(codes), 4), torch.from_numpy(scale), None, 4, block, [rows, columns])
    expected = nn.functional.linear(OPS.fake_quantize_dynamic(x, 8, f"group:{block}", True).double(), weight.double())
    exact = nn.functional.linear(x.double(), weight.double())
    got = torch.from_numpy(run.run(None, {"x": x.numpy()})[0]).double()
    assert (got - expected).norm() / expected.norm() < 1e-5
    assert (got - exact).norm() / exact.norm() > 1e-3


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("scale", "zero"), [(0.05, 3), (0.7, -1), (1e-3, 0)])
def test_static_is_quantize_then_dequantize_linear(symmetric: bool, scale: float, zero: int) -> None:
    zero_point = zero if symmetric else zero + 10
    constants = {"s": np.float32(scale), "z": (np.int8 if symmetric else np.uint8)(zero_point)}
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    run = session(nodes, [("x", onnx.TensorProto.FLOAT)], "y", constants)
    x = torch.cat([torch.linspace(-40, 40, 4001), (torch.arange(-300, 300) + 0.5) * scale])
    expected = run.run(None, {"x": x.numpy()})[0]
    assert np.array_equal(OPS.fake_quantize_static(x, scale, zero_point, 8, symmetric).numpy(), expected)


def test_token_granularity_treats_every_position_alone() -> None:
    x = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    for symmetric in (False, True):
        together = OPS.fake_quantize_dynamic(x, 8, "token", symmetric)
        apart = torch.stack([OPS.fake_quantize_dynamic(row, 8, "token", symmetric) for row in x.flatten(0, 1)])
        assert torch.equal(together, apart.view_as(x))


def test_ragged_last_group_is_a_group_of_its_own() -> None:
    x = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    for symmetric in (False, True):
        parts = [OPS.fake_quantize_dynamic(part, 8, "token", symmetric) for part in (x[:, :4], x[:, 4:8], x[:, 8:])]
        assert torch.equal(OPS.fake_quantize_dynamic(x, 8, "group:4", symmetric), torch.cat(parts, dim=1))


@pytest.mark.parametrize("granularity", ["tensor", "token", "group:4"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_empty_scalar_and_non_contiguous_inputs(granularity: str, symmetric: bool, dtype: torch.dtype) -> None:
    zero = OPS.fake_quantize_dynamic(torch.zeros(3, 7, dtype=dtype), 8, granularity, symmetric)
    assert zero.dtype == dtype
    assert not zero.any()
    assert OPS.fake_quantize_dynamic(torch.zeros(0, 7, dtype=dtype), 8, granularity, symmetric).shape == (0, 7)
    assert OPS.fake_quantize_dynamic(torch.zeros(3, 0, dtype=dtype), 8, granularity, symmetric).shape == (3, 0)
    assert OPS.fake_quantize_dynamic(torch.ones((), dtype=dtype), 8, granularity, symmetric).shape == ()
    tiny = torch.full((2, 4), 1e-44).to(dtype)
    assert OPS.fake_quantize_dynamic(tiny, 8, granularity, symmetric).isfinite().all()
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    turned = OPS.fake_quantize_dynamic(x.T, 8, granularity, symmetric)
    assert torch.equal(turned, OPS.fake_quantize_dynamic(x.T.contiguous(), 8, granularity, symmetric))
    assert turned.is_contiguous()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("asymmetric", [False, True])
def test_dequantize_matches_the_definition(bits: int, asymmetric: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 1 << bits, (3, 10), generator=generator)
    scale = torch.rand(3, 3, generator=generator).half()
    zero = torch.randint(0, 1 << bits, (3, 3), generator=generator)
    weight = OPS.dequantize(pack(codes, bits), scale, pack(zero, bits) if asymmetric else None, bits, 4, [3, 2, 5])
    offset = zero if asymmetric else torch.full_like(zero, 1 << (bits - 1))
    for row in range(3):
        for column in range(10):
            group = column // 4
            expected = float(codes[row, column] - offset[row, group]) * float(scale[row, group])
            assert weight.view(3, 10)[row, column].item() == pytest.approx(expected, abs=1e-6)
    assert weight.dtype == torch.float32


class Quantized(nn.Module):
    """A linear in the form that targets match."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("codes", pack(torch.randint(0, 8, (6, 20), generator=generator), 3))
        self.register_buffer("scale", torch.rand(6, 2, generator=generator).half())

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.instar.dequantize(self.codes, self.scale, None, 3, 16, [6, 20])
        hidden = torch.ops.instar.fake_quantize_dynamic(x, 8, "tensor", False)
        hidden = torch.ops.instar.fake_quantize_dynamic(hidden, 8, "group:16", True)
        return torch.ops.instar.fake_quantize_static(nn.functional.linear(hidden, weight), 0.02, 0, 8, True)


def test_exports_with_dynamic_shapes_and_decomposes() -> None:
    model = Quantized()
    x = torch.randn(4, 5, 20)
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch, 1: length},)).run_decompositions({})
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert [name for name in names if name.startswith("instar")] == [
        "instar.dequantize.default", "instar.fake_quantize_dynamic.default",
        "instar.fake_quantize_dynamic.default", "instar.fake_quantize_static.default",
    ]  # fmt: skip
    other = torch.randn(2, 9, 20)
    assert torch.equal(program.module()(other), model(other))


EIGHT = [-1.0, -0.5, -0.25, 0.0, 0.125, 0.3, 0.6, 1.0]


@pytest.mark.parametrize("grad", [False, True])
def test_registrations_pass_torchs_own_checks(grad: bool) -> None:
    x = torch.randn(3, 20, requires_grad=grad)
    codes = pack(torch.randint(0, 8, (6, 20)), 3)
    scale = torch.rand(6, 2).half().requires_grad_(grad)
    torch.library.opcheck(dialect.dequantize, (codes, scale, None, 3, 16, [6, 20]))
    torch.library.opcheck(dialect.dequantize, (codes, scale, pack(torch.zeros(6, 2).int(), 3), 3, 16, [6, 4, 5]))
    torch.library.opcheck(dialect.dequantize_levels, (codes, scale, EIGHT, 3, 16, [6, 4, 5]))
    torch.library.opcheck(dialect.dequantize_levels, (codes, None, EIGHT, 3, 16, [6, 20]))
    torch.library.opcheck(dialect.fake_quantize_dynamic, (x, 8, "group:16", True))
    torch.library.opcheck(dialect.fake_quantize_static, (x, 0.02, 3, 8, False))


def test_gradients_are_straight_through() -> None:
    x = torch.tensor([[-9.0, 0.5, 1.0, 9.0]], requires_grad=True)
    OPS.fake_quantize_dynamic(x, 8, "token", True).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    x.grad.zero_()
    OPS.fake_quantize_static(x, 0.05, 0, 8, True).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("asymmetric", [False, True])
def test_gradient_of_the_scale_is_the_derivative(asymmetric: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = pack(torch.randint(0, 16, (3, 10), generator=generator), 4)
    zero = pack(torch.randint(0, 16, (3, 3), generator=generator), 4) if asymmetric else None
    scale = torch.rand(3, 3, generator=generator, requires_grad=True)
    weighting = torch.randn(3, 10, generator=generator)
    (OPS.dequantize(codes, scale, zero, 4, 4, [3, 10]) * weighting).sum().backward()
    assert scale.grad is not None
    ones = torch.eye(3).repeat(3, 1, 1)
    for group in range(3):
        direction = ones[:, group]
        change = (OPS.dequantize(codes, direction, zero, 4, 4, [3, 10]) * weighting).sum(dim=1)
        assert torch.allclose(change, scale.grad[:, group], atol=1e-5)


@pytest.mark.parametrize(
    ("granularity", "message"), [("tokens", "did you mean 'token'"), ("group:0", "n > 0"), ("group:x", "group:<n>")]
)
def test_an_unknown_granularity_is_refused(granularity: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        OPS.fake_quantize_dynamic(torch.ones(2), 8, granularity, True)


def test_widths_scales_and_zero_points_are_checked() -> None:
    with pytest.raises(FormatError, match="expected 2 to 8 bits, got 9"):
        OPS.fake_quantize_dynamic(torch.ones(2), 9, "tensor", False)
    with pytest.raises(FormatError, match="expected 2 to 8 bits, got 1"):
        OPS.fake_quantize_static(torch.ones(2), 1.0, 0, 1, False)
    with pytest.raises(FormatError, match=r"expected a positive finite scale, got 0\.0"):
        OPS.fake_quantize_static(torch.ones(2), 0.0, 0, 8, False)
    with pytest.raises(FormatError, match=r"expected a zero point in -128\.\.127, got 200"):
        OPS.fake_quantize_static(torch.ones(2), 1.0, 200, 8, True)


def test_levels_are_looked_up_and_scaled_by_group() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (6, 20), generator=generator)
    scale = torch.rand(6, 2, generator=generator, requires_grad=True)
    weight = dialect.dequantize_levels(pack(codes, 3), scale, EIGHT, 3, 16, [6, 4, 5])
    levels = torch.tensor(EIGHT)[codes]
    spread = scale.repeat_interleave(16, dim=1)[:, :20]
    assert torch.equal(weight, (levels * spread).reshape(6, 4, 5))
    plain = dialect.dequantize_levels(pack(codes, 3), None, EIGHT, 3, 16, [6, 20])
    assert torch.equal(plain, levels)
    weight.square().sum().backward()
    products = torch.nn.functional.pad(2 * levels.square() * spread.detach(), (0, 12))
    assert scale.grad is not None
    assert torch.allclose(scale.grad, products.reshape(6, 2, 16).sum(-1))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 255), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_means_weighted_by_codes_are_an_attention_rounded_to_255ths_of_its_largest(
    keys: int, columns: int, zero: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 6 * torch.randn(2, 3, keys, generator=generator)
    values = torch.randint(0, 256, (2, keys, columns), generator=generator).to(torch.uint8)
    weights = OPS.softmax_codes(scores)
    assert bool((weights.amax(-1) == 255).all())
    means = OPS.weighted_means(weights, values, zero).double()
    exact = torch.softmax(scores.double(), -1) @ (values.double() - zero)
    # each weight is off by at most 1/2, their sum by keys/2; the sum is at least 255, and a value lies within its range
    within = values.double().amax(1, keepdim=True) - values.double().amin(1, keepdim=True)
    assert bool(((means - exact).abs() <= within * keys / 255 + 1e-3).all())


def test_a_row_without_any_weight_is_no_number_as_a_softmax_of_it_is() -> None:
    scores = torch.full((1, 4), -torch.inf)
    weights = OPS.softmax_codes(scores)
    assert weights.tolist() == [[0, 0, 0, 0]]
    assert bool(OPS.weighted_means(weights, torch.ones(4, 2, dtype=torch.uint8), 0).isnan().all())
