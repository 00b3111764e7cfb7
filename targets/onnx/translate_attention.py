"""How attention is written as the runtime's own kernel: ``Attention`` of opset 23, and rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from onnxscript import opset23

from . import contrib
from .spell import Value, integers, op
from .translate_aten import later

_op23: Any = cast(Any, opset23)
"""The operators of opset 23; their stubs do not describe tracing."""

LEAST_ROWS, MOST_BLOCKS = 32, 16
"""Causal queries of a static length are taken in blocks of at least so many, and in at most so many blocks."""


def attention_translations() -> dict[Any, Callable[..., Any]]:
    """Op overload to translation."""
    ort = torch.ops.instar_ort
    return {
        ort.rotary.default: _rotary,
        ort.attention.default: _attention,
        ort.causal_attention.default: _causal_attention,
    }


def _rotary(x: Value, cos: Value, sin: Value, heads: int) -> Value:
    split = {"num_heads": heads} if heads else {}
    return contrib.RotaryEmbedding(x, integers(0), cos, sin, **split)


def _attention(query: Value, key: Value, value: Value, mask: Value, scale: float, heads: int, key_heads: int) -> Value:
    return _kernel(query, key, value, mask, scale, _split(heads, key_heads))


def _causal_attention(query: Value, key: Value, value: Value, scale: float, heads: int, key_heads: int) -> Value:
    """Blocks of queries with the keys up to their last one; a dynamic length is one block under the kernel's mask."""
    axis = 1 if heads else 2
    length, split = query.shape[axis], _split(heads, key_heads)
    if not isinstance(length, int) or key.shape[axis] != length:
        return _kernel(query, key, value, None, scale, {**split, "is_causal": 1})
    rows = block_rows(length)
    parts: list[Value] = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        block = _positions(query, start, end, axis)
        keys, values = (_positions(x, 0, end, axis) for x in (key, value))
        parts.append(_kernel(block, keys, values, later(query, end - start, end, start), scale, split))
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)


def block_rows(length: int) -> int:
    """Queries in one block: a multiple of the least number, and no more blocks than the most."""
    return max(1, -(-length // (LEAST_ROWS * MOST_BLOCKS))) * LEAST_ROWS


def _positions(x: Value, start: int, end: int, axis: int) -> Value:
    whole = (start, end) == (0, x.shape[axis])
    return x if whole else op.Slice(x, integers(start), integers(end), integers(axis))


def _split(heads: int, key_heads: int) -> dict[str, int]:
    return {"q_num_heads": heads, "kv_num_heads": key_heads} if heads else {}


def _kernel(query: Value, key: Value, value: Value, mask: Value, scale: float, options: dict[str, int]) -> Value:
    """The first of four results; the others are for caches of keys and values, and are not asked for."""
    return _op23.Attention(query, key, value, mask, scale=scale, **options)[0]
