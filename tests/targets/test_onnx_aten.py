"""Attention and norms in the spelling that is fast: same numbers as torch, including rows that are masked entirely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as sdpa

from instar.ir.errors import LoweringError
from instar.targets.onnx.emit_aten import CAUSAL_ROWS
from instar.targets.onnx.export import export_module, to_proto
from instar.targets.onnx.session import executed_kernels, make_session


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return sdpa(query, key, value, mask, **self.options)


def outputs(module: nn.Module, inputs: list[Tensor], length: bool = False) -> tuple[Tensor, Tensor]:
    shapes = None
    if length:
        dim = torch.export.Dim("length", min=2, max=512)
        shapes = [{2: dim} if t.dim() == 4 else {0: dim, 1: dim} for t in inputs]
    proto = to_proto(export_module(module, inputs, dynamic_shapes=shapes))
    session = make_session(proto, threads=1)
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)}
    return module(*inputs), torch.from_numpy(np.asarray(session.run(None, feeds)[0]))


def heads(count: int, length: int, width: int = 8) -> Tensor:
    return torch.randn(2, count, length, width, generator=torch.Generator().manual_seed(count * length)) * 3


def same(pair: tuple[Tensor, Tensor]) -> None:
    assert (pair[0] - pair[1]).abs().max() <= 2e-5


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"is_causal": True}])
def test_attention(options: dict[str, Any]) -> None:
    same(outputs(Attention(**options), [heads(3, 7), heads(3, 7) + 1, heads(3, 7) - 1]))


def test_causal_attention_of_dynamic_length() -> None:
    same(outputs(Attention(is_causal=True), [heads(3, 7), heads(3, 7) + 1, heads(3, 7) - 1], length=True))


@pytest.mark.parametrize("length", [64, 100, 150])
@pytest.mark.parametrize("shared", [6, 2])
@pytest.mark.parametrize("clamp", [True, False])
def test_causal_attention_in_blocks(length: int, shared: int, clamp: bool) -> None:
    module = Attention(is_causal=True, enable_gqa=shared == 2)
    inputs = [heads(6, length), heads(shared, length) + 1, heads(shared, length) - 1]
    proto = to_proto(export_module(module, inputs, input_names=["q", "k", "v"], clamp_softmax=clamp))
    feeds = {name: t.numpy() for name, t in zip("qkv", inputs, strict=True)}
    kernels = executed_kernels(proto, feeds)
    assert kernels["Softmax"] == -(-length // CAUSAL_ROWS)
    assert kernels["ReduceMax"] == (kernels["Softmax"] if clamp else 0)
    found = np.asarray(make_session(proto, threads=1).run(None, feeds)[0])
    same((module(*inputs), torch.from_numpy(found)))


@pytest.mark.parametrize("length", [7, 100])
def test_doubles_stay_doubles(length: int) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.rms_norm(x, (8,), torch.ones(8, dtype=x.dtype), 1e-5)
            return nn.functional.hardtanh(sdpa(x, x, x, is_causal=True))

    expected, found = outputs(Net(), [heads(3, length).double()])
    assert expected.dtype == found.dtype == torch.float64
    assert (expected - found).abs().max() <= 1e-7  # the runtime keeps the scale of a fused product in float32


def test_grouped_queries() -> None:
    same(outputs(Attention(enable_gqa=True, is_causal=True), [heads(6, 7), heads(2, 7) + 1, heads(2, 7) - 1], True))


def test_float_mask() -> None:
    mask = torch.randn(7, 7) * 5
    same(outputs(Attention(), [heads(3, 7), heads(3, 7) + 1, heads(3, 7), mask], length=True))


def test_boolean_mask_with_a_row_that_attends_to_nothing() -> None:
    mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[2] = False
    expected, got = outputs(Attention(), [heads(3, 7), heads(3, 7) + 1, heads(3, 7), mask])
    assert torch.equal(expected[:, :, 2], torch.zeros_like(expected[:, :, 2]))
    same((expected, got))


@pytest.mark.parametrize("eps", [None, 1e-5])
def test_rms_norm_is_one_kernel(eps: float | None) -> None:
    module = nn.RMSNorm(24, eps=eps)
    nn.init.uniform_(module.weight)
    x = heads(1, 5, 24)
    same(outputs(module, [x]))
    proto = to_proto(export_module(module, [x], input_names=["x"]))
    assert executed_kernels(proto, {"x": x.numpy()}) == {"SimplifiedLayerNormalization": 1}


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten._fake_quantize_learnable_per_tensor_affine(
            x, torch.ones(1), torch.zeros(1), 0, 255
        )  # an op that ONNX does not know


def test_an_op_without_translation_is_named() -> None:
    with pytest.raises(LoweringError, match=r"expected a translation for every op, found: .*_fake_quantize_learnable"):
        export_module(Unknown(), [torch.randn(3)])
