"""Recurrent networks as ``LSTM``, ``GRU`` and ``RNN``; what turns torch's weights into theirs is folded at load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, Value]:
    """``instar.recurrent``: one operator a layer."""
    directions = 2 if bidirectional else 1
    each = 4 if biases else 2
    value = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    last: list[list[Value]] = [[] for _ in states]
    for layer in range(layers):
        first = layer * directions
        own = [weights[(first + d) * each : (first + d + 1) * each] for d in range(directions)]
        begin = [op.Slice(s, integers(first), integers(first + directions), integers(0)) for s in states]
        made, *ends = _layer(value, begin, own, kind, directions)
        value = op.Reshape(op.Transpose(made, perm=[0, 2, 1, 3]), integers(0, 0, -1))
        for found, end in zip(last, ends, strict=True):
            found.append(end)
    joined = [found[0] if layers == 1 else op.Concat(*found, axis=0) for found in last]
    stacked = [op.Unsqueeze(state, integers(0)) for state in joined]
    output = op.Transpose(value, perm=[1, 0, 2]) if batch_first else value
    return output, stacked[0] if len(stacked) == 1 else op.Concat(*stacked, axis=0)


def _layer(
    x: Value, states: Sequence[Value], weights: Sequence[Sequence[Value]], kind: str, directions: int
) -> tuple[Value, ...]:
    """``(output [steps, directions, batch, hidden], last state, ...)``."""
    hidden = int(weights[0][1].shape[1])
    order = _rows(kind, hidden)
    both = [_stacked([op.Gather(w[i], order, axis=0) for w in weights]) for i in range(2)]
    bias = None
    if len(weights[0]) == 4:
        pairs = [op.Concat(*(op.Gather(w[i], order, axis=0) for i in (2, 3)), axis=0) for w in weights]
        bias = _stacked(pairs)
    common = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"}
    if kind == "lstm":
        return op.LSTM(x, *both, bias, None, *states, **common)
    if kind == "gru":
        return op.GRU(x, *both, bias, None, *states, linear_before_reset=1, **common)
    names = ["Tanh" if kind == "rnn_tanh" else "Relu"] * directions
    return op.RNN(x, *both, bias, None, *states, activations=names, **common)


def _rows(kind: str, hidden: int) -> Value:
    """The rows of a weight, gate by gate."""
    rows = [np.arange(gate * hidden, (gate + 1) * hidden, dtype=np.int64) for gate in GATES[kind]]
    return constant(np.concatenate(rows))


def _stacked(parts: Sequence[Value]) -> Value:
    """``[directions, ...]``."""
    wide = [op.Unsqueeze(part, integers(0)) for part in parts]
    return wide[0] if len(wide) == 1 else op.Concat(*wide, axis=0)


KERNEL = Kernel("recurrent", "LSTM, GRU and RNN: one operator a layer", (Written("instar.recurrent", _write),))
