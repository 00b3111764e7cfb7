"""Adaptive average pooling is written as torch computes it, at all sizes, without being taken apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.capture import capture
from instar.targets.onnx.export import OPSET, is_written


class Pooled(nn.Module):
    """A convolution whose output is pooled to a size."""

    def __init__(self, size: Any, dimensions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3) if dimensions == 2 else nn.Conv1d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(size) if dimensions == 2 else nn.AdaptiveAvgPool1d(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, (1, 3), (None, 1)])
def test_images_are_pooled_to_any_size(size: Any, dynamic: bool) -> None:
    torch.manual_seed(0)
    model, x = Pooled(size, 2).eval(), torch.randn(2, 3, 12, 13)
    axes = {axis: torch.export.Dim(f"d{axis}", min=8, max=64) for axis in (2, 3)}
    shapes = (axes,) if dynamic else None
    compiled = instar.compile(model, (x,), target="onnx", dynamic_shapes=shapes)
    for given in (x, torch.randn(2, 3, 19, 11)) if dynamic else (x,):
        assert torch.allclose(compiled(given), model(given), atol=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_signals_are_pooled_and_nothing_is_taken_apart(size: int) -> None:
    torch.manual_seed(0)
    model, x = Pooled(size, 1).eval(), torch.randn(2, 3, 15)
    assert torch.allclose(instar.compile(model, (x,), target="onnx")(x), model(x), atol=1e-5)
    assert is_written(capture(Pooled(size, 2), (torch.randn(2, 3, 12, 13),)), opset=OPSET, plain=False)
