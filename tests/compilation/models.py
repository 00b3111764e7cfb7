"""The smallest networks that have what real ones have: residuals, batch norm, embeddings, shared weights, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, ...]]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32)).eval()


def mlp_data(batches: int = 3, rows: int = 8) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(rows, 64, generator=generator),) for _ in range(batches)]


class ConvNet(nn.Module):
    """Two convolutions with batch norm around a residual, one depthwise, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.body = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 40)

    def forward(self, image: Tensor) -> Tensor:
        first = torch.relu(self.norm1(self.stem(image)))
        total = torch.relu(first + self.norm2(self.body(first)))
        return self.head(total.mean((2, 3)))


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    net = ConvNet()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 8, 8))
    return net.eval()


def conv_data(batches: int = 3, rows: int = 4) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(rows, 3, 8, 8, generator=generator),) for _ in range(batches)]


class Encoder(nn.Module):
    """One transformer layer with a tied output projection; a mapping with nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(64, 32)
        self.query = nn.Linear(32, 32)
        self.key = nn.Linear(32, 32)
        self.value = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.output = nn.Linear(32, 64, bias=False)
        self.output.weight = self.tokens.weight

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        hidden = self.tokens(ids)
        scores = self.query(hidden) @ self.key(hidden).transpose(1, 2) / 32**0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, float("-inf"))
        hidden = self.norm(hidden + scores.softmax(-1) @ self.value(hidden))
        hidden = self.norm(hidden + self.down(torch.nn.functional.gelu(self.up(hidden))))
        return {"logits": self.output(hidden), "states": (hidden, hidden.mean(1))}


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return Encoder().eval()


def encoder_data(batches: int = 3, rows: int = 2, length: int = 6) -> Batches:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 64, (rows, length), generator=generator) for _ in range(batches)]
    masks = [torch.ones(rows, length, dtype=torch.int64) for _ in range(batches)]
    for mask in masks:
        mask[0, -1] = 0
    return list(zip(ids, masks, strict=True))


def encoder_dims() -> dict[str, Any]:
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", min=2, max=64)
    return {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())
