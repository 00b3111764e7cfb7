"""Integer products that share one weight: files load and compute the same where a session asks for exact products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import instar
from instar.targets.onnx import session
from instar.targets.onnx.artifact import OnnxArtifact


class Shared(nn.Module):
    """Three linear layers with one weight between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        for layer in self.layers:
            layer.register_parameter("weight", self.layers[0].get_parameter("weight"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@pytest.mark.parametrize("kernel", ["int8", "int8_token"])
@pytest.mark.parametrize("spelling", ["int8:channel", "int8:channel:asym", "int4:g32:asym"])
def test_a_weight_of_several_products_loads_with_exact_products(spelling: str, kernel: str) -> None:
    """The runtime converts a weight, and its zero points, once for every product that reads it."""
    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(8, 64)
    result = instar.compile(model, (x,), formats=[spelling], kernels=[kernel])
    assert session.EXACT_PRODUCTS in session.CONFIG.items()
    assert isinstance(result.artifact, OnnxArtifact)
    products = [n for n in result.artifact.lowered.proto().graph.node if n.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 3
    assert all(len({node.input[place] for node in products}) == 3 for place in (1, 5))
    found, expected = result(x), model(x)
    assert torch.linalg.norm(found - expected) < 0.2 * torch.linalg.norm(expected)
