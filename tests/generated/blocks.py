"""Blocks of generated networks: a registry, and the blocks that work on ``[batch, width]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["vector", "sequence", "image", "nodes"]
Maker = Callable[[Random, int], nn.Module]


@dataclass(frozen=True)
class BlockKind:
    """One kind of block: what it takes, what it gives, and whether it reads the network's index input."""

    name: str
    source: Kind
    result: Kind
    index: bool
    make: Maker


BLOCKS: list[BlockKind] = []
"""Every block, in the order of the files."""


def block(source: Kind, result: Kind | None = None, *, index: bool = False) -> Callable[[Maker], Maker]:
    """Registers a function ``(random, width) -> module``; its module is called with (values, index input)."""

    def register(make: Maker) -> Maker:
        BLOCKS.append(BlockKind(make.__name__, source, result or source, index, make))
        return make

    return register


class Apply(nn.Module):
    """A function of (module, values, index input) over named parts, which are modules, parameters or buffers."""

    def __init__(self, compute: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        return self.compute(self, x, index)


class Narrow(nn.Module):
    """A part that computes in another dtype; ``dtype`` is set to float64 in the reference."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.part, self.dtype = part.to(dtype), dtype

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        return x + self.part(x.to(self.dtype)).to(x.dtype)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


@block("vector")
def mlp(random: Random, width: int) -> nn.Module:
    act = random.choice([nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.Mish, nn.ELU, nn.Softplus])()
    hidden = random.choice([3, 17, 48])
    layers = nn.Sequential(nn.Linear(width, hidden, bias=random.random() < 0.7), act, nn.Linear(hidden, width))
    return Apply(lambda m, x, _: x + m.layers(x), layers=layers)


@block("vector")
def norms(random: Random, width: int) -> nn.Module:
    norm = random.choice([nn.LayerNorm(width), nn.RMSNorm(width), nn.GroupNorm(2, width), nn.BatchNorm1d(width)])
    return Apply(lambda m, x, _: m.linear(m.norm(x)), norm=norm, linear=nn.Linear(width, width))


@block("vector")
def bilinear(random: Random, width: int) -> nn.Module:
    return Apply(lambda m, x, _: m.pair(x, x.flip(-1)).tanh() + x, pair=nn.Bilinear(width, width, width))


@block("vector")
def experts(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        gate = m.gate(x).softmax(-1)
        return x + torch.einsum("be,bed->bd", gate, (x[:, None, None] @ m.experts).squeeze(2))

    return Apply(compute, gate=nn.Linear(width, 3), experts=weight(3, width, width))


@block("vector")
def grouped_experts(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = x[None].expand(2, -1, -1)
        return x + (torch.baddbmm(m.bias[:, None], y, m.up).relu().bmm(m.down) * m.mix[:, None, None]).sum(0)

    return Apply(compute, up=weight(2, width, 24), bias=weight(2, 24), down=weight(2, 24, width), mix=weight(2))


@block("vector", index=True)
def routed_experts(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, index: Tensor | None) -> Tensor:
        assert index is not None
        return x + torch.bmm(m.experts[index % 3], x[:, :, None])[:, :, 0]

    return Apply(compute, experts=weight(3, width, width))


@block("vector")
def written_columns(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = m.linear(x)
        out = torch.zeros_like(y)
        for i in range(0, width, 5):
            out[:, i] = y[:, i].exp().clamp(max=3)
        out[:, 1:4] += y[:, :3]
        return out + x

    return Apply(compute, linear=nn.Linear(width, width))


@block("vector")
def written_views(random: Random, width: int) -> nn.Module:
    way = random.choice(["unbind", "chunk", "unfold", "select", "diagonal"])

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        t = x.clone().unflatten(1, (2, -1))
        if way == "unbind":
            t.unbind(1)[0].add_(1)
        elif way == "chunk":
            t.chunk(2, 1)[1].mul_(m.scale)
        elif way == "unfold":
            t.unfold(-1, 2, 2).mul_(2)
        elif way == "select":
            t.select(1, 1).relu_()
        else:
            t.diagonal(0, 1, 2).sub_(0.5)
        return t.flatten(1)

    return Apply(compute, scale=weight(1, 1, width // 2))


@block("vector", index=True)
def gathered(random: Random, width: int) -> nn.Module:
    way = random.choice(["gather", "scatter", "scatter_add", "one_hot", "take"])

    def compute(m: Any, x: Tensor, index: Tensor | None) -> Tensor:
        assert index is not None
        where = index[:, None] % width
        if way == "gather":
            return x + m.linear(x).gather(1, where)
        if way == "scatter":
            return m.linear(x.scatter(1, where, 0.5))
        if way == "scatter_add":
            return m.linear(x).scatter_add(1, where, x[:, :1])
        if way == "one_hot":
            return m.linear(x) * F.one_hot(index % width, width).to(x.dtype) + x
        return m.linear(x) + torch.take_along_dim(x, where, 1)

    return Apply(compute, linear=nn.Linear(width, width))


@block("vector", index=True)
def embedded(random: Random, width: int) -> nn.Module:
    table = nn.Embedding(40, width, padding_idx=random.choice([None, 0]))
    return Apply(lambda m, x, index: x + m.table(index), table=table)


@block("vector", index=True)
def bag(random: Random, width: int) -> nn.Module:
    mode = random.choice(["sum", "mean", "max"])
    bags = nn.EmbeddingBag(40, width, mode=mode, padding_idx=random.choice([None, 0]))

    def compute(m: Any, x: Tensor, index: Tensor | None) -> Tensor:
        assert index is not None
        return x + m.bags(torch.stack([index, (index + 3) % 40, (index * 7) % 40], 1))

    return Apply(compute, bags=bags)


@block("vector")
def cell(random: Random, width: int) -> nn.Module:
    cells = random.choice([nn.GRUCell, nn.RNNCell, nn.LSTMCell])(width, width)

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        state = (x.tanh(), x * 0.5) if isinstance(m.cells, nn.LSTMCell) else x.tanh()
        out = m.cells(x, state)
        return out[0] if isinstance(out, tuple) else out

    return Apply(compute, cells=cells)


@block("vector")
def folded(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        steps = torch.arange(width, dtype=x.dtype)
        grid = torch.stack([steps, steps.flip(0)], 1).permute(1, 0).unsqueeze(0)
        return m.linear(x)[:, None].mul(grid / width).add(torch.full((1, 2, width), 0.25)).mean(1).to(x.dtype) + x

    return Apply(compute, linear=nn.Linear(width, width))


@block("vector")
def clashing_names(random: Random, width: int) -> nn.Module:
    names = random.sample(["mean", "add", "output", "x", "index", "mul", "unsqueeze", "full", "permute", "input"], 3)
    parts: dict[str, Tensor] = {n: (weight(width) if i % 2 else torch.randn(width)) for i, n in enumerate(names)}

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        a, b, c = (getattr(m, name) for name in names)
        return (x * a + b).mul(c.unsqueeze(0)) + x.mean(-1, keepdim=True)

    return Apply(compute, **parts)


@block("vector")
def other_dtype(random: Random, width: int) -> nn.Module:
    return Narrow(nn.Linear(width, width), random.choice([torch.float16, torch.bfloat16, torch.float64]))


@block("vector")
def autocast(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m.linear(x)
        return x + y.to(x.dtype)

    return Apply(compute, linear=nn.Linear(width, width))


@block("vector")
def plumbing(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        a, b = m.linear(x).chunk(2, -1)
        y = torch.cat([a.sigmoid() * b, F.normalize(x, dim=-1).cumsum(-1)], -1)
        y = torch.where(y > 0, y, y * 0.1).roll(1, -1).masked_fill(m.mask, 0.0)
        return torch.stack([y, y.flip(-1)]).amax(0)[:, :width]

    return Apply(compute, linear=nn.Linear(width, width), mask=torch.arange(width + width // 2) % 3 == 0)


@block("vector")
def sorted_values(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = m.linear(x)
        best = y.topk(width // 2, -1).values
        return torch.cat([best, y.sort(-1, descending=True).values[:, : width - width // 2]], -1) + x

    return Apply(compute, linear=nn.Linear(width, width))


@block("vector")
def normed_weight(random: Random, width: int) -> nn.Module:
    linear = nn.Linear(width, width)
    if random.random() < 0.5:
        linear = nn.utils.parametrizations.weight_norm(linear)
    return Apply(lambda m, x, _: F.linear(m.linear(x), m.linear.weight.tril()), linear=linear)


@block("vector", "sequence")
def into_sequence(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        return x.unsqueeze(1).repeat(1, 5, 1) + torch.linspace(-1, 1, 5, dtype=x.dtype)[None, :, None] * m.direction

    return Apply(compute, direction=weight(width))
