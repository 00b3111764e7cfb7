"""The check at other sizes: inputs stay valid where their values are positions, and what cannot be compared is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from onnx_case import compiled_and_compared
from torch import Tensor, nn
from torch.export import Dim

from instar.ir.capture import capture
from instar.ir.evaluate import bind_dims
from instar.targets.compare import difference
from instar.targets.onnx.resize import other_sizes, resized_inputs, valid_inputs


class Neighbours(nn.Module):
    """A graph network: the values of ``edges`` are rows of ``x``."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.own(x) + self.other(torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


class Span(nn.Module):
    """A head over the hidden state at given positions, the last one counted from the end."""

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        index = position[:, None, None].expand(-1, 1, hidden.shape[2])
        return hidden.gather(1, index).squeeze(1) * 2


class Bags(nn.Module):
    """Offsets into a dimension, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 4, mode="sum")

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.bag(ids, offsets)


CASES: list[tuple[nn.Module, tuple[Tensor, ...], Any]] = [
    (
        Neighbours(),
        (torch.randn(20, 4), torch.randint(0, 20, (2, 50))),
        ({0: Dim("nodes")}, {1: Dim("edges")}),
    ),
    (
        Span(),
        (torch.randn(3, 20, 4), torch.tensor([19, 3, 7])),
        ({0: Dim("batch"), 1: Dim("length")}, {0: Dim("batch")}),
    ),
    (Bags(), (torch.randint(0, 50, (40,)), torch.tensor([0, 5, 7, 30])), ({0: Dim("n")}, {0: Dim("bags")})),
]


@pytest.mark.parametrize(("model", "args", "shapes"), CASES, ids=lambda v: type(v).__name__)
def test_positions_stay_valid_at_other_sizes(model: nn.Module, args: tuple[Tensor, ...], shapes: Any) -> None:
    artifact = compiled_and_compared(model, args, dynamic_shapes=shapes)
    assert [c.passed for c in artifact.checks] == [True] * 3
    assert not [note for note in artifact.notes if "not compared" in note]


def test_longer_inputs_keep_their_order_and_shorter_ones_their_beginning() -> None:
    graph = capture(nn.Identity(), (torch.arange(4),), dynamic_shapes=({0: Dim("n")},))
    assert resized_inputs(graph, [torch.arange(4)], {"n": 7})[0].tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert resized_inputs(graph, [torch.arange(4)], {"n": 2})[0].tolist() == [0, 1]


class Picky(nn.Module):
    """Positions as floats, which nothing scales."""

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        return x[position.long()]


def test_a_size_without_valid_inputs_is_not_compared_and_said() -> None:
    args = (torch.randn(20, 4), torch.full((3,), 19.0))
    shapes = ({0: Dim("rows")}, {0: Dim("n")})
    graph = capture(Picky(), args, dynamic_shapes=shapes)
    smaller, larger = other_sizes(graph, args)
    assert valid_inputs(graph, args, smaller) is None
    found = valid_inputs(graph, args, larger)
    assert found is not None
    assert bind_dims(graph, found[0]) == larger
    artifact = compiled_and_compared(Picky(), args, dynamic_shapes=shapes)
    assert [note for note in artifact.notes if note.startswith("not compared at n=1, rows=10: the model itself cannot")]


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "output y with 1 of 2 integers that differ; positions of equal"),
        (torch.ones(2), torch.ones(3), r"output y of shape \[3\] instead of \[2\]"),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), "output y with NaN or infinity at other places"),
        (torch.ones(2), torch.ones(2) * 1.5, "a relative error of 0.5"),
        (3, 4, "output 0 is 4 instead of 3"),
    ],
)
def test_a_difference_is_told_in_words(expected: Any, found: Any, words: str) -> None:
    import re

    assert re.match(words, difference([expected], [found], ["y"]))
