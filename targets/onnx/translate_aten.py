"""ATen ops that the exporter spells slowly for ONNX Runtime, in the spelling that was measured to be fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .dialect import SOFTMAX_FLOOR
from .spell import BOOL, FLOAT, Value, constant, integers, op, scalar

_LOWEST = -1e30
"""Stands for the maximum of a row that is masked entirely, so that no infinity is subtracted from another."""


def aten_translations(clamp_softmax: bool = True) -> dict[Any, Callable[..., Any]]:
    """Op overload to translation; these go ahead of the exporter's own."""
    aten = torch.ops.aten
    return {
        aten.scaled_dot_product_attention.default: _attention_with(_clamped if clamp_softmax else _plain),
        aten.rms_norm.default: _rms_norm,
    }


def _attention_with(softmax: Callable[[Value], Value]) -> Callable[..., Value]:
    """Attention whose causal scores enter ``softmax``; fully masked rows give zeros."""

    def _attention(
        query: Value,
        key: Value,
        value: Value,
        attn_mask: Value = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Value:
        del dropout_p
        width = query.shape[-1]
        factor = scale if scale is not None else 1.0 / math.sqrt(int(width))
        rank = len(key.shape)
        causal = _causal(query, key) if is_causal else None
        if enable_gqa:
            heads, groups = int(query.shape[-3]), int(key.shape[-3])
            key, value = (repeat(t, heads // groups, rank - 3) for t in (key, value))
        turned = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
        scores = op.Mul(op.MatMul(query, turned), scalar(factor))
        if causal is not None:
            return op.MatMul(softmax(op.Add(scores, causal)), value)
        if attn_mask is None:
            return op.MatMul(op.Softmax(scores, axis=-1), value)
        scores = op.Add(scores, _additive(attn_mask))
        largest = op.ReduceMax(scores, integers(-1), keepdims=1)
        some = op.Cast(op.Greater(largest, scalar(_LOWEST)), to=FLOAT)
        floor = op.Sub(op.Max(largest, scalar(_LOWEST)), scalar(SOFTMAX_FLOOR))
        weights = op.Softmax(op.Max(scores, floor), axis=-1)
        return op.Mul(op.MatMul(weights, value), some)

    return _attention


def _plain(scores: Value) -> Value:
    return op.Softmax(scores, axis=-1)


def _clamped(scores: Value) -> Value:
    """Masked entries never become denormal numbers."""
    floor = op.Sub(op.ReduceMax(scores, integers(-1), keepdims=1), scalar(SOFTMAX_FLOOR))
    return op.Softmax(op.Max(scores, floor), axis=-1)


def _additive(mask: Value) -> Value:
    """A boolean mask (true: attend) as 0 and -inf; a float mask as it is."""
    if str(mask.dtype) != "BOOL":
        return mask
    return op.Where(mask, scalar(0.0), scalar(-math.inf))


def _causal(query: Value, key: Value) -> Value:
    """``[queries, keys]``: 0 where the key is not after the query, else -inf; a constant where sizes are static."""
    rows, columns = query.shape[-2], key.shape[-2]
    if isinstance(rows, int) and isinstance(columns, int):
        allowed = np.tri(rows, columns, dtype=bool)
        return constant(np.where(allowed, np.float32(0), np.float32(-math.inf)))
    shape = op.Concat(_size(query, -2), _size(key, -2), axis=0)
    future = op.Trilu(op.Expand(constant(np.float32(1)), shape), constant(np.int64(1)), upper=1)
    return op.Where(op.Cast(future, to=BOOL), scalar(-math.inf), scalar(0.0))


def _size(value: Value, axis: int) -> Value:
    return op.Shape(value, start=axis, end=axis + 1) if axis != -1 else op.Shape(value, start=-1)


def repeat(value: Value, times: int, axis: int) -> Value:
    """Every slice along an axis ``times`` times in a row; at most one size behind the axis is dynamic."""
    if times == 1:
        return value
    rank = len(value.shape)
    ones = [1] * (rank + 1)
    ones[axis + 1] = times
    stretched = op.Expand(op.Unsqueeze(value, integers(axis + 1)), integers(*ones))
    behind = [int(size) if isinstance(size, int) else -1 for size in value.shape[axis + 1 :]]
    return op.Reshape(stretched, integers(*[0] * axis, int(value.shape[axis]) * times, *behind))


def _rms_norm(x: Value, normalized_shape: Sequence[int], weight: Value = None, eps: float | None = None) -> Value:
    """The chain that the runtime fuses into SimplifiedLayerNormalization: divide by the root, do not use rsqrt."""
    axes = integers(*range(-len(normalized_shape), 0))
    epsilon = float(np.finfo(np.float32).eps) if eps is None else eps
    mean = op.ReduceMean(op.Pow(x, scalar(2.0)), axes, keepdims=1)
    scaled = op.Div(x, op.Sqrt(op.Add(mean, scalar(epsilon))))
    return scaled if weight is None else op.Mul(scaled, weight)
