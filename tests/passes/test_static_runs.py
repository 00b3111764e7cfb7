"""Which values lie between two layers that may compute between integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import instar
from instar.ir.layers import CONV, find_layers
from instar.passes.static_runs import Border, borders


class Branches(nn.Module):
    """A stem with pooling, a residual block with a convolution in its shortcut, one without, an activation in float."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first, self.second = nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1)
        self.shortcut, self.third = nn.Conv2d(32, 48, 1), nn.Conv2d(48, 48, 3, padding=1)
        self.last = nn.Conv2d(48, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 2)
        x = torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))
        x = torch.relu(x + self.third(x))
        return torch.relu(self.last(nn.functional.silu(x))).mean((2, 3))


def found(module: nn.Module, *inputs: Tensor) -> list[Border]:
    graph = instar.optimize(module.eval(), inputs)
    return list(borders(graph, [layer for layer in find_layers(graph, 0)[0] if layer.kinds == {CONV}]))


def test_every_value_between_two_layers_belongs_to_the_one_before() -> None:
    result = found(Branches(), torch.randn(1, 3, 8, 8))
    assert [(b.source, b.readers) for b in result] == [
        ("", ("stem",)),  # the input
        ("", ("shortcut", "first")),  # a pool has steps of its own; converted once for both
        ("first", ("second",)),
        ("second", ("third",)),  # a sum belongs to the last of its branches
        ("", ("last",)),  # silu is computed in float, whatever is before
        ("stem", ()),
        ("third", ()),
        ("last", ()),
    ]
    assert [tuple(b.value.tensor_type.shape) for b in result][:3] == [(1, 3, 8, 8), (1, 32, 4, 4), (1, 48, 4, 4)]
    assert result[-1].value.op.name == "aten.relu.default"


def test_a_layer_that_is_used_twice_follows_itself() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    result = found(nn.Sequential(conv, nn.ReLU(), conv), torch.randn(1, 8, 6, 6))
    assert [(b.source, b.readers) for b in result] == [("", ("0",)), ("0", ("0",)), ("0", ())]


def test_without_such_layers_there_is_no_border() -> None:
    assert found(nn.Linear(64, 64), torch.randn(2, 64)) == []
