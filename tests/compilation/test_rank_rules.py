"""Published rules for ranks as baselines: one threshold for all layers, in place of the solver."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import instar
from instar.ir.errors import ConfigError, InfeasibleError
from instar.schedulers.allocation.thresholds import RULES, kept

RANKED: dict[str, Any] = {"formats": ["fp32", "lowrank"], "target": "torch"}


class Falling(nn.Module):
    """Linear layers whose spectra fall at different speeds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 32))
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for speed, layer in zip((4.0, 12.0, 40.0), linear, strict=True):
            u, s, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
            layer.weight = nn.Parameter(u @ torch.diag(s * torch.exp(-torch.arange(len(s)) / speed)) @ vh)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def compiled(size: str, rule: str, **settings: Any) -> instar.Compiled:
    batches = [(torch.randn(16, 64, generator=torch.Generator().manual_seed(seed)),) for seed in range(4)]
    return instar.compile(
        Falling().eval(), batches[0], calibration=batches, budget={"size": size}, search={"ranks": rule},
        **(RANKED | settings),
    )  # fmt: skip


@pytest.mark.parametrize("rule", [*RULES])
def test_every_rank_is_that_of_one_threshold(rule: str) -> None:
    found = compiled("45%", rule)
    (note,) = [n for n in found.report.data.notes if n.startswith(f"search.ranks = {rule}: threshold ")]
    threshold = float(note.split()[4])
    for decision in found.plan.decisions:
        weight = Falling().get_parameter(f"{decision.layer}.weight").detach()
        rank = kept(RULES[rule](torch.linalg.svdvals(weight).tolist()), threshold * (1.0 - 1e-3))
        text = decision.chosen.option.format
        assert text == "fp32" or abs(int(text.removeprefix("lowrank:r")) - rank) <= 1  # the note rounds the threshold
    assert found.nbytes <= 0.45 * sum(p.numel() * 4 for p in Falling().parameters())
    assert any(d.chosen.option.format != "fp32" for d in found.plan.decisions)


def test_the_solver_loses_less_than_either_rule() -> None:
    losses = {rule: compiled("45%", rule).plan.predicted_loss for rule in ("solved", *RULES)}
    assert losses["solved"] < min(losses[rule] for rule in RULES)


def test_ranks_of_factors_in_integers_and_rules_of_layers() -> None:
    rules = [{"pattern": "layers.4", "formats": ["int8:channel"]}]
    found = compiled("20%", "welore", formats=["fp32", "int8:channel @ lowrank"], layers=rules)
    formats = {d.layer: d.chosen.option.format for d in found.plan.decisions}
    assert formats.pop("layers.4") == "int8:channel"
    assert all(text.startswith("int8:channel @ lowrank:r") for text in formats.values())


def test_a_replay_needs_no_rule() -> None:
    found = compiled("45%", "welore")
    again = instar.compile(Falling().eval(), (torch.zeros(16, 64),), plan=found.plan, target="torch")
    assert again.plan.decisions == found.plan.decisions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": ["fp32", "lowrank", "int8:channel"]}, "expected a family of low ranks and the one format of"),
        ({"formats": ["fp32", "monarch"]}, "found formats = ['fp32', 'monarch']; change them, or leave ranks out"),
        ({"formats": ["monarch", "lowrank"]}, "as in formats = ['fp32', 'lowrank']"),
        ({"budget": {"ops": "50%"}}, "expected a budget on size, which 'welore' fills; found none; set budget.size"),
        ({"budget": None}, "expected a budget on size"),
    ],
)
def test_a_rule_with_nothing_to_decide(settings: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"budget": {"size": "45%"}, **RANKED, **settings}
    with pytest.raises(ConfigError) as error:
        instar.compile(Falling().eval(), (torch.zeros(2, 64),), search={"ranks": "welore"}, **given)
    assert "search.ranks: " in str(error.value)
    assert message in str(error.value)


def test_a_size_that_no_threshold_meets() -> None:
    with pytest.raises(InfeasibleError, match="the smallest feasible value is"):
        compiled("2%", "welore")
