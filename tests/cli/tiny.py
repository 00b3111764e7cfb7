"""A small model file, as a user would write one."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """An embedding and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 32)
        self.up = nn.Linear(32, 128)
        self.down = nn.Linear(128, 32)

    def forward(self, ids: Tensor) -> Tensor:
        """``[batch, length]`` to ``[batch, 32]``."""
        return self.down(torch.relu(self.up(self.table(ids)))).mean(1)


def build() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    batches = [(torch.randint(0, 64, (4, 8), generator=generator),) for _ in range(4)]
    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=64)}
    return {"model": Tiny().eval(), "args": batches[0], "dynamic_shapes": (dims,), "calibration": batches}


def in_train_mode() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)).train(), (torch.zeros(2, 64),)


def never_ends() -> None:
    """Presses Ctrl-C, then waits for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
