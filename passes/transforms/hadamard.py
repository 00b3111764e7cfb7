"""Orthogonal matrices in closed form whose entries are all of about the same size: they spread an outlier evenly."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spreading(size: int) -> Tensor:
    """A symmetric or Hadamard orthogonal matrix float64 ``[size, size]``; its first column is constant.

    For powers of two it is Sylvester's Hadamard matrix over ``sqrt(size)``. Otherwise it is the Kronecker product of
    the discrete Hartley matrix ``(cos + sin)(2 pi i j / m) / sqrt(m)`` of the odd part ``m`` with it, whose entries are
    at most ``sqrt(2)`` times as large.
    """
    odd = size // (size & -size)
    matrix = hartley(odd)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / math.sqrt(2.0)
    return matrix


def hartley(size: int) -> Tensor:
    """The orthogonal discrete Hartley transform, float64 ``[size, size]``; symmetric, its own inverse."""
    index = torch.arange(size, dtype=torch.float64)
    angle = torch.outer(index, index).remainder(size) * (2.0 * math.pi / size)
    return (angle.cos() + angle.sin()) / math.sqrt(size)


def rotation(signs: Tensor, *, keeps_mean: bool) -> Tensor:
    """A random rotation (or reflection) ``R`` float64 ``[size, size]`` from signs.

    Args:
        signs: ``[size]`` of ones and minus ones.
        keeps_mean: every vector ``x R`` has the mean of ``x``, so that subtracting means commutes with it.

    With ``Q`` of :func:`spreading`: ``diag(signs) Q``, or ``Q diag(1, signs[1:]) Q^T``, which maps the vector of ones,
    the first column of ``Q``, to itself.
    """
    matrix, kept = spreading(signs.numel()), signs.double().clone()
    if not keeps_mean:
        return kept.unsqueeze(1) * matrix
    kept[0] = 1.0
    return (matrix * kept) @ matrix.T
