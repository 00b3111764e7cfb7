"""What the table of whole compilations holds of one architecture: how it is made and called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

Call = dict[str, Tensor]

CAPTURED_AT, OTHER = (2, 8), (3, 13)
"""Batch and length of the example and of the second size."""


@dataclass(frozen=True)
class Architecture:
    """One network of the table.

    Attributes:
        name: what the table calls it.
        source: the library that it comes from.
        load: makes the module, in evaluation mode, with random weights.
        make: keyword inputs for a batch and a length.
        dynamic: names of the dynamic dimensions of each input, by axis.
        longest: of the length.
        most: of the batch; a network whose own lines say ``if batch >= 64`` takes one less.
    """

    name: str
    source: str
    load: Callable[[], nn.Module]
    make: Callable[[int, int], Call]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    longest: int = 32
    most: int = 64

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """As torch.export takes them: one ``Dim`` for each name."""
        made = {"batch": Dim("batch", max=self.most), "length": Dim("length", min=4, max=self.longest)}
        names = self.make(*CAPTURED_AT)
        return {name: {axis: made[dim] for axis, dim in self.dynamic.get(name, {}).items()} for name in names}


BATCH = {0: "batch"}
BATCH_LENGTH = {0: "batch", 1: "length"}


def ids(batch: int, length: int) -> Tensor:
    """Tokens above the special ones."""
    return torch.randint(3, 90, (batch, length))


def mask(batch: int, length: int) -> Tensor:
    """Ones, but for the end of the first row."""
    made = torch.ones(batch, length, dtype=torch.int64)
    made[0, length - 2 :] = 0
    return made


def pixels(size: int, name: str = "x") -> Callable[[int, int], Call]:
    """Images of one size; the length counts for nothing."""
    return lambda batch, _: {name: torch.randn(batch, 3, size, size)}
