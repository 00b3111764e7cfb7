"""ATen ops that the exporter spells slowly for ONNX Runtime, in the spelling that was measured to be fast.

And those that it has no spelling for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from .emit import BOOL, FLOAT, INT32, Value, constant, integers, later, op, scalar
from .emit_pooling import adaptive_average
from .kernels.softmax import SOFTMAX_FLOOR

_LOWEST = float(np.finfo(np.float32).min)
"""Stands for the maximum of a row of infinities, so that none is subtracted from another; masks may hold it."""


def aten_translations(clamp_softmax: bool = True) -> dict[Any, Callable[..., Any]]:
    """Op overload to translation; these go ahead of the exporter's own."""
    aten = torch.ops.aten
    return {
        **unknown_to_torch(),
        aten.scaled_dot_product_attention.default: _attention_with(clamp_softmax),
        aten.rms_norm.default: _rms_norm,
        aten.adaptive_avg_pool1d.default: adaptive_average,
        aten.adaptive_avg_pool2d.default: adaptive_average,
        aten.hardtanh.default: _clip,
        aten.relu6.default: lambda x: _clip(x, 0.0, 6.0),
    }


def unknown_to_torch() -> dict[Any, Callable[..., Any]]:
    """Op overload to translation, for ops that the exporter has none for."""
    aten = torch.ops.aten
    return {aten.sort.stable: _stable_sort, aten.argsort.stable: lambda x, **order: _stable_sort(x, **order)[1]}


def _stable_sort(x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """``TopK`` of all: of equal values it gives the first one first."""
    del stable
    if not x.shape:
        return op.Identity(x), constant(np.int64(0))
    narrow = str(x.dtype) in ("BOOL", "INT8", "UINT8", "INT16")  # for which the runtime has no kernel
    values, places = op.TopK(
        op.Cast(x, to=INT32) if narrow else x, _size(x, dim), axis=dim, largest=int(descending), sorted=1
    )
    return op.Cast(values, to=int(x.dtype)) if narrow else values, places


CAUSAL_ROWS = 64
"""Queries of a static length are taken in blocks of this many, each with the keys up to its last one."""


def _attention_with(clamp: bool) -> Callable[..., Value]:
    """Attention, causal scores clamped or not before the softmax; rows that a runtime mask hides give zeros."""

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
        factor = scale if scale is not None else 1.0 / math.sqrt(int(query.shape[-1]))
        product = _Products(query, key, factor, enable_gqa)
        floor = _number(query, SOFTMAX_FLOOR)
        softmax = partial(_clamped, floor=floor) if clamp else _plain
        if is_causal:
            return _causal_attention(product, query, key, value, softmax)
        scores = product.scores(query, key)
        if attn_mask is None:
            return product.mixed(op.Softmax(scores, axis=-1), value)
        return _masked_attention(product, scores, attn_mask, value, query.dtype)

    return _attention


class _Products:
    """Queries times keys and weights times values; heads that share keys become rows of one matrix."""

    def __init__(self, query: Value, key: Value, factor: float, enable_gqa: bool) -> None:
        self.rank = len(key.shape)
        self.times = int(query.shape[-3]) // int(key.shape[-3]) if enable_gqa else 1
        self.heads = int(query.shape[-3]) if enable_gqa else 0
        self.factor = _number(query, factor)

    def scores(self, query: Value, key: Value) -> Value:
        """``[..., heads, queries, keys]``, scaled."""
        turned = op.Transpose(key, perm=[*range(self.rank - 2), self.rank - 1, self.rank - 2])
        return self._apart(op.Mul(op.MatMul(self._together(query), turned), self.factor))

    def mixed(self, weights: Value, value: Value) -> Value:
        """``[..., heads, queries, width]``."""
        return self._apart(op.MatMul(self._together(weights), value))

    def _together(self, x: Value) -> Value:
        """``[..., heads, queries, n] -> [..., shared heads, times * queries, n]``."""
        if self.times == 1:
            return x
        return op.Reshape(x, integers(*[0] * (self.rank - 3), self.heads // self.times, -1, 0))

    def _apart(self, x: Value) -> Value:
        """The inverse."""
        return x if self.times == 1 else op.Reshape(x, integers(*[0] * (self.rank - 3), self.heads, -1, 0))


def _causal_attention(
    product: _Products, query: Value, key: Value, value: Value, softmax: Callable[[Value], Value]
) -> Value:
    """Where the length is static, no block of queries is multiplied with keys that come after all of it."""
    length = query.shape[-2]
    if not isinstance(length, int) or key.shape[-2] != length:
        return product.mixed(softmax(op.Add(product.scores(query, key), _causal(query, key))), value)
    parts: list[Value] = []
    for start in range(0, length, CAUSAL_ROWS):
        end = min(start + CAUSAL_ROWS, length)
        rows = _positions(query, start, end, length)
        keys, values = (_positions(x, 0, end, length) for x in (key, value))
        scores = op.Add(product.scores(rows, keys), later(query, end - start, end, start))
        parts.append(product.mixed(softmax(scores), values))
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=-2)


def _positions(x: Value, start: int, end: int, length: int) -> Value:
    """``x[..., start:end, :]``."""
    return x if (start, end) == (0, length) else op.Slice(x, integers(start), integers(end), integers(-2))


def _masked_attention(product: _Products, scores: Value, mask: Value, value: Value, dtype: Any) -> Value:
    """Masked in float32, beyond whose range no mask goes; rows that hold infinities alone give zeros."""
    narrow = str(dtype) == "FLOAT16"
    scores = op.Add(op.Cast(scores, to=FLOAT) if narrow else scores, _additive(mask))
    largest = op.ReduceMax(scores, integers(-1), keepdims=1)
    some = op.Cast(op.GreaterOrEqual(largest, scalar(_LOWEST)), to=int(dtype))
    floor = op.Sub(op.Max(largest, scalar(_LOWEST)), scalar(SOFTMAX_FLOOR))
    weights = op.Softmax(op.Max(scores, floor), axis=-1)
    return op.Mul(product.mixed(op.Cast(weights, to=int(dtype)) if narrow else weights, value), some)


def _plain(scores: Value) -> Value:
    return op.Softmax(scores, axis=-1)


def _clamped(scores: Value, floor: Value) -> Value:
    """Masked entries never become denormal numbers."""
    least = op.Sub(op.ReduceMax(scores, integers(-1), keepdims=1), floor)
    return op.Softmax(op.Max(scores, least), axis=-1)


def _additive(mask: Value) -> Value:
    """A boolean mask (true: attend) as 0 and -inf; a float mask as it is."""
    if str(mask.dtype) != "BOOL":
        return op.Cast(mask, to=FLOAT) if str(mask.dtype) == "FLOAT16" else mask
    return op.Where(mask, scalar(0.0), scalar(-math.inf))


def _causal(query: Value, key: Value) -> Value:
    """``[queries, keys]``: 0 where the key is not after the query, else -inf; a constant where sizes are static."""
    rows, columns = query.shape[-2], key.shape[-2]
    if isinstance(rows, int) and isinstance(columns, int):
        return later(query, rows, columns, 0)
    shape = op.Concat(_size(query, -2), _size(key, -2), axis=0)
    future = op.Trilu(op.Expand(constant(np.float32(1)), shape), constant(np.int64(1)), upper=1)
    return op.Where(op.Cast(future, to=BOOL), _number(query, -math.inf), _number(query, 0.0))


def _size(value: Value, axis: int) -> Value:
    return op.Shape(value, start=axis, end=axis + 1) if axis != -1 else op.Shape(value, start=-1)


def _number(like: Value, value: float) -> Value:
    """A constant without dimensions in the type of an input of the op that is translated."""
    return constant(np.asarray(value, dtype=like.dtype.numpy()))


def _clip(x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    return op.Clip(x, _number(x, min_val), _number(x, max_val))


def _rms_norm(x: Value, normalized_shape: Sequence[int], weight: Value = None, eps: float | None = None) -> Value:
    """The chain that the runtime fuses into SimplifiedLayerNormalization: divide by the root, do not use rsqrt."""
    axes = integers(*range(-len(normalized_shape), 0))
    epsilon = float(np.finfo(x.dtype.numpy()).eps) if eps is None else eps
    mean = op.ReduceMean(op.Pow(x, _number(x, 2.0)), axes, keepdims=1)
    scaled = op.Div(x, op.Sqrt(op.Add(mean, _number(x, epsilon))))
    return scaled if weight is None else op.Mul(scaled, weight)
