"""Networks with random weights at the sizes of real ones, for what depends on shapes alone: time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .compile_models import Block, resnet20

Made = tuple[nn.Module, tuple[Tensor, ...]]


def resnet18() -> Made:
    """ResNet-18 (He and others, 2015) at 224 x 224."""
    layers: list[nn.Module] = [*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for after in (64, 128, 256, 512):
        for number in range(2):
            layers.append(Block(before, after, 2 if number == 0 and after > 64 else 1))
            before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers), (torch.randn(1, 3, 224, 224),)


class Inverted(nn.Module):
    """Widening, a convolution of single channels, narrowing, around a shortcut."""

    def __init__(self, before: int, after: int, stride: int, factor: int) -> None:
        super().__init__()
        inner = before * factor
        widen = [*_conv(before, inner, 1, 1), nn.ReLU6()] if factor > 1 else []
        depth = [*_conv(inner, inner, 3, stride, inner), nn.ReLU6()]
        self.body = nn.Sequential(*widen, *depth, *_conv(inner, after, 1, 1))
        self.shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """``[n, before, h, w] -> [n, after, h / stride, w / stride]``."""
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenetv2() -> Made:
    """MobileNetV2 (Sandler and others, 2018) at 224 x 224."""
    layers: list[nn.Module] = [*_conv(3, 32, 3, 2), nn.ReLU6()]
    before = 32
    for factor, after, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):  # fmt: skip
        for number in range(count):
            layers.append(Inverted(before, after, stride if number == 0 else 1, factor))
            before = after
    layers += [*_conv(320, 1280, 1, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers), (torch.randn(1, 3, 224, 224),)


class VisionTransformer(nn.Module):
    """Patches of 16 x 16, six layers of width 384."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 384, 16, 16)
        self.places = nn.Parameter(0.02 * torch.randn(1, 196, 384))
        self.layers = _encoder(384, 6, 6)
        self.head = nn.Linear(384, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``[n, 3, 224, 224]``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.layers(tokens).mean(dim=1))


class TextEncoder(nn.Module):
    """Like BERT-small: four layers of width 512 over word pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(8000, 512), nn.Embedding(128, 512)
        self.layers = _encoder(512, 8, 4)
        self.head = nn.Linear(512, 128)

    def forward(self, ids: Tensor) -> Tensor:
        """A vector for every row of ``[n, 128]``."""
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        return self.head(self.layers(x)[:, 0])


def vit() -> Made:
    """A vision transformer at 224 x 224."""
    return VisionTransformer(), (torch.randn(1, 3, 224, 224),)


def bert_small() -> Made:
    """A text encoder at 128 tokens."""
    return TextEncoder(), (torch.randint(0, 8000, (1, 128)),)


def transformer() -> Made:
    """``nn.Transformer`` of width 256."""
    model = nn.Transformer(256, 4, 2, 2, 1024, batch_first=True, dropout=0.0)
    return model, (torch.randn(1, 64, 256), torch.randn(1, 48, 256))


def _conv(before: int, after: int, size: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after)]


def _encoder(width: int, heads: int, layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


LATENCY_NETWORKS: Mapping[str, Callable[[], Made]] = {
    "ResNet-18": resnet18,
    "MobileNetV2": mobilenetv2,
    "ResNet-20": resnet20,
    "ViT": vit,
    "BERT-small": bert_small,
    "nn.Transformer": transformer,
}
"""Name -> network and example inputs."""
