"""Sizes as accelerators store them: channels rounded up to bricks."""

from __future__ import annotations

import math
from dataclasses import replace

from .problem import Problem, Tensor
from .rows import parts

ALIGNMENT_BYTES = 16
"""What is not an image is stored linearly, from an aligned address on."""


def in_bricks(problem: Problem, channels: int) -> Problem:
    """The problem with the sizes of tensors whose channels come in bricks (Ethos-U: NHCWB16).

    Feature maps of four dimensions that are not inputs or outputs of the network take ``h * w * roundup(c, channels)``
    elements, everything else is rounded up to 16 bytes. What only a concatenation reads lies in its place in the
    concatenation from the start, so it takes its share of that one's size.

    Args:
        problem: with sizes as in the network.
        channels: of a brick; 1 changes nothing.
    """
    if channels == 1:
        return problem
    sizes = [_stored_bytes(tensor, channels) for tensor in problem.tensors]
    for operator in reversed(problem.operators):
        whole = problem.tensors[operator.output]
        for part in parts(problem, operator):
            if len(problem.consumers[part]) == 1 and whole.size_bytes:
                sizes[part] = -(-sizes[operator.output] * problem.tensors[part].size_bytes // whole.size_bytes)
    items = (tensor.item_bytes or _item_bytes(tensor) for tensor in problem.tensors)
    tensors = tuple(
        replace(tensor, size_bytes=size, item_bytes=item)
        for tensor, size, item in zip(problem.tensors, sizes, items, strict=True)
    )
    return replace(problem, tensors=tensors)


def _item_bytes(tensor: Tensor) -> int:
    """Of an element, where the size is that of the shape; 0 where it is not known."""
    elements = math.prod(tensor.shape)
    exact = bool(tensor.shape) and elements > 0 and tensor.size_bytes % elements == 0
    return tensor.size_bytes // elements if exact else 0


def _stored_bytes(tensor: Tensor, channels: int) -> int:
    elements = math.prod(tensor.shape)
    if tensor.role == "input":
        return tensor.size_bytes
    if tensor.role == "output" or len(tensor.shape) != 4 or not elements:
        return -(-tensor.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    stored = -(-tensor.shape[3] // channels) * channels
    return -(-tensor.size_bytes * stored // tensor.shape[3])
