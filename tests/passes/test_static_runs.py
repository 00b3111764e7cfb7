"""Which values lie between two layers that may compute between integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import instar
from instar.ir.layers import CONV, find_layers
from instar.passes.static_runs import Borders, borders


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


def found(module: nn.Module, *inputs: Tensor) -> Borders:
    graph = instar.optimize(module.eval(), inputs)
    return borders(graph, [layer for layer in find_layers(graph, 0)[0] if layer.kinds == {CONV}])


def test_every_value_has_a_source_and_its_readers() -> None:
    result = found(Branches(), torch.randn(1, 3, 8, 8))
    first, second = (total.name for total in result.totals)
    assert [(b.source, set(b.readers), b.floats) for b in result.values if b.source not in ("shortcut", "second")] == [
        ("", {"stem"}, False),  # the input
        ("stem", set(), True),  # a pool has steps of its own
        ("", {"shortcut", "first"}, False),  # converted once for both
        ("first", {"second"}, False),
        (first, {"third", second}, False),
        ("third", {second}, False),
        (second, set(), True),
        ("", {"last"}, False),  # silu is computed in float, whatever is before
        ("last", set(), True),
    ]
    assert {b.source: b.readers for b in result.values if b.source in ("shortcut", "second")} == {
        "shortcut": (first,), "second": (first,),
    }  # fmt: skip
    assert [(len(total.parts), total.exact) for total in result.totals] == [(2, True), (2, True)]
    shapes = [tuple(b.stored.tensor_type.shape) for b in result.values]
    assert shapes[:3] == [(1, 3, 8, 8), (1, 32, 8, 8), (1, 32, 4, 4)]
    assert len({b.name for b in result.values} | {first, second}) == len(result.values) + 2


def test_a_sum_with_something_in_float_is_one() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.next = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.next(self.conv(x) + torch.tanh(x))

    result = found(Beside(), torch.randn(1, 8, 6, 6))
    (total,) = result.totals
    assert (len(total.parts), total.exact) == (1, False)
    assert [(b.source, b.readers, b.floats) for b in result.values] == [
        ("", ("conv",), True),
        ("conv", (total.name,), False),
        ("", ("next",), False),
        ("next", (), True),
    ]


def test_a_layer_that_is_used_twice_follows_itself() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    result = found(nn.Sequential(conv, nn.ReLU(), conv), torch.randn(1, 8, 6, 6))
    assert [(b.source, b.readers, b.floats) for b in result.values] == [
        ("", ("0",), False),
        ("0", ("0",), False),
        ("0", (), True),
    ]


def test_without_such_layers_there_is_no_border() -> None:
    assert found(nn.Linear(64, 64), torch.randn(2, 64)) == Borders((), ())
