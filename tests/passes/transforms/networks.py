"""Small networks with every way a channel can go: shared norms, packed and grouped attention, gates, convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIM, HEADS = 32, 4


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters, norms among them, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            parameter += 0.5 if parameter.dim() == 1 else 0.0
    return model.eval()


class RMSNorm(nn.Module):
    """As models write it out."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotated(x: Tensor) -> Tensor:
    """Rotary positions of ``[n, heads, tokens, 8]``: pairs ``(i, i + 4)`` are turned by the token's angle."""
    angle = torch.arange(x.shape[2], dtype=x.dtype).unsqueeze(1) * torch.logspace(0, -2, 4, dtype=x.dtype)
    cos, sin = (torch.cat([f(angle)] * 2, dim=-1) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., 4:], x[..., :4]], dim=-1) * sin


class Grouped(nn.Module):
    """A decoder block: separate projections, two heads of keys and values for four of queries, a gated MLP."""

    def __init__(self, *, fused: bool = False, rotary: bool = False) -> None:
        super().__init__()
        self.fused, self.rotary = fused, rotary
        self.embed = nn.Embedding(40, DIM)
        self.norm1, self.norm2, self.norm = RMSNorm(), RMSNorm(), RMSNorm()
        self.q_proj, self.o_proj = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.k_proj, self.v_proj = nn.Linear(DIM, DIM // 2, bias=False), nn.Linear(DIM, DIM // 2, bias=False)
        self.gate_proj, self.up_proj = nn.Linear(DIM, 48, bias=False), nn.Linear(DIM, 48, bias=False)
        self.down_proj = nn.Linear(48, DIM, bias=False)
        self.head = nn.Linear(DIM, 40, bias=False)

    def attend(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, -1, 8).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (rotated(q), rotated(k)) if self.rotary else (q, k)
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
            mixed = torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1) @ v
        return self.o_proj(mixed.transpose(1, 2).reshape(n, t, DIM))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.attend(self.norm1(x))
        y = self.norm2(x)
        x = x + self.down_proj(nn.functional.silu(self.gate_proj(y)) * self.up_proj(y))
        return self.head(self.norm(x))


class Packed(nn.Module):
    """A vision block: a class token, one projection for queries, keys and values, GELU, a head on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, DIM, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.place = nn.Parameter(torch.zeros(1, 5, DIM))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.fc1, self.fc2 = nn.Linear(DIM, 64), nn.Linear(64, DIM)
        self.head = nn.Linear(DIM, 32)

    def attend(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, HEADS, 8).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(qkv[0] @ qkv[1].transpose(-2, -1) / 8**0.5, -1)
        return self.proj((weights @ qkv[2]).transpose(1, 2).reshape(n, t, DIM))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        x = x + self.attend(self.norm1(x))
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Convolutions(nn.Module):
    """Convolutions behind each other, one in groups, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.tail = nn.Conv2d(32, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, groups=4)
        self.head = nn.Linear(32, 40)

    def forward(self, image: Tensor) -> Tensor:
        first = torch.relu(self.stem(image))
        second = torch.relu(self.body(first))
        total = first + self.tail(second)
        return self.head(torch.relu(self.grouped(total)).mean((2, 3)))


def ids() -> Tensor:
    return torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(1))


def image(channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
