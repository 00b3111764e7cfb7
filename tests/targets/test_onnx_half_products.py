"""A float16 transpose before a product with a constant matrix, which ONNX Runtime dies of when it is fused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import instar

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "swapped": lambda x: x.transpose(0, 1),
    "turned": lambda x: x.permute(1, 2, 0)[..., :16].expand(-1, -1, 16),
    "twice": lambda x: x.unsqueeze(2).permute(1, 0, 2, 3).permute(0, 2, 1, 3),
    "scaled": lambda x: x.transpose(0, 1) * 3,
    "joined": lambda x: torch.cat([x.transpose(0, 1), x.transpose(0, 1)]),
    "widened": lambda x: x.transpose(0, 1).float(),
}


class Turned(nn.Module):
    """Turns its input, then multiplies it with a matrix."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.turn = WAYS[way]
        self.linear = nn.Linear(16, 8, dtype=torch.float32 if way == "widened" else torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        """Of ``[1, tokens, 16]``."""
        return self.linear(self.turn(x))


@pytest.mark.parametrize("way", list(WAYS))
def test_a_turned_half_is_multiplied(way: str, tmp_path: Path) -> None:
    model = Turned(way).eval()
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0)).half()
    compiled = instar.compile(model, (x,), target="onnx", dynamic_shapes=({1: torch.export.Dim("tokens")},))
    file = tmp_path / "model.onnx"
    compiled.save(file)
    ops = [node.op_type for node in onnx.load(file).graph.node]
    assert ("Einsum" in ops) == ("Transpose" in ops), ops
    load = f"import onnxruntime; onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])"
    assert subprocess.run([sys.executable, "-c", load], check=False).returncode == 0
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-3, atol=2e-3)


def test_float32_keeps_its_products(tmp_path: Path) -> None:
    model = Turned("swapped").float().eval()
    instar.compile(model, (torch.zeros(1, 5, 16),), target="onnx").save(tmp_path / "model.onnx")
    ops = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "Einsum" not in ops
