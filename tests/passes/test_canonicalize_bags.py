"""Bags of embeddings become look-ups and a reduction, with the values of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.capture import capture
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph
from instar.passes.canonicalize import Canonicalize

BATCH = Dim("batch")


class Bag(nn.Module):
    def __init__(self, mode: str, padding: int | None = None) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(60, 24, mode=mode, padding_idx=padding)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.bag(ids, per_sample_weights=weights)


def canonical(model: nn.Module, *args: Tensor, shapes: Any = None) -> Graph:
    return Canonicalize()(capture(model.double().eval(), args, dynamic_shapes=shapes)).graph


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("dynamic", [False, True])
def test_bags_of_one_length(mode: str, padding: int | None, dynamic: bool) -> None:
    torch.manual_seed(0)
    model = Bag(mode, padding)
    ids = torch.randint(0, 60, (5, 7))
    ids[2], ids[3, ::2] = 3, 3  # one bag of padding alone
    graph = canonical(model, ids, shapes=({0: BATCH},) if dynamic else None)
    assert graph.ops()["aten.embedding"] == 1
    assert not any("bag" in name for name in graph.ops())
    for given in (ids, ids[:4]) if dynamic else (ids,):
        torch.testing.assert_close(evaluate(graph, [given])[0], model(given), rtol=1e-9, atol=1e-12)


def test_weights_of_samples() -> None:
    torch.manual_seed(0)
    model, ids, weights = Bag("sum", 3), torch.randint(0, 6, (5, 7)), torch.randn(5, 7).double()
    graph = canonical(model, ids, weights)
    torch.testing.assert_close(evaluate(graph, [ids, weights])[0], model(ids, weights), rtol=1e-9, atol=1e-12)


class Offsets(nn.Module):
    def __init__(self, mode: str, padding: int | None = None, last: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(60, 24, mode=mode, padding_idx=padding, include_last_offset=last)

    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.bag(ids, offsets, weights)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("last", [False, True])
def test_bags_with_offsets_of_their_own(mode: str, padding: int | None, last: bool) -> None:
    torch.manual_seed(0)
    model = Offsets(mode, padding, last)
    ids = torch.randint(0, 60, (12,))
    ids[5:7] = 3
    first, second = ([*begin, 12] if last else begin for begin in ([0, 5, 7], [0, 0, 12]))
    graph = canonical(model, ids, torch.tensor(first))
    assert not any("bag" in name for name in graph.ops())
    for offsets in (first, second, [0, 12, 12] + [12] * last):  # empty bags at both ends
        given = ids, torch.tensor(offsets)
        torch.testing.assert_close(evaluate(graph, given)[0], model(*given), rtol=1e-9, atol=1e-12)


def test_weights_of_samples_in_bags_with_offsets() -> None:
    torch.manual_seed(0)
    model, ids, weights = Offsets("sum", 3), torch.randint(0, 6, (12,)), torch.randn(12).double()
    given = ids, torch.tensor([0, 4, 4]), weights
    torch.testing.assert_close(evaluate(canonical(model, *given), given)[0], model(*given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_file_of_bags_with_offsets_runs(mode: str) -> None:
    """The exporter's own translation of an average ends the process inside ONNX Runtime."""
    torch.manual_seed(0)
    model, given = Offsets(mode, 3).eval(), (torch.randint(0, 60, (12,)), torch.tensor([0, 5, 7]))
    shapes = {0: Dim("indices", min=4, max=64)}, {0: Dim("bags", min=2, max=32)}
    compiled = instar.compile(model, given, target="onnx", dynamic_shapes=shapes)
    for ids, offsets in (given, (torch.randint(0, 60, (20,)), torch.tensor([0, 0, 9, 20]))):
        torch.testing.assert_close(compiled(ids, offsets), model(ids, offsets), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_a_file_with_bags_is_stored_in_few_bits(mode: str) -> None:
    torch.manual_seed(0)
    model, ids = Bag(mode).eval(), torch.randint(0, 60, (5, 7))
    compiled = instar.compile(model, (ids,), target="onnx", formats=["int8:channel"])
    assert [d.chosen.option.format for d in compiled.plan.decisions] == ["int8:channel"]
    torch.testing.assert_close(compiled(ids), model(ids), rtol=0.0, atol=0.05)
