"""Float operators around attention, each a kernel of its own in ONNX Runtime, in the namespace ``instar_ort``."""

from __future__ import annotations

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
