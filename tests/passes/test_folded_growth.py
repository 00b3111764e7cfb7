"""Constant folding is bounded by the model's own size, and index arithmetic stays computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compiler import optimize
from instar.ir.analysis import parameter_bytes
from instar.ir.capture import capture
from instar.ir.evaluate import evaluate
from instar.passes.fold_constants import INDEX_BYTES, LEAST_BYTES, FoldConstants


class CostVolume(nn.Module):
    """Features of one image moved against those of another by each of several shifts: index arithmetic on sizes."""

    def __init__(self, shifts: int) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16 * shifts, 8, 3, padding=1)
        self.shifts = shifts

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.features(left), self.features(right)
        batch, channels, height, width = b.shape
        column = torch.arange(width).repeat(self.shifts, height, 1) - torch.arange(self.shifts)[:, None, None]
        index = torch.arange(height)[:, None] * width + column.clamp(min=0)
        index = index.reshape(1, 1, -1).repeat(batch, channels, 1)
        moved = b.reshape(batch, channels, -1).gather(2, index).reshape(batch, -1, height, width)
        return self.head(moved * a.repeat(1, self.shifts, 1, 1))


@pytest.mark.parametrize(("height", "width", "shifts"), [(48, 56, 6), (96, 112, 12)])
def test_index_arithmetic_stays_computed(height: int, width: int, shifts: int) -> None:
    """Whatever the image's size: the indices are many times the model, and folding them would store them."""
    model = CostVolume(shifts).eval()
    args = torch.randn(1, 3, height, width), torch.randn(1, 3, height, width)
    graph = optimize(model, args)
    own = sum(p.nbytes for p in model.parameters())
    indices = 8 * 16 * shifts * height * width
    assert indices > 5 * own
    assert parameter_bytes(graph) <= 1.125 * own + LEAST_BYTES
    torch.testing.assert_close(evaluate(graph, args)[0], model(*args))
    refused = FoldConstants()(capture(model, args)).refused
    assert any("bytes bigger" in refusal.reason for refusal in refused)


def test_the_file_holds_no_indices() -> None:
    model, args = CostVolume(6).eval(), (torch.randn(1, 3, 48, 56), torch.randn(1, 3, 48, 56))
    own = sum(p.nbytes for p in model.parameters())
    assert instar.compile(model, args, target="onnx").nbytes <= 1.125 * own + LEAST_BYTES


def test_positions_stay_computed_however_much_a_model_may_grow() -> None:
    model, args = CostVolume(6).eval(), (torch.randn(1, 3, 48, 56), torch.randn(1, 3, 48, 56))
    everything = FoldConstants(max_growth=1 << 40, max_share=1e9)(capture(model, args)).graph
    integers = [n for n in everything.constants() if not n.tensor_type.dtype.is_floating_point]
    assert all(node.handle.nbytes <= INDEX_BYTES for node in integers)


class Rotated(nn.Module):
    """A tiny network behind a table that a few operators compute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) @ torch.eye(x.shape[-1])


@pytest.mark.parametrize("width", [8, 16, 32, 48])
def test_a_table_does_not_outweigh_a_tiny_model(width: int) -> None:
    model, x = Rotated(width).eval(), torch.randn(2, width)
    own = sum(p.nbytes for p in model.parameters())
    graph = optimize(model, (x,))
    assert parameter_bytes(graph) <= own + max(own // 8, LEAST_BYTES)
    assert any(node.op.short_name == "aten.eye" for node in graph.nodes()) == (
        4 * width**2 > max(own // 8, LEAST_BYTES)
    )
    torch.testing.assert_close(evaluate(graph, (x,))[0], model(x))


def test_the_smallest_plan_of_a_tiny_model_is_smaller_than_the_model() -> None:
    model, x = Rotated(32).eval(), torch.randn(2, 32)
    compiled = instar.compile(model, (x,), target="torch", budget=instar.Budget(size="40%"))
    assert compiled.plan.budgets[0].used <= 0.4 * sum(p.nbytes for p in model.parameters())
