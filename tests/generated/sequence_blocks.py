"""Blocks that work on ``[batch, time, width]``, and on ``[nodes, width]`` with edges as the index input."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Apply, block, weight


@block("sequence")
def attention(random: Random, width: int) -> nn.Module:
    heads, causal, fused = random.choice([1, 2, 4]), random.random() < 0.5, random.random() < 0.5

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        q, k, v = m.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if causal:
                mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(mask, float("-inf"))
            y = scores.softmax(-1) @ v
        return x + m.out(y.transpose(1, 2).flatten(2))

    return Apply(compute, qkv=nn.Linear(width, 3 * width), out=nn.Linear(width, width))


@block("sequence")
def library_attention(random: Random, width: int) -> nn.Module:
    if random.random() < 0.5:
        layer = nn.TransformerEncoderLayer(width, 2, 24, 0.0, batch_first=True, norm_first=random.random() < 0.5)
        return Apply(lambda m, x, _: m.layer(x), layer=layer)
    inner = nn.MultiheadAttention(width, 2, batch_first=True)
    return Apply(lambda m, x, _: m.inner(x, x, x, need_weights=False)[0] + x, inner=inner)


@block("sequence")
def recurrent(random: Random, width: int) -> nn.Module:
    kind, both = random.choice([nn.LSTM, nn.GRU, nn.RNN]), random.random() < 0.5
    layers = kind(width, width // 2 if both else width, random.choice([1, 1, 2]), batch_first=True, bidirectional=both)
    return Apply(lambda m, x, _: m.layers(x)[0] + x, layers=layers)


@block("sequence", "vector")
def last_state(random: Random, width: int) -> nn.Module:
    layers = random.choice([nn.LSTM, nn.GRU])(width, width, batch_first=False)

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        state = m.layers(x.transpose(0, 1))[1]
        return (state[0] if isinstance(state, tuple) else state)[-1]

    return Apply(compute, layers=layers)


@block("sequence")
def same_convolution(random: Random, width: int) -> nn.Module:
    groups = random.choice([1, 1, width])
    dilation = random.choice([1, 2, 3])
    conv = nn.Conv1d(width, width, random.choice([2, 3, 4]), padding="same", dilation=dilation, groups=groups)
    return Apply(lambda m, x, _: m.conv(x.transpose(1, 2)).transpose(1, 2).relu() + x, conv=conv)


@block("sequence")
def transposed_convolution(random: Random, width: int) -> nn.Module:
    conv = nn.ConvTranspose1d(width, width, random.choice([2, 3, 4]), random.choice([1, 2]))
    return Apply(lambda m, x, _: m.conv(x.mT).mT[:, : x.shape[1]] + x, conv=conv)


@block("sequence")
def heads_by_einsum(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        return torch.einsum("bhtd,hdc->btc", torch.einsum("btc,chd->bhtd", x, m.split).tanh(), m.join) + x

    return Apply(compute, split=weight(width, 4, 8), join=weight(4, 8, width))


@block("sequence", "vector", index=True)
def span(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, index: Tensor | None) -> Tensor:
        assert index is not None
        at = index.clamp(max=x.shape[1] - 1)[:, None, None].expand(-1, 1, x.shape[2])
        return m.linear(x.gather(1, at).squeeze(1))

    return Apply(compute, linear=nn.Linear(width, width))


@block("sequence", index=True)
def masked_by_length(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, index: Tensor | None) -> Tensor:
        assert index is not None
        mask = torch.arange(x.shape[1])[None] <= index[:, None]
        y = m.linear(x).masked_fill(~mask[:, :, None], 0.0)
        return y + y.sum(1, keepdim=True) / mask.sum(1)[:, None, None]

    return Apply(compute, linear=nn.Linear(width, width))


@block("sequence")
def shifted(random: Random, width: int) -> nn.Module:
    padded = random.random() < 0.5

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        if padded:
            before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        else:
            before = torch.zeros_like(x)
            before[:, 1:] = x[:, :-1]
        return m.linear(torch.lerp(x, before, m.mix))

    return Apply(compute, linear=nn.Linear(width, width), mix=torch.rand(width))


@block("sequence")
def written_steps(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = m.linear(x)
        out = torch.zeros_like(y)
        for i in range(2):
            out[:, i] = y[:, i].cumsum(-1) / width
        return out + y

    return Apply(compute, linear=nn.Linear(width, width))


@block("sequence")
def positions(random: Random, width: int) -> nn.Module:
    rotary = random.random() < 0.5

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        if not rotary:
            return x + m.table(steps)
        angles = steps[:, None] * m.frequencies.to(x.dtype)
        a, b = m.linear(x).chunk(2, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    frequencies = 10 ** -torch.linspace(0, 2, width // 2)
    return Apply(compute, table=nn.Embedding(64, width), linear=nn.Linear(width, width), frequencies=frequencies)


@block("sequence")
def normed(random: Random, width: int) -> nn.Module:
    norm = random.choice([nn.LayerNorm(width, elementwise_affine=False), nn.LayerNorm(width), nn.RMSNorm(width)])

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        gate, value = m.up(m.norm(x)).chunk(2, -1)
        return x + m.down(F.silu(gate) * value)

    return Apply(compute, norm=norm, up=nn.Linear(width, 64, bias=False), down=nn.Linear(32, width))


@block("sequence", "vector")
def pooled(random: Random, width: int) -> nn.Module:
    way = random.choice(["mean", "max", "last", "attention"])

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        if way == "attention":
            return (m.score(x).softmax(1) * x).sum(1)
        return x[:, -1] if way == "last" else (x.mean(1) if way == "mean" else x.amax(1))

    return Apply(compute, score=nn.Linear(width, 1))


@block("nodes", index=True)
def graph_convolution(random: Random, width: int) -> nn.Module:
    way = random.choice(["index_add", "scatter_add", "index_put", "amax"])

    def compute(m: Any, x: Tensor, edges: Tensor | None) -> Tensor:
        assert edges is not None
        source, target = edges[0], edges[1]
        messages, zero = m.other(x)[source], torch.zeros_like(x)
        if way == "index_add":
            total = zero.index_add(0, target, messages)
        elif way == "scatter_add":
            total = zero.scatter_add(0, target[:, None].expand_as(messages), messages)
        elif way == "index_put":
            total = zero.index_put((target,), messages, accumulate=True)
        else:
            total = zero.scatter_reduce(0, target[:, None].expand_as(messages), messages, "amax")
        return (m.own(x) + total).relu()

    return Apply(compute, own=nn.Linear(width, width), other=nn.Linear(width, width))


@block("nodes", index=True)
def edge_gates(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, edges: Tensor | None) -> Tensor:
        assert edges is not None
        pair = torch.cat([x.index_select(0, edges[0]), x.index_select(0, edges[1])], -1)
        gate = m.gate(pair).sigmoid()
        total = torch.zeros_like(x[:, :1]).index_add(0, edges[1], gate)
        return x + torch.zeros_like(x).index_add(0, edges[1], gate * x[edges[0]]) / (total + 1)

    return Apply(compute, gate=nn.Linear(2 * width, 1))


@block("nodes")
def node_update(random: Random, width: int) -> nn.Module:
    layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
    return Apply(lambda m, x, _: x + m.layers(x) - x.mean(0, keepdim=True), layers=layers)
