"""Recurrent networks over any number of steps, a layer each; torch's own operators fix the steps when traced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..aten import recurrent_flops
from ..errors import FormatError
from ..facts import Facts
from ..weight_views import WeightRole
from .activations import fake_quantize_dynamic

FACTS = {"instar.recurrent": Facts(recurrent_flops, weights=(WeightRole("recurrent", "weights"),))}
"""Its matrices are weights, each of a row for every gate of every channel."""

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""What a cell computes, as torch's operators are called."""


@torch.library.custom_op(
    "instar::recurrent",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor[] states, Tensor[] weights, str kind, bool biases, bool bidirectional, "
        "bool rounded) -> (Tensor, Tensor)"
    ),
)
def recurrent(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    kind: str,
    biases: bool,
    bidirectional: bool,
    rounded: bool,
) -> tuple[Tensor, Tensor]:
    """One layer of ``aten.lstm``, ``aten.gru``, ``aten.rnn_tanh`` or ``aten.rnn_relu`` without projections.

    Args:
        x: ``[steps, batch, features]``.
        states: ``[directions, batch, hidden]`` each: two for ``lstm``, one for the others.
        weights: in torch's order: per direction ``w_ih``, ``w_hh`` and, with biases, ``b_ih``, ``b_hh``.
        kind: one of :data:`KINDS`.
        biases: whether there are any.
        bidirectional: whether the layer also runs backwards.
        rounded: whether what the matrices of an ``lstm`` are multiplied with is rounded to 8 bits as by
            ``instar.fake_quantize_dynamic(..., 8, "tensor", False)``: the input as a whole, the states of each
            direction at every step. Rounding errors of a state are in all later ones.

    Returns:
        The output ``[steps, batch, directions * hidden]``, and the last states, stacked:
        ``[number of states, directions, batch, hidden]``.

    Raises:
        FormatError: another kind is to be rounded.
    """
    return _computed(x, states, weights, kind, biases, bidirectional, rounded)


def _computed(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    kind: str,
    biases: bool,
    bidirectional: bool,
    rounded: bool,
) -> tuple[Tensor, Tensor]:
    if rounded:
        return _rounded(x, states, weights, kind, biases)
    operator = getattr(torch.ops.aten, kind).input
    given = states if kind == "lstm" else states[0]
    output, *last = operator(x, given, weights, biases, 1, 0.0, False, bidirectional, False)
    return cast(Tensor, output).contiguous(), torch.stack(cast("list[Tensor]", last))


def _rounded(x: Tensor, states: list[Tensor], weights: list[Tensor], kind: str, biases: bool) -> tuple[Tensor, Tensor]:
    if kind != "lstm":
        raise FormatError(
            f"instar.recurrent: expected an lstm where states are rounded, found {kind}; leave it in float"
        )
    linear, each = torch.nn.functional.linear, 4 if biases else 2
    source = _to_codes(x)

    def product(direction: int, state: Tensor | None) -> Tensor:
        own = weights[direction * each : (direction + 1) * each]
        bias = own[2:] or [None, None]
        return linear(source, own[0], bias[0]) if state is None else linear(_to_codes(state), own[1], bias[1])

    return run_lstm(states, product)


def _to_codes(value: Tensor) -> Tensor:
    return cast(Tensor, fake_quantize_dynamic(value, 8, "tensor", False))


def run_lstm(states: Sequence[Tensor], product: Callable[[int, Tensor | None], Tensor]) -> tuple[Tensor, Tensor]:
    """The steps of an LSTM layer, whatever its products are.

    Args:
        states: hidden and cell ``[directions, batch, hidden]``.
        product: given a direction, what the input ``[steps, batch, 4 hidden]`` adds to its gates, or what a hidden
            state ``[batch, hidden]`` adds to those of its step.

    Returns:
        As :func:`recurrent`.
    """
    outputs: list[Tensor] = []
    last: list[Tensor] = []
    for direction in range(states[0].shape[0]):
        hidden, cell = (state[direction] for state in states)
        made: list[Tensor] = []
        steps = product(direction, None).unbind(0)
        for gates in steps[::-1] if direction else steps:
            taken, kept, new, shown = (gates + product(direction, hidden)).chunk(4, -1)
            cell = kept.sigmoid() * cell + taken.sigmoid() * new.tanh()
            hidden = shown.sigmoid() * cell.tanh()
            made.append(hidden)
        outputs.append(torch.stack(made[::-1] if direction else made))
        last.append(torch.stack([hidden, cell]))
    return torch.cat(outputs, -1), torch.stack(last, 1)


@recurrent.register_fake
def _(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    kind: str,
    biases: bool,
    bidirectional: bool,
    rounded: bool,
) -> tuple[Tensor, Tensor]:
    del weights, kind, biases, rounded
    width = states[0].shape[2] * (2 if bidirectional else 1)
    return x.new_empty(*x.shape[:2], width), x.new_empty(len(states), *states[0].shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    del output
    x, states, weights, *ctx.settings = inputs
    ctx.states = len(states)
    ctx.save_for_backward(x, *states, *weights)


def _gradient(ctx: Any, output: Tensor, last: Tensor) -> tuple[Any, ...]:
    """Through torch's own operator, computed again."""
    with torch.enable_grad():
        tensors = [t.detach().requires_grad_(True) for t in ctx.saved_tensors]
        states = ctx.states
        made = _computed(tensors[0], tensors[1 : 1 + states], tensors[1 + states :], *ctx.settings)
        found = torch.autograd.grad(made, tensors, (output, last))
    return found[0], list(found[1 : 1 + states]), list(found[1 + states :]), *[None] * len(ctx.settings)


recurrent.register_autograd(_gradient, setup_context=_remember)
