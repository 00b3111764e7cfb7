"""Sizes that go through tensors stay sizes: ``torch.tensor(x.shape[1])`` bounds a slice, and the batch stays open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.errors import CaptureError
from instar.ir.evaluate import call


class Lines(nn.Module):
    """A model that is one function of its input and a table."""

    def __init__(self, lines: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(512.0).reshape(64, 8))
        self.lines = lines

    def forward(self, x: Tensor) -> Tensor:
        return self.lines(x, self.table)


def _span(x: Tensor, table: Tensor) -> Tensor:
    """DeBERTa's relative positions."""
    span: Any = torch.tensor(min(x.shape[1], 32))
    rows = table[32 - span : 32 + span, :]
    places = torch.clamp(torch.arange(x.shape[1]) + span, 0, span * 2 - 1)
    return x @ rows.t() + places.sum()


def _item(x: Tensor, table: Tensor) -> Tensor:
    return x * table[: (torch.tensor(x.shape[1]) * 2 - x.shape[1]).item()]


def _converted(x: Tensor, table: Tensor) -> Tensor:
    half = torch.tensor(x.shape[1]).to(torch.int32).clone() // 2
    return x + table[torch.maximum(half, torch.tensor(2, dtype=torch.int32)).long()]


def _made(x: Tensor, table: Tensor) -> Tensor:
    length: Any = torch.tensor(x.shape[1], device=x.device)
    return x + torch.zeros(length, 8) + torch.arange(length).unsqueeze(1) + table[-length:]


def _taken(x: Tensor, table: Tensor) -> Tensor:
    length = torch.tensor(x.shape[1])
    return x + table[torch.neg(-length)]


@pytest.mark.parametrize("lines", [_span, _item, _converted, _made, _taken])
def test_a_size_in_a_tensor_is_a_size(lines: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, length = Lines(lines).eval(), Dim("length", min=4, max=32)
    graph = instar.capture(model, (torch.randn(2, 6, 8),), dynamic_shapes={"x": {0: Dim("batch"), 1: length}})
    assert [str(d) for d in graph.inputs[0].tensor_type.shape] == ["batch", "length", "8"]
    for batch, size in ((2, 6), (3, 13), (5, 32)):
        x = torch.randn(batch, size, 8)
        torch.testing.assert_close(call(graph, (x,), {}), model(x))


def test_a_tensor_that_is_written_to_is_not_believed() -> None:
    def written(x: Tensor, table: Tensor) -> Tensor:
        length = torch.tensor(x.shape[1])
        length += x.shape[0]
        return x.sum() + table[: length.item()]

    def behind_a_view(x: Tensor, table: Tensor) -> Tensor:
        length = torch.tensor(x.shape[1])
        length.view(1).fill_(3)
        return x.sum() + table[: length.item()]

    def behind_an_index(x: Tensor, table: Tensor) -> Tensor:
        length = torch.tensor(x.shape[1])
        length[None].add_(1)
        return x.sum() + table[: length.item()]

    for lines in (written, behind_a_view, behind_an_index):
        with pytest.raises(CaptureError, match="depends on the values of a tensor"):
            instar.capture(Lines(lines).eval(), (torch.randn(2, 6, 8),), dynamic_shapes={"x": {1: Dim("length")}})
