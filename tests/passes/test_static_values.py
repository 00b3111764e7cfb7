"""Which values a static quantization rounds: what layers read and make, and sums of it, not what a norm alone reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.passes.static_values import static_values

from .rewrite_case import module_graph


class Block(nn.Module):
    """A residual sum behind two layers, then a norm, or a layer."""

    def __init__(self, last: nn.Module, *, shown: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.last, self.shown = nn.Linear(8, 8), nn.Linear(8, 8), last, shown

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        total = self.second(x) + self.first(x)
        return (self.last(total), total) if self.shown else (self.last(total),)


def rounded(module: nn.Module) -> list[str]:
    graph: Graph = module_graph(module, (torch.randn(3, 8, dtype=torch.float64),))
    return [node.op.name for node in static_values(graph, find_layers(graph, 1)[0])]


def test_a_sum_that_a_layer_reads_is_rounded_with_its_parts() -> None:
    found = rounded(Block(nn.Linear(8, 8)))
    assert found.count("aten.linear.default") == 3
    assert "aten.add.Tensor" in found


def test_a_sum_that_a_norm_alone_reads_stays_in_float_with_its_parts() -> None:
    assert [name for name in rounded(Block(nn.LayerNorm(8))) if name.startswith("aten.")] == []


def test_a_sum_that_is_an_output_too_is_rounded() -> None:
    assert "aten.add.Tensor" in rounded(Block(nn.LayerNorm(8), shown=True))
