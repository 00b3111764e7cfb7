"""Recurrent networks over any number of steps: torch's own operators fix it where they are traced."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..aten import recurrent_flops
from ..facts import Facts
from ..weight_views import WeightRole

FACTS = {"instar.recurrent": Facts(recurrent_flops, weights=(WeightRole("recurrent", "weights"),))}
"""Its matrices are weights, each of a row for every gate of every channel."""

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""What a cell computes, as torch's operators are called."""


@torch.library.custom_op(
    "instar::recurrent",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor[] states, Tensor[] weights, str kind, bool biases, int layers, bool bidirectional, "
        "bool batch_first) -> (Tensor, Tensor)"
    ),
)
def recurrent(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    kind: str,
    biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """``aten.lstm``, ``aten.gru``, ``aten.rnn_tanh`` or ``aten.rnn_relu`` without dropout and projections.

    Args:
        x: ``[steps, batch, features]``, or ``[batch, steps, features]``.
        states: ``[layers * directions, batch, hidden]`` each: two for ``lstm``, one for the others.
        weights: in torch's order: per layer and direction ``w_ih``, ``w_hh`` and, with biases, ``b_ih``, ``b_hh``.
        kind: one of :data:`KINDS`.
        biases: whether there are any.
        layers: number of layers.
        bidirectional: whether every layer also runs backwards.
        batch_first: whether ``x`` and the output begin with the batch.

    Returns:
        The output ``[steps, batch, directions * hidden]`` (or batch first), and the last states, stacked:
        ``[number of states, layers * directions, batch, hidden]``.
    """
    return _computed(x, states, weights, kind, biases, layers, bidirectional, batch_first)


def _computed(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    kind: str,
    biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    operator = getattr(torch.ops.aten, kind).input
    given = states if kind == "lstm" else states[0]
    output, *last = operator(x, given, weights, biases, layers, 0.0, False, bidirectional, batch_first)
    return cast(Tensor, output).contiguous(), torch.stack(cast("list[Tensor]", last))


@recurrent.register_fake
def _(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    kind: str,
    biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    del weights, kind, biases, layers, batch_first
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
