"""Blocks that work on ``[batch, width, height, width of the image]``."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Apply, block, weight


@block("image")
def residual(random: Random, width: int) -> nn.Module:
    act = random.choice([nn.ReLU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.PReLU])()
    conv = nn.Conv2d(width, width, 3, padding=1, bias=random.random() < 0.5)
    return Apply(lambda m, x, _: m.act(m.norm(m.conv(x))) + x, conv=conv, norm=nn.BatchNorm2d(width), act=act)


@block("image")
def depthwise(random: Random, width: int) -> nn.Module:
    deep = nn.Conv2d(width, width, 3, padding=1, groups=width, padding_mode=random.choice(["zeros", "reflect"]))
    layers = nn.Sequential(deep, nn.GroupNorm(2, width), nn.Conv2d(width, 2 * width, 1), nn.GLU(1))
    return Apply(lambda m, x, _: m.layers(x) + x, layers=layers)


@block("image")
def same_dilated(random: Random, width: int) -> nn.Module:
    size = random.choice([2, 4, (2, 3), (3, 4)])
    conv = nn.Conv2d(
        width, width, size, padding="same", dilation=random.choice([1, 2, 3]), groups=random.choice([1, 2])
    )
    return Apply(lambda m, x, _: m.conv(x).tanh(), conv=conv)


@block("image")
def down_and_up(random: Random, width: int) -> nn.Module:
    down = random.choice([nn.Conv2d(width, width, 2, 2), nn.AvgPool2d(2), nn.MaxPool2d(2)])
    mode = random.choice(["nearest", "bilinear", "transposed", "shuffle"])
    parts: dict[str, nn.Module] = {"down": down, "wide": nn.Conv2d(width, 4 * width, 1)}
    parts["up"] = nn.ConvTranspose2d(width, width, random.choice([2, 4]), 2)

    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = m.down(x)
        if mode == "transposed":
            return m.up(y)[:, :, : x.shape[2], : x.shape[3]] + x
        if mode == "shuffle":
            return F.pixel_shuffle(m.wide(y), 2) + x
        return F.interpolate(y, scale_factor=2, mode=mode) + x

    return Apply(compute, **parts)


@block("image")
def squeeze_excite(random: Random, width: int) -> nn.Module:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1))
    return Apply(lambda m, x, _: x * F.hardsigmoid(m.gate(x)), gate=gate)


@block("image")
def volume(random: Random, width: int) -> nn.Module:
    conv = random.choice([nn.Conv3d(1, 1, 3, padding=1), nn.ConvTranspose3d(1, 1, 3, padding=1)])
    return Apply(lambda m, x, _: m.conv(x[:, None])[:, 0] + x, conv=conv)


@block("image")
def centred(random: Random, width: int) -> nn.Module:
    parts: dict[str, nn.Module | Tensor] = {
        "mean": torch.randn(1, width, 1, 1),
        "std": torch.rand(1, width, 1, 1) + 0.5,
    }
    return Apply(lambda m, x, _: m.conv((x - m.mean) / m.std), conv=nn.Conv2d(width, width, 1), **parts)


@block("image")
def cropped_write(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        out = x.clone()
        out[:, :, 1:-1, 1:-1] = m.conv(x)[:, :, 1:-1, 1:-1]
        out[:, ::2] *= 0.5
        return out

    return Apply(compute, conv=nn.Conv2d(width, width, 3, padding=1))


@block("image")
def shuffled_channels(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return torch.einsum("bchw,cd->bdhw", y, m.mix) + F.instance_norm(x)

    return Apply(compute, mix=weight(width, width))


@block("image")
def cost_volume(random: Random, width: int) -> nn.Module:
    def compute(m: Any, x: Tensor, _: Tensor | None) -> Tensor:
        y = m.conv(x)
        batch, channels, height, wide = y.shape
        column = torch.arange(wide).repeat(2, height, 1) - torch.arange(2)[:, None, None]
        index = torch.arange(height)[:, None] * wide + column.clamp(min=0)
        index = index.reshape(1, 1, -1).repeat(batch, channels, 1)
        return y.flatten(2).gather(2, index).reshape(batch, channels, 2, height, wide).mean(2) * x

    return Apply(compute, conv=nn.Conv2d(width, width, 1))


@block("image", "vector")
def pooled_image(random: Random, width: int) -> nn.Module:
    flat = random.random() < 0.5
    head = nn.Linear(4 * width if flat else width, width)
    return Apply(lambda m, x, _: m.head(F.adaptive_avg_pool2d(x, 2 if flat else 1).flatten(1)), head=head)


@block("image", "sequence")
def patches(random: Random, width: int) -> nn.Module:
    return Apply(lambda m, x, _: m.conv(x).flatten(2).transpose(1, 2), conv=nn.Conv2d(width, width, 2, 2))
