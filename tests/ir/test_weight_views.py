"""Weights of every layout, seen as rows and columns: the layer is then a product of the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instar.ir.capture import capture
from instar.ir.layers import OTHER, Layer, find_layers
from instar.ir.weight_views import View, batched_right, columns_first, contraction, left, transposed_convolution

SHAPE = (6, 4, 3, 5)


@pytest.mark.parametrize(
    "view",
    [
        columns_first((6, 4), {}, 0),
        batched_right((6, 4, 3), {}, 0),
        left((6, 4, 3), {}, 0),
        transposed_convolution(SHAPE, {}, 0),
        transposed_convolution(SHAPE, {"groups": 3}, 0),
        contraction((6, 4, 3), {"equation": "btd,hde->bhte"}, 1),
    ],
)
def test_a_view_and_back(view: View | None) -> None:
    assert view is not None
    weight = torch.randn(view.shape)
    assert torch.equal(view.own(view.seen(weight)), weight)
    assert torch.equal(view.own(view.seen(weight).reshape(view.stored[0], -1)), weight)


@pytest.mark.parametrize(
    ("equation", "shape", "stored"),
    [
        ("btd,dhe->bhte", (5, 4, 3), (12, 5)),
        ("btd,hde", (4, 5, 3), (12, 5)),
        ("...d,...de->...e", (4, 5, 3), (12, 5)),
        ("bi,j->bij", (5, 2), None),
        ("b,ij->bij", (5, 2), (5, 2)),
        ("bi,ii->bi", (5, 5), None),
        ("bij,ij->b", (5, 2), None),
    ],
)
def test_letters_of_an_equation(equation: str, shape: tuple[int, ...], stored: tuple[int, ...] | None) -> None:
    view = contraction(shape, {"equation": equation}, 1)
    assert (None if view is None else view.stored) == stored


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(32, 4, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("btd,dhe->bhte", x, self.w)


class Product(nn.Module):
    def __init__(self, *shape: int, mode: str = "right") -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape))
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "left":
            return self.w @ x
        if self.mode == "also read":
            return nn.functional.linear(x, self.w) + self.w.sum()
        if self.mode == "two kinds":
            return nn.functional.linear(x @ self.w, self.w)
        return x @ self.w


CASES = [
    (nn.ConvTranspose1d(32, 24, 4, groups=2), torch.randn(2, 32, 9), ["conv_transpose"], (24, 16 * 4)),
    (nn.ConvTranspose2d(16, 24, 3, 2), torch.randn(2, 16, 5, 5), ["conv_transpose"], (24, 16 * 9)),
    (nn.ConvTranspose3d(16, 8, 3), torch.randn(2, 16, 3, 3, 3), ["conv_transpose"], (8, 16 * 27)),
    (nn.LSTM(32, 16), torch.randn(3, 2, 32), ["recurrent"] * 2, (64, 32)),
    (nn.GRU(64, 16, 2), torch.randn(3, 2, 64), ["recurrent"], (48, 64)),
    (nn.RNN(64, 32), torch.randn(3, 2, 64), ["recurrent"] * 2, (32, 64)),
    (nn.LSTMCell(32, 16), torch.randn(2, 32), ["recurrent"] * 2, (64, 32)),
    (Einsum(), torch.randn(2, 3, 32), ["einsum"], (64, 32)),
    (Product(4, 32, 16), torch.randn(4, 3, 32), ["batched_matmul"], (64, 32)),
    (Product(64, 32, mode="left"), torch.randn(2, 32, 3), ["left_matmul"], (64, 32)),
    (Product(32, 32, mode="also read"), torch.randn(2, 32), ["linear"], (32, 32)),
    (Product(32, 32, mode="two kinds"), torch.randn(2, 32), ["matmul"], (32, 32)),
]


def layers_of(model: nn.Module, *args: Tensor) -> tuple[Layer, ...]:
    return find_layers(capture(model.eval(), args))[0]


@pytest.mark.parametrize(("model", "x", "kinds", "matrix"), CASES)
def test_weights_that_operators_take_whole(
    model: nn.Module, x: Tensor, kinds: list[str], matrix: tuple[int, int]
) -> None:
    layers = [layer for layer in layers_of(model, x) if layer.numel >= 1024]
    assert [layer.kind for layer in layers][: len(kinds)] == kinds
    assert all(layer.only_stored for layer in layers)
    assert layers[0].matrix().shape == matrix
    assert torch.equal(layers[0].as_weight(layers[0].matrix()), layers[0].weight.handle.tensor)


def test_operators_that_read_a_weight_besides_are_a_kind() -> None:
    (layer,) = layers_of(Product(32, 32, mode="also read"), torch.randn(2, 32))
    assert layer.kinds == {"linear", OTHER}


def test_multiplications_are_shared_out_by_the_weights_of_a_node() -> None:
    steps, batch = 3, 2
    first, second = layers_of(nn.LSTM(32, 16), torch.randn(steps, batch, 32))
    assert (first.macs({}), second.macs({})) == (steps * batch * first.numel, steps * batch * second.numel)
    (bilinear,) = layers_of(_Pair(), torch.randn(5, 16), torch.randn(5, 16))
    assert bilinear.macs({}) == 5 * bilinear.numel


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(16, 16, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.pair(x, y)
