"""Widths of weights decided with what stays on chip, inside of a compilation."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.targets.scratchpad.artifact import ScratchpadArtifact


class Chain(nn.Module):
    """Convolutions of two sizes: narrow large ones stay in a small scratchpad while the others run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.d(self.c(self.b(self.a(x).relu()).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


def compiled(factor: float | None, budget: dict[str, str] | None) -> instar.Compiled:
    torch.manual_seed(0)
    images = [torch.randn(1, 3, 16, 16) for _ in range(4)]
    options: dict[str, object] = {"scratchpad_bytes": 12_000, "widths_loss": factor, "solver_time_s": 20.0}
    return instar.compile(
        Chain().eval(),
        (images[0],),
        target="scratchpad:ethos-u65-mid",
        calibration=images,
        formats=[f"int{bits}:channel" for bits in (8, 4, 2)],
        budget=budget,
        target_options=options,
        seed=0,
    )


def moved(result: instar.Compiled) -> int:
    assert isinstance(result.artifact, ScratchpadArtifact)
    traffic = result.artifact.planned.schedule.traffic
    return traffic.total_bytes + traffic.weight_bytes


@pytest.mark.parametrize("budget", [{"size": "14KB"}])
def test_fewer_bytes_move_within_the_loss_that_may_be_given_up(budget: dict[str, str] | None) -> None:
    first, together = compiled(None, budget), compiled(3.0, budget)
    assert not any("widths with residency" in note for note in first.artifact.notes)
    note = next(note for note in together.artifact.notes if note.startswith("widths with residency"))
    numbers = re.findall(r"\d+", note)
    assert int(numbers[0]) == moved(together) < moved(first) == int(numbers[1])
    assert f"no widths on offer move fewer than {numbers[-1]}" in note
    assert int(numbers[-1]) <= moved(together)
    assert together.plan.predicted_loss <= 3.0 * first.plan.predicted_loss * (1 + 1e-9)
    assert all(check.passed for check in together.artifact.checks)
    assert budget is None or together.nbytes <= 14_000
