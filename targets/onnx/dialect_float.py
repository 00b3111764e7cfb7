"""Float operators with a fast spelling of their own in ONNX Runtime, in the namespace ``instar_ort``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("instar_ort::rotary", mutates_args=())
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``com.microsoft.RotaryEmbedding``: halves of every head rotated by their position (Su et al., arXiv 2104.09864).

    Args:
        x: ``f32 [batch, heads, length, width]``.
        cos: ``f32 [length, width / 2]``.
        sin: ``f32 [length, width / 2]``.
    """
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


@rotary.register_fake
def _rotary_fake(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    del cos, sin
    return torch.empty_like(x, memory_format=torch.contiguous_format)


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
