"""Layers that read the same value quantize it alike, and choose the rest of their options alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.compilation.allocation_stage import allocate
from instar.compilation.entry import start
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.ir.budget import Budget


class Two(nn.Module):
    """A small and a large layer on one input; the small one is amplified, so that it is sensitive."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(64, 16)
        self.large = nn.Linear(64, 160)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 50.0 * self.small(x), self.large(x)


def prepared() -> Prepared:
    torch.manual_seed(0)
    data = [(torch.randn(8, 64),) for _ in range(3)]
    given = {
        "target": "torch", "budget": {"size": "30%"}, "formats": ("fp32", "int8:channel", "int4:g32"),
        "activations": ("none", "dynamic_int8:token"),
    }  # fmt: skip
    request = start(Two().eval(), data[0], None, None, None, given, calibration=data)
    return prepare(request, calibration=data, budget=request.budget)


def test_formats_are_free_and_activations_are_shared() -> None:
    work = prepared()
    seen: set[bool] = set()
    for size in ("16%", "18%", "22%", "27%", "40%", "60%", "90%"):
        found = allocate(work.prices, Budget(size=size), work.totals, tie_shared_inputs=True)
        small, large = (decision.chosen.option for decision in found.decisions)
        assert small.activation == large.activation
        seen.add(small.format == large.format)
    assert seen == {True, False}
