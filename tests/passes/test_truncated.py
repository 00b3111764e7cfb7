"""Leading singular triplets: exact where matrices are small, and within a hundredth where they are sketched."""

from __future__ import annotations

import pytest
import torch

from instar.passes.formats.truncated import SMALL, truncated_svd


def falling(rows: int, columns: int, decay: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.logspace(0, -decay, columns)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (3, 20, 30)])
def test_small_ones_are_exact(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vh = truncated_svd(matrix, 7)
    assert torch.allclose(s, torch.linalg.svdvals(matrix)[..., :7], rtol=1e-12)
    lost = (matrix - (u * s.unsqueeze(-2)) @ vh).square().sum(dim=(-1, -2))
    assert torch.allclose(lost, torch.linalg.svdvals(matrix)[..., 7:].square().sum(dim=-1), rtol=1e-10)


@pytest.mark.parametrize("rank", [24, 400])
@pytest.mark.parametrize(("rows", "columns"), [(SMALL + 40, SMALL + 200), (SMALL + 200, SMALL + 40)])
def test_large_ones_are_nearly_so(rows: int, columns: int, rank: int) -> None:
    """A sketch of few triplets, eigenvectors for many; a spectrum as flat as a normal matrix has is the worst."""
    for decay, slack in ((0.0, 1e-2), (2.0, 1e-3)):
        matrix = falling(rows, columns, decay)
        u, s, vh = truncated_svd(matrix, rank)
        assert s.shape == (rank,)
        assert torch.allclose(u.mT @ u, torch.eye(rank), atol=1e-4)
        values = torch.linalg.svdvals(matrix)
        lost = float((matrix - (u * s) @ vh).square().sum())
        assert lost <= float(values[rank:].square().sum()) * (1.0 + slack)
        assert torch.equal(s, truncated_svd(matrix, rank)[1])
