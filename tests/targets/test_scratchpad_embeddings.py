"""Embeddings on the scratchpad target: rows are looked up outside the accelerator, what is behind them runs on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import ConfigError
from instar.targets.scratchpad.artifact import ScratchpadArtifact
from instar.targets.scratchpad.tables import dump, load


class Sentence(nn.Module):
    """Tokens, their types and places, a norm, a layer, a mean over what a mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.kind, self.place = nn.Embedding(50, 32), nn.Embedding(2, 32), nn.Embedding(12, 32)
        self.norm, self.first, self.head = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.word(ids) + self.kind(kinds) + self.place(torch.arange(12)))
        weight = mask.unsqueeze(-1).float()
        return self.head((self.first(x).relu() * weight).sum(1) / weight.sum(1))


class Tied(nn.Module):
    """One weight that is looked up and multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.first, self.head = nn.Embedding(48, 32), nn.Linear(32, 32), nn.Linear(32, 48, bias=False)
        self.head.weight = self.word.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.first(self.word(ids)).relu())


def compiled(model: nn.Module, samples: list[tuple[Tensor, ...]], budget: str | None) -> ScratchpadArtifact:
    found = instar.compile(
        model.eval(),
        samples[0],
        target="scratchpad:ethos-u65-mid",
        calibration=samples,
        budget=None if budget is None else {"size": budget},
    )
    assert isinstance(found.artifact, ScratchpadArtifact)
    assert all(check.error == 0.0 for check in found.artifact.checks if check.name != "integers")
    return found.artifact


def sentences() -> list[tuple[Tensor, ...]]:
    torch.manual_seed(0)
    draw = [(torch.randint(0, 50, (1, 12)), torch.randint(0, 2, (1, 12))) for _ in range(4)]
    return [(*pair, (torch.arange(12) < 9 + place).long()[None]) for place, pair in enumerate(draw)]


@pytest.mark.parametrize("budget", [None, "40%"])
def test_rows_are_inputs_and_the_table_stays_outside(budget: str | None) -> None:
    artifact = compiled(Sentence(), sentences(), budget)
    problem = artifact.described.problem
    inputs = {tensor.name: tensor.size_bytes for tensor in problem.tensors if tensor.role == "input"}
    assert list(inputs) == ["mask", "kind.rows"]  # the sum of all three look-ups
    assert inputs["kind.rows"] == 12 * 32 * 4
    assert not any("embedding" in operator.kind for operator in problem.operators)
    assert "rows of 2 tables are looked up outside the accelerator, which reads 1536 bytes of them" in artifact.notes
    assert load(dump(artifact.tables)) == artifact.tables


def test_a_table_that_is_a_layer_too() -> None:
    torch.manual_seed(0)
    artifact = compiled(Tied(), [(torch.randint(0, 48, (1, 12)),) for _ in range(4)], None)
    first = artifact.described.problem.tensors[0]
    assert (first.role, first.size_bytes) == ("input", 12 * 32)  # codes


def test_without_calibration_data_the_target_says_what_it_needs() -> None:
    with pytest.raises(
        ConfigError, match=r"layer .*: target scratchpad rounds its inputs .* found none; pass calibration="
    ):
        instar.compile(Tied().eval(), sentences()[0][:1], target="scratchpad:ethos-u65-mid")
