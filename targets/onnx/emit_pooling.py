"""Adaptive average pooling as means and products: torch takes it apart, and a program with it is traced once more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .emit import INT64, Value, constant, integers, op


def adaptive_average(x: Value, output_size: Sequence[int | Value]) -> Value:
    """The mean over equal parts of the last axes, one or two, which overlap where sizes do not divide.

    Output ``i`` of ``n`` is the mean from ``floor(i size / n)`` to ``ceil((i + 1) size / n)``. Down to one it is a
    mean; otherwise a product with a matrix of shares, a constant where sizes are static.
    """
    wanted = tuple(output_size)
    axes = range(-len(wanted), 0)
    if all(n == 1 for n in wanted):
        return op.ReduceMean(x, integers(*axes), keepdims=1)
    pooled = x
    for axis, n in zip(axes, wanted, strict=True):
        if x.shape[axis] != n:
            shares = _shares(x, axis, n)
            turned = axis == -1
            pooled = op.MatMul(pooled, op.Transpose(shares, perm=[1, 0])) if turned else op.MatMul(shares, pooled)
    return pooled


def _shares(x: Value, axis: int, n: int | Value) -> Value:
    """``[n, size of the axis]``: what each number counts in each output."""
    size = x.shape[axis]
    if isinstance(size, int) and isinstance(n, int):
        first, last = np.arange(n) * size // n, -(-np.arange(1, n + 1) * size // n)
        places = np.arange(size)
        inside = (places >= first[:, None]) & (places < last[:, None])
        return constant((inside / inside.sum(axis=1, keepdims=True)).astype(x.dtype.numpy()))
    zero, one = constant(np.int64(0)), constant(np.int64(1))
    length = op.Squeeze(op.Shape(x, start=axis, end=axis + 1) if axis != -1 else op.Shape(x, start=-1))
    count = constant(np.int64(n)) if isinstance(n, int) else op.Squeeze(op.Cast(n, to=INT64))
    numbers = op.Unsqueeze(op.Range(zero, count, one), integers(1))
    first = op.Div(op.Mul(numbers, length), count)
    last = op.Div(op.Sub(op.Add(op.Mul(op.Add(numbers, one), length), count), one), count)
    places = op.Range(zero, length, one)
    inside = op.And(op.GreaterOrEqual(places, first), op.Less(places, last))
    return op.Div(op.CastLike(inside, x), op.CastLike(op.Sub(last, first), x))
