"""Float operators with a fast spelling of their own in ONNX Runtime, in the namespace ``instar_ort``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("instar_ort::rotary", mutates_args=())
def rotary(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """``com.microsoft.RotaryEmbedding``: halves of every head rotated by their position (Su et al., arXiv 2104.09864).

    Args:
        x: ``f32 [batch, heads, length, width]``, or ``[batch, length, heads * width]`` where ``heads`` is given.
        cos: ``f32 [length, width / 2]``.
        sin: ``f32 [length, width / 2]``.
        heads: 0 where they have an axis of their own.
    """
    left, right = _heads_first(x, heads).chunk(2, dim=-1)
    return _tokens_first(torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1), heads)


@rotary.register_fake
def _rotary_fake(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    del cos, sin, heads
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """``[batch, tokens, heads * width] -> [batch, heads, tokens, width]``, and as it is for 0 heads."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2) if heads else x


def _tokens_first(x: Tensor, heads: int) -> Tensor:
    """The inverse, in memory of its own."""
    return (x.transpose(1, 2).flatten(2) if heads else x).clone(memory_format=torch.contiguous_format)


@torch.library.custom_op("instar_ort::attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, heads: int, key_heads: int
) -> Tensor:
    """``Attention`` of opset 23: ``softmax(query @ key^T * scale + mask) @ value``.

    Args:
        query: ``f32 [batch, heads, queries, width]``, or ``[batch, queries, heads * width]`` where ``heads`` is given.
        key: alike, with as many heads or a divisor of them.
        value: alike, its width may differ.
        mask: ``f32 [batch or 1, heads or 1, queries, keys]``, finite.
        scale: above 0.
        heads: of queries, 0 where they have an axis of their own.
        key_heads: of keys and values, 0 likewise.
    """
    return _attention(query, key, value, mask, scale, heads, key_heads, False)


@torch.library.custom_op("instar_ort::causal_attention", mutates_args=())
def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, heads: int, key_heads: int) -> Tensor:
    """:func:`attention` in which no query sees a later key, as ``Attention`` on blocks of queries and what they see."""
    return _attention(query, key, value, None, scale, heads, key_heads, True)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    heads: int,
    key_heads: int,
    causal: bool,
) -> Tensor:
    query = _heads_first(query, heads)
    key, value = (_heads_first(t, key_heads) for t in (key, value))
    shared = query.shape[1] != key.shape[1]
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=shared
    )
    return _tokens_first(found, heads)


@attention.register_fake
def _attention_fake(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, heads: int, key_heads: int
) -> Tensor:
    del key, mask, scale
    return _attention_like(query, value, heads, key_heads)


@causal_attention.register_fake
def _causal_attention_fake(
    query: Tensor, key: Tensor, value: Tensor, scale: float, heads: int, key_heads: int
) -> Tensor:
    del key, scale
    return _attention_like(query, value, heads, key_heads)


def _attention_like(query: Tensor, value: Tensor, heads: int, key_heads: int) -> Tensor:
    width = value.shape[-1] // key_heads * heads if heads else value.shape[-1]
    return query.new_empty((*query.shape[:-1], width))


@torch.library.custom_op("instar_ort::reshape", mutates_args=())
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``Reshape`` with a constant shape: 0 copies the size of that axis, one -1 takes what is left."""
    return x.reshape(_sizes(x, shape)).clone()


@reshape.register_fake
def _reshape_fake(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.new_empty(x.reshape(_sizes(x, shape)).shape)


def _sizes(x: Tensor, shape: Sequence[int]) -> list[int]:
    return [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]


@torch.library.custom_op("instar_ort::repeat", mutates_args=())
def repeat(x: Tensor, times: int, axis: int) -> Tensor:
    """Every slice along an axis ``times`` times in a row, as heads of keys that several queries share."""
    return x.repeat_interleave(times, axis).clone()


@repeat.register_fake
def _repeat_fake(x: Tensor, times: int, axis: int) -> Tensor:
    return x.new_empty((*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :]))
