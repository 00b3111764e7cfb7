"""Writes to diagonals become a choice by rows and columns, with the values of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.capture import capture
from instar.ir.evaluate import evaluate
from instar.passes.canonicalize import Canonicalize


class Diagonal(nn.Module):
    def __init__(self, offset: int, row: int, column: int) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.where = (offset, row, column)

    def forward(self, x: Tensor) -> Tensor:
        written = self.layer(x)
        written.diagonal(*self.where).mul_(3.0)
        return written + 1


@pytest.mark.parametrize("offset", [-2, 0, 1])
@pytest.mark.parametrize(("row", "column"), [(1, 2), (2, 1), (-1, 0), (0, 1)])
def test_values_and_structure(offset: int, row: int, column: int) -> None:
    torch.manual_seed(0)
    model, x = Diagonal(offset, row, column).double().eval(), torch.randn(3, 4, 5, dtype=torch.float64)
    graph = Canonicalize()(capture(model, (x,))).graph
    assert not any("scatter" in name for name in graph.ops())
    torch.testing.assert_close(evaluate(graph, [x])[0], model(x), rtol=1e-9, atol=1e-12)


def test_a_file_at_sizes_never_seen() -> None:
    torch.manual_seed(0)
    model = Diagonal(1, 1, 2).eval()
    shapes = ({0: Dim("batch"), 1: Dim("rows", min=2)},)
    compiled = instar.compile(model, (torch.randn(3, 6, 5),), target="onnx", dynamic_shapes=shapes)
    for rows in (3, 9):
        x = torch.randn(2, rows, 5)
        torch.testing.assert_close(compiled(x), model(x))
