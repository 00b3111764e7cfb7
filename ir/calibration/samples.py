"""Which axis of a value tells the samples of a batch apart: found by differentiating, not by names of dimensions.

A random projection of the outputs of a whole batch has cross terms between its samples. They are zero on average where
samples do not influence each other, so that leaving them out keeps the expectation and takes away their noise: a batch
of 64 rows is then worth 64 batches. Whether samples influence each other is tried: the outputs of every second sample
are projected, and a value is split along an axis only if nothing at all arrives at the other samples, for both halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def batch_size(inputs: Sequence[Tensor], outputs: Sequence[Any]) -> int:
    """Samples of a batch: the largest leading size of an input that divides the leading sizes of all floating outputs.

    1 where there is none.
    """
    sizes = [v.shape[0] if v.dim() else 1 for v in outputs if isinstance(v, Tensor) and v.is_floating_point()]
    given = {v.shape[0] for v in inputs if v.dim() and v.shape[0] > 0}
    return max((size for size in given if sizes and all(n % size == 0 for n in sizes)), default=1)


def every_second(samples: int, first: int) -> Tensor:
    """Bool ``[samples]``: true from ``first`` on in steps of two."""
    return torch.arange(samples) % 2 == first % 2


def sample_mask(value: Tensor, chosen: Tensor) -> Tensor:
    """Zeros and ones that broadcast over ``value``: ones where its leading blocks belong to the chosen samples."""
    blocks = chosen.to(value.dtype).repeat_interleave(value.shape[0] // chosen.numel())
    return blocks.reshape(-1, *[1] * (value.dim() - 1))


def separable(gradient: Tensor, chosen: Tensor) -> frozenset[int]:
    """The axes along which nothing arrived at the samples that were not ``chosen``, bool ``[samples]``.

    The first axis may be a multiple of the samples (a sample is a run of it); the last one, of channels, is none.
    """
    samples = chosen.numel()
    found: set[int] = set()
    for axis in range(gradient.dim() - 1):
        if gradient.shape[axis] == samples or (axis == 0 and gradient.shape[0] % samples == 0):
            blocks = gradient.movedim(axis, 0).reshape(samples, -1)
            if not bool((blocks[~chosen] != 0).any()):
                found.add(axis)
    return frozenset(found)
