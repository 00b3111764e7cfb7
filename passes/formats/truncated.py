"""The leading singular triplets of matrices: exact where they are small, by randomized sketches where they are not."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 512
"""The lesser size up to which a decomposition is always exact."""

FEW = 4
"""One in so many of all triplets, or fewer, are found by a sketch."""

OVERSAMPLING = 16
"""A sketch has twice as many columns as triplets, and so many more."""

POWERS = 4
"""Multiplications with the matrix and its transpose that sharpen a sketch; every one is followed by a QR."""

PIECE = 1024
"""Columns that are held in double precision at a time."""


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """``u [..., m, rank]``, ``s [..., rank]`` falling, ``vh [..., rank, n]`` of real or complex ``[..., m, n]``.

    Large matrices of which few triplets are asked for are sketched (Halko, Martinsson and Tropp, 2011, algorithm 4.4: a
    Gaussian sketch and subspace iteration), with a fixed seed. What the sketch loses against the optimum was below a
    hundredth for normal matrices, whose spectrum falls slowest. Large ones of which many are asked for are decomposed
    through the eigenvectors of the lesser product with themselves, which takes less memory than singular vectors of
    both sides.
    """
    least = min(matrix.shape[-2:])
    if least <= SMALL or (matrix.dim() > 2 and rank * FEW > least):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[..., :rank], s[..., :rank], vh[..., :rank, :]
    if matrix.shape[-2] > matrix.shape[-1]:
        u, s, vh = truncated_svd(matrix.mT, rank)
        return vh.mT, s, u.mT
    basis = _sketch(matrix, rank) if rank * FEW <= least else _eigenvectors(matrix, rank)
    u, s, vh = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return basis @ u[..., :rank], s[..., :rank], vh[..., :rank, :]


def _sketch(matrix: Tensor, rank: int) -> Tensor:
    """Orthonormal columns ``[..., m, 2 * rank + 16]`` close to the leading left singular vectors."""
    generator = torch.Generator(device=matrix.device).manual_seed(0)
    shape = (matrix.shape[-1], min(2 * rank + OVERSAMPLING, matrix.shape[-2]))
    basis = matrix @ torch.randn(shape, generator=generator, dtype=matrix.dtype, device=matrix.device)
    for _ in range(POWERS):
        basis = torch.linalg.qr(basis).Q
        basis = matrix @ torch.linalg.qr(matrix.mT @ basis).Q
    return torch.linalg.qr(basis).Q


def _eigenvectors(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors of a wide matrix, from its product with itself in double precision."""
    product = torch.zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64, device=matrix.device)
    for piece in matrix.split(PIECE, dim=1):
        wide = piece.double()
        product.addmm_(wide, wide.T)
    return torch.linalg.eigh(product).eigenvectors[:, -rank:].flip(1).to(matrix.dtype)
