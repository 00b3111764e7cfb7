"""Several generated networks in one model, so that one compilation tries all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .networks import Generated, generate


class Beside(nn.Module):
    """Networks beside each other; called with a list of their inputs, returns a list of their outputs."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, calls: list[tuple[Tensor, ...]]) -> list[Any]:
        return [network(*call) for network, call in zip(self.networks, calls, strict=True)]


def group(seeds: Sequence[int]) -> Generated:
    """One network of the networks of several seeds; they share the names of dimensions, and so their sizes."""
    parts = [generate(seed) for seed in seeds]
    shapes = [part.dynamic_shapes or tuple({} for _ in part.calls[0]) for part in parts]
    calls = (([part.calls[0] for part in parts],), ([part.calls[1] for part in parts],))
    names = tuple(" ".join(part.blocks) for part in parts)
    return Generated(seeds[0], names, Beside([part.model for part in parts]).eval(), calls, (shapes,))
