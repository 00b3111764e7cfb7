"""Small networks with random weights, and their inputs: what a compilation costs does not depend on training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, tuple[Tensor, ...]]


def mlp() -> Made:
    """Three layers."""
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers).eval(), (torch.randn(8, 64),)


def transformer() -> Made:
    """An ``nn.Transformer`` of 0.7 MB."""
    model = nn.Transformer(64, 4, 2, 2, 128, batch_first=True, dropout=0.0)
    return model.eval(), (torch.randn(2, 16, 64), torch.randn(2, 12, 64))


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = shortcut if stride != 1 or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[n, before, h, w] -> [n, after, h / stride, w / stride]``."""
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(inner)) + self.shortcut(x))


def resnet20() -> Made:
    """Like the residual network of He and others for small images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for after in (16, 32, 64):
        for number in range(3):
            layers.append(Block(before, after, 2 if number == 0 and after > 16 else 1))
            before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).eval(), (torch.randn(4, 3, 32, 32),)


NETWORKS: Mapping[str, Callable[[], Made]] = {"mlp": mlp, "transformer": transformer, "resnet20": resnet20}
