"""Layers: what counts as one, what does not and why, and their numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instar.ir.capture import capture
from instar.ir.layers import Layer, find_layers, shared_input_groups


def layers_of(model: nn.Module, *args: Tensor) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(capture(model.eval(), args))[0]}


def skipped(model: nn.Module, *args: Tensor) -> dict[str, str]:
    return {s.name: s.reason for s in find_layers(capture(model.eval(), args))[1]}


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.conv = nn.Conv1d(32, 64, 3, groups=2)
        self.product = nn.Parameter(torch.randn(64, 48))
        self.linear = nn.Linear(48, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.conv(self.table(ids).transpose(1, 2)).transpose(1, 2) @ self.product)


def test_every_kind_of_layer() -> None:
    torch.manual_seed(0)
    model = Everything()
    found = layers_of(model, torch.zeros(2, 7, dtype=torch.int64))
    assert [(n, x.kind, x.shape, x.rows, x.columns) for n, x in found.items()] == [
        ("table", "embedding", (50, 32), 50, 32),
        ("conv", "conv", (64, 16, 3), 64, 48),
        ("product", "matmul", (64, 48), 48, 64),
        ("linear", "linear", (32, 48), 32, 48),
    ]
    assert torch.equal(found["product"].matrix(), model.product.detach().t())
    assert torch.equal(found["conv"].matrix(), model.conv.weight.detach().reshape(64, 48))
    tokens = 2 * 5
    assert [x.macs({}) for x in found.values()] == [0, tokens * 64 * 48, tokens * 64 * 48, tokens * 32 * 48]
    assert found["linear"].numel == 32 * 48


def test_a_tied_weight_is_one_layer_with_two_uses() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(40, 32)

        def forward(self, ids: Tensor) -> Tensor:
            return F.linear(self.table(ids), self.table.weight)

    found = layers_of(Tied(), torch.zeros(1, 3, dtype=torch.int64))
    assert [(u.kind) for u in found["table"].uses] == ["embedding", "linear"]
    assert found["table"].kinds == {"embedding", "linear"}


class Uses(nn.Module):
    def __init__(self, mode: str, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.mode = mode
        self.w = nn.Parameter(torch.randn(*shape).to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.mode == "returned":
            return F.linear(x, self.w), self.w
        return F.linear(x, self.w)


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (Uses("linear", 8, 64), 64, r"it has only 512 weights (fewer than 1024)"),
        (Uses("linear", 0, 64), 64, "it has no elements"),
        (Uses("returned", 64, 64), 64, "it is an output of the model"),
    ],
)
def test_weights_that_are_no_layers_say_why(model: nn.Module, size: int, reason: str) -> None:
    assert skipped(model, torch.randn(2, size)) == {"w": reason}


def test_integers_are_no_layers() -> None:
    class Integers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w: Tensor
            self.register_buffer("w", torch.ones(64, 64, dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    assert skipped(Integers(), torch.ones(2, 64, dtype=torch.int64)) == {"w": "its dtype is torch.int64"}


def test_a_weight_multiplied_with_itself_is_no_layer() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(64, 64))

        def forward(self, x: Tensor) -> Tensor:
            return x + F.linear(self.w, self.w)

    assert layers_of(Square(), torch.randn(64, 64)) == {}


def test_layers_that_read_one_value_are_a_group() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.o = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.q(x) + self.k(x))

    found = layers_of(Heads(), torch.randn(2, 32))
    assert shared_input_groups(tuple(found.values())) == (("q", "k"),)
