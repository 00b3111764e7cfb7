"""A recurrent layer in integers: quantized inputs and states times signed weights, as the fast kernel computes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..aten import recurrent_flops
from ..facts import Facts
from .integers import quantize_dynamic
from .products import integer_products
from .recurrent import run_lstm

FACTS = {"instar.lstm_int8": Facts(recurrent_flops)}
"""What its products cost."""


@torch.library.custom_op(
    "instar::lstm_int8",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor[] states, Tensor[] weights, Tensor[] scales, Tensor[] biases, bool unsigned) "
        "-> (Tensor, Tensor)"
    ),
)
def lstm_int8(
    x: Tensor, states: list[Tensor], weights: list[Tensor], scales: list[Tensor], biases: list[Tensor], unsigned: bool
) -> tuple[Tensor, Tensor]:
    """``DynamicQuantizeLSTM``: a layer of ``instar.recurrent`` with rounded states, its products in exact integers.

    The input is quantized as a whole, as by ``instar.quantize_dynamic``, the states of each direction at every step.

    Args:
        x: ``f32 [steps, batch, features]``.
        states: hidden and cell ``f32 [directions, batch, hidden]``.
        weights: per direction ``int8 [features, 4 hidden]`` and ``int8 [hidden, 4 hidden]``, torch's gates.
        scales: a step for every column of these, ``f32 [4 hidden]`` each.
        biases: per direction two of ``f32 [4 hidden]``, or none at all.
        unsigned: whether kernels multiply with ``weights + 128`` as unsigned bytes, whose products saturate nowhere;
            changes no number.

    Returns:
        As ``instar.recurrent``.
    """
    del unsigned
    source = quantize_dynamic(x)

    def product(direction: int, state: Tensor | None) -> Tensor:
        number = 2 * direction + (state is not None)
        codes, scale, zero = source if state is None else quantize_dynamic(state)
        gates = integer_products(codes, zero, weights[number], None) * (scale * scales[number])
        return gates + biases[number] if biases else gates

    return run_lstm(states, product)


@lstm_int8.register_fake
def _lstm_int8_fake(
    x: Tensor, states: list[Tensor], weights: list[Tensor], scales: list[Tensor], biases: list[Tensor], unsigned: bool
) -> tuple[Tensor, Tensor]:
    del weights, scales, biases, unsigned
    directions, _, hidden = states[0].shape
    return x.new_empty(*x.shape[:2], directions * hidden), x.new_empty(len(states), *states[0].shape)
