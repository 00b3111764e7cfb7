"""Recurrent networks as ``LSTM``, ``GRU`` and ``RNN``; what turns torch's weights into theirs is folded at load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.errors import LoweringError
from ..emit import Value, constant, integers, op
from .base import Kernel, Written

GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
"""Torch's gates (lstm: input, forget, cell, output; gru: reset, update, new) in the order of ONNX."""


def _write(
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    kind: str,
    biases: bool,
    bidirectional: bool,
    rounded: bool,
) -> tuple[Value, Value]:
    """``instar.recurrent``."""
    if rounded:
        raise LoweringError(
            "instar.recurrent with rounded states: expected matrices that a plan stores for kernel int8_lstm, found "
            "others; plan all matrices of the layer for it, or none"
        )
    each = 4 if biases else 2
    own = [weights[first : first + each] for first in range(0, len(weights), each)]
    hidden = int(weights[1].shape[1])
    order = gate_order(kind, hidden)
    both = [stacked([op.Gather(w[i], order, axis=0) for w in own]) for i in range(2)]
    bias = stacked([both_biases(w[2:], order) for w in own]) if biases else None
    common = {"hidden_size": hidden, "direction": direction(bidirectional)}
    if kind == "lstm":
        return finished(*op.LSTM(x, *both, bias, None, *states, **common))
    if kind == "gru":
        return finished(*op.GRU(x, *both, bias, None, *states, linear_before_reset=1, **common))
    names = ["Tanh" if kind == "rnn_tanh" else "Relu"] * len(own)
    return finished(*op.RNN(x, *both, bias, None, *states, activations=names, **common))


def direction(bidirectional: bool) -> str:
    """The attribute of the operators."""
    return "bidirectional" if bidirectional else "forward"


def finished(made: Value, *last: Value) -> tuple[Value, Value]:
    """``[steps, directions, batch, hidden]`` and last states as ``instar.recurrent`` gives them."""
    output = op.Reshape(op.Transpose(made, perm=[0, 2, 1, 3]), integers(0, 0, -1))
    ends = [op.Unsqueeze(state, integers(0)) for state in last]
    return output, ends[0] if len(ends) == 1 else op.Concat(*ends, axis=0)


def gate_order(kind: str, hidden: int) -> Value:
    """The rows of a weight, gate by gate."""
    rows = [np.arange(gate * hidden, (gate + 1) * hidden, dtype=np.int64) for gate in GATES[kind]]
    return constant(np.concatenate(rows))


def both_biases(pair: Sequence[Value], order: Value) -> Value:
    """``b_ih`` and ``b_hh`` of a direction as one vector."""
    return op.Concat(*(op.Gather(bias, order, axis=0) for bias in pair), axis=0)


def stacked(parts: Sequence[Value]) -> Value:
    """``[directions, ...]``."""
    wide = [op.Unsqueeze(part, integers(0)) for part in parts]
    return wide[0] if len(wide) == 1 else op.Concat(*wide, axis=0)


KERNEL = Kernel("recurrent", "LSTM, GRU and RNN: one operator a layer", (Written("instar.recurrent", _write),))
