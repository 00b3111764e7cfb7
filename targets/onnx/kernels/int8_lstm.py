"""Kernels ``int8_lstm`` and ``int8_lstm_u8``: LSTM layers that round inputs and states to 8 bits, integer products.

The runtime multiplies unsigned codes with signed or unsigned weights. The signed product is the faster one everywhere,
by far where a processor has VNNI; without, it saturates where weights use all of their 8 bits, and the unsigned product
does not and still beats float. So wide weights are offered as unsigned bytes there, and signed elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch

from ....ir.graph import Node
from ....ir.layers import MIN_ELEMENTS, Layer
from ....ir.options import Activation, Arithmetic, Option
from ....passes.formats import Format, IntFormat
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ...base import Candidates
from .. import contrib
from ..emit import INT32, UINT8, Value, constant, op
from ..runtimes.needs import Requirement
from ..runtimes.table import CONTRIB
from .base import Kernel, Offers, Written
from .offers import RECURRENT, saturates
from .recurrent import both_biases, direction, finished, gate_order, stacked
from .weights import INT8_WEIGHT, copied, expand_int8, row_zeros, stored_weight

NAME, UNSIGNED = "int8_lstm", "int8_lstm_u8"
OPERATOR = "instar.recurrent.default"
ACTIVATION = Activation.dynamic("tensor")


# ---------------------------------------------------------------------------------------------------- offers
def _offers(kernel: str) -> Offers:
    def offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
        if not isinstance(chosen, IntFormat) or layer.kinds != {RECURRENT} or ACTIVATION not in allowed:
            return Candidates(())
        reason = _refusal(layer, chosen)
        if reason and kernel == NAME:
            return Candidates((), (f"{chosen.spelling}: {reason}; it is stored small and runs in float",))
        if reason or bool(saturates(chosen)) is (kernel == NAME):
            return Candidates(())
        return Candidates((Option(chosen.spelling, encoder, ACTIVATION, kernel, Arithmetic.INT8_ROWS),))

    return offers


def _refusal(layer: Layer, chosen: IntFormat) -> str:
    for use in layer.uses:
        node = use.node
        name = str(node.argument("kind")) if node.op.name == OPERATOR else node.op.short_name
        if name != "lstm":
            return f"ONNX Runtime has no integer kernel for {name}, only for whole layers of LSTM"
        if node.argument("x").tensor_type.dtype != torch.float32:
            return f"DynamicQuantizeLSTM takes float32, this layer computes in {node.argument('x').tensor_type.dtype}"
        if any(not matrix.is_constant for matrix in _matrices(node)):
            return "DynamicQuantizeLSTM takes matrices that are known, one of this layer's is computed"
        small = [matrix for matrix in _matrices(node) if matrix.tensor_type.numel() < MIN_ELEMENTS]
        if small:
            return (
                f"DynamicQuantizeLSTM takes both matrices in integers, {small[0].handle.name} of fewer than "
                f"{MIN_ELEMENTS} weights stays in float"
            )
    if chosen.asymmetric and (chosen.group is None or chosen.group >= layer.columns):
        return "DynamicQuantizeLSTM knows no zero points of weights"
    return ""


def _matrices(node: Node) -> list[Node]:
    """``w_ih`` and ``w_hh`` of each direction."""
    return [weight for number, weight in enumerate(node.argument("weights")) if number % _each(node) < 2]


def _each(node: Node) -> int:
    """Weights of a direction."""
    return 4 if node.argument("biases") else 2


# ---------------------------------------------------------------------------------------------------- rule
@rule(OPERATOR)
def int8_lstm(node: Node, match: RewriteContext) -> Outcome:
    """``recurrent(x, states, stored weights, rounded)`` -> integer products of codes."""
    return _integers(node, match, NAME)


@rule(OPERATOR)
def int8_lstm_u8(node: Node, match: RewriteContext) -> Outcome:
    """The same with unsigned weights."""
    return _integers(node, match, UNSIGNED)


def _integers(node: Node, match: RewriteContext, kernel: str) -> Outcome:
    stored = [stored_weight(matrix, kernel) for matrix in _matrices(node)] if node.argument("rounded") else []
    weights = [weight for weight in stored if weight is not None]
    if not weights:
        return None
    if len(weights) < len(stored):
        return refuse("a matrix of the layer is not stored as integers for {}", kernel)
    expanded = [expand_int8(match, weight, transpose=True) for weight in weights]
    if any(row_zeros(weight, zero) is not None for weight, (_, _, zero) in zip(weights, expanded, strict=True)):
        return refuse("a matrix of the layer has zero points, which DynamicQuantizeLSTM does not take")
    each = _each(node)
    return match.node(
        "instar.lstm_int8",
        node.argument("x"),
        node.argument("states"),
        tuple(matrix for matrix, _, _ in expanded),
        tuple(scale for _, scale, _ in expanded),
        tuple(bias for number, bias in enumerate(node.argument("weights")) if number % each >= 2),
        kernel == UNSIGNED,
    )


# ---------------------------------------------------------------------------------------------------- in ONNX
def _write(
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    scales: Sequence[Value],
    biases: Sequence[Value],
    unsigned: bool,
) -> Any:
    hidden = int(states[0].shape[2])
    order = gate_order("lstm", hidden)
    operands: list[Value] = []
    for first in range(2):
        number = sum(node.op_type in ("Gather", "Slice") for node in weights[first].consumers())
        own = [copied(w, number, (0, 1)) if number else w for w in weights[first::2]]  # see ``own_operands``
        matrix = stacked([op.Gather(w, order, axis=1) for w in own])
        steps = stacked([op.Gather(s, order, axis=0) for s in scales[first::2]])
        zeros = onnx.numpy_helper.from_array(np.full(1, 128, np.uint8) if unsigned else np.zeros(1, np.int8))
        zero = op.ConstantOfShape(op.Shape(steps), value=zeros)
        zero = copied(zero, number, (0, 1)) if number else zero
        operands += [_unsigned(matrix) if unsigned else matrix, steps, zero]
    pairs = [biases[first : first + 2] for first in range(0, len(biases), 2)]
    bias = stacked([both_biases(pair, order) for pair in pairs]) if pairs else None
    made: Any = contrib.DynamicQuantizeLSTM(
        x, operands[0], operands[3], bias, None, *states, None, *operands[1:3], *operands[4:],
        hidden_size=hidden, direction=direction(len(weights) == 4),
    )  # fmt: skip
    return finished(*made)


def _unsigned(matrix: Value) -> Value:
    return op.Cast(op.Add(op.Cast(matrix, to=INT32), constant(np.int32(128))), to=UINT8)


REQUIRED = Requirement("DynamicQuantizeLSTM", CONTRIB, types=(("T", "float"), ("T2", "int8")), inputs=12)
"""The operator of the runtime's own that this kernel emits."""

WRITTEN = (Written("instar.lstm_int8", _write, "DynamicQuantizeLSTM", requires=(REQUIRED,)), INT8_WEIGHT)

KERNEL = Kernel(
    NAME,
    "DynamicQuantizeLSTM: int8 weights (expanded at load from few bits), int8 inputs and states, rounded at every step",
    WRITTEN,
    (int8_lstm,),
    _offers(NAME),
)

WITHOUT_SATURATION = Kernel(
    UNSIGNED,
    "the same with unsigned weights, where signed products of 8-bit weights saturate",
    WRITTEN,
    (int8_lstm_u8,),
    _offers(UNSIGNED),
)
