"""ATen operators: what they cost, and which of them layers are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.flop_counter import (
    addmm_flop,
    baddbmm_flop,
    bmm_flop,
    conv_flop_count,
    mm_flop,
    sdpa_flop_count,
)

from .facts import Facts, Formula, Shape
from .weight_views import WeightRole, batched_right, columns_first, contraction, left, transposed_convolution


def _linear(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * shapes["weight"][-1]


def _matmul(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * shapes["self"][-1]


def _convolution(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    return _convolved(shapes, result, transposed=bool(arguments.get("transposed", False)))


def _transposed(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return _convolved(shapes, result, transposed=True)


def _convolved(shapes: Mapping[str, Shape], result: Shape, *, transposed: bool) -> int:
    batched = len(shapes["input"]) == len(shapes["weight"])
    image = shapes["input"] if batched else (1, *shapes["input"])
    output = result if batched else (1, *result)
    return int(conv_flop_count(list(image), list(shapes["weight"]), list(output), transposed=transposed))


def _attention(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    """Scores and weighted values over all pairs, also where the mask is causal."""
    del arguments, result
    return int(sdpa_flop_count(*(_four(shapes[name]) for name in ("query", "key", "value"))))


def _four(shape: Shape) -> Shape:
    """(batch, heads, tokens, width) of a shape with any number of leading dimensions."""
    padded = (1,) * (4 - len(shape)) + shape
    return (math.prod(padded[:-3]), *padded[-3:])


def _einsum(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    """Two operations per point of the space of all indices, for each operand beyond the first."""
    terms = str(arguments["equation"]).replace(" ", "").partition("->")[0].split(",")
    if len(terms) < 2:
        return math.prod(result)
    extent: dict[str, int] = {}
    for position, term in enumerate(terms):
        shape = shapes[f"tensors.{position}"]
        hidden = len(shape) - len(term.replace("...", ""))
        letters = term.replace("...", "".join(map(str, range(hidden))))
        for letter, size in zip(letters, shape, strict=True):
            extent[letter] = max(size, extent.get(letter, 1))
    return 2 * math.prod(extent.values()) * (len(terms) - 1)


def _bilinear(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    """Every output channel weighs all products of two features."""
    del arguments
    return 2 * math.prod(result) * math.prod(shapes["weight"][1:])


def recurrent_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    """Every matrix is multiplied once a step and sample; the result is ``[steps, batch, ...]``, or one step's state."""
    del arguments
    matrices = [s for name, s in shapes.items() if len(s) == 2 and name.startswith(("params.", "weights.", "w_"))]
    return 2 * math.prod(result[:-1]) * sum(map(math.prod, matrices))


def _registered(formula: Callable[..., int], *names: str) -> Formula:
    """A formula of ``torch.utils.flop_counter`` that takes the shapes of the op's tensors."""
    return lambda shapes, _arguments, _result: int(formula(*(shapes[name] for name in names)))


_MOVES = """
    clone copy lift_fresh_copy _to_copy alias detach dropout cat concat stack hstack vstack repeat repeat_interleave
    tile pad constant_pad_nd slice_scatter select_scatter index_put scatter where masked_fill roll flip tril triu fill
    arange full full_like zeros zeros_like ones ones_like empty empty_like new_zeros new_ones new_full new_empty
    scalar_tensor eye one_hot
"""
_MAY_COPY = "reshape flatten contiguous to type_as unflatten"
_GATHERS = "index index_select gather take"

_CONV = (WeightRole("conv", "weight", "input"),)
_TRANSPOSED = (WeightRole("conv_transpose", "weight", view=transposed_convolution),)
_BAG = Facts(moves=True, gathers=True, weights=(WeightRole("embedding_bag", "weight"),))
_RECURRENT = Facts(recurrent_flops, weights=(WeightRole("recurrent", "params"),))
_CELL = Facts(recurrent_flops, weights=(WeightRole("recurrent", "w_ih"), WeightRole("recurrent", "w_hh")))


def _product(right: str, left_operand: str = "self") -> tuple[WeightRole, ...]:
    """Of two matrices, or of batches of them; either may be a weight."""
    return (
        WeightRole("matmul", right, left_operand, columns_first),
        WeightRole("batched_matmul", right, view=batched_right),
        WeightRole("left_matmul", left_operand, view=left),
    )


def _each(names: str, facts: Facts) -> dict[str, Facts]:
    return {f"aten.{name}": facts for name in re.findall(r"\w+", names)}


FACTS: dict[str, Facts] = {
    **_each(_MOVES, Facts(moves=True)),
    **_each(_MAY_COPY, Facts(moves=True, may_copy=True)),
    **_each(_GATHERS, Facts(moves=True, gathers=True)),
    **_each("embedding_bag _embedding_bag _embedding_bag_forward_only", _BAG),
    **_each("lstm gru rnn_tanh rnn_relu", _RECURRENT),
    **_each("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", _CELL),
    "aten.embedding": Facts(moves=True, gathers=True, weights=(WeightRole("embedding", "weight", "indices"),)),
    "aten.linear": Facts(_linear, weights=(WeightRole("linear", "weight", "input"),)),
    "aten.matmul": Facts(_matmul, weights=_product("other")),
    "aten.mm": Facts(_registered(mm_flop, "self", "mat2"), weights=_product("mat2")),
    "aten.mv": Facts(_matmul, weights=(WeightRole("left_matmul", "self", view=left),)),
    "aten.dot": Facts(_matmul),
    "aten.bmm": Facts(_registered(bmm_flop, "self", "mat2"), weights=_product("mat2")),
    "aten.addmm": Facts(_registered(addmm_flop, "self", "mat1", "mat2"), weights=_product("mat2", "mat1")[2:]),
    "aten.baddbmm": Facts(
        _registered(baddbmm_flop, "self", "batch1", "batch2"), weights=_product("batch2", "batch1")[1:]
    ),
    "aten.scaled_dot_product_attention": Facts(_attention),
    "aten.einsum": Facts(_einsum, weights=(WeightRole("einsum", "tensors", view=contraction),)),
    "aten.bilinear": Facts(_bilinear, weights=(WeightRole("bilinear", "weight"),)),
    "aten.convolution": Facts(_convolution),
    **{f"aten.conv{rank}d": Facts(_convolution, weights=_CONV) for rank in (1, 2, 3)},
    **{f"aten.conv_transpose{rank}d": Facts(_transposed, weights=_TRANSPOSED) for rank in (1, 2, 3)},
}
"""Operator without its overload -> what is known about it; others compute element by element."""
