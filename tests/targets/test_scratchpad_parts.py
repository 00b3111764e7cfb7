"""Values that are taken apart on the scratchpad target, what its notes say, and layers that it has no form for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import instar
from instar.ir.errors import ConfigError
from instar.schedulers.scratchpad.executor import execute
from instar.targets.scratchpad.execution import GraphKernels
from instar.targets.scratchpad.options import ScratchpadOptions

from .scratchpad_case import compiled

MACHINE = "ethos-u65-mid"


class Packed(nn.Module):
    """Queries, keys and values by ``unbind`` as in most vision transformers, a ``chunk``, a ``split``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gate, self.out = nn.Linear(16, 48), nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        a, b = self.gate(x).chunk(2, -1)
        small, large = (a * b.sigmoid()).split([6, 10], -1)
        return torch.cat([large, small], -1)


@pytest.mark.parametrize("shape", [(1, 12, 16), (1, 5, 16)])
def test_pieces_of_a_value_are_operators_of_their_own(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs, model = (torch.randn(shape),), Packed().eval()
    artifact = compiled(model, inputs, ScratchpadOptions(machine=MACHINE))
    assert all(check.passed for check in artifact.checks)
    kinds = [operator.kind for operator in artifact.described.problem.operators]
    assert not [kind for kind in kinds if "unbind" in kind or "split" in kind or "getitem" in kind]
    with torch.no_grad():
        execution = execute(artifact.listing, GraphKernels(artifact.described, inputs))
        assert (artifact.run(inputs)[0] - model(*inputs)).abs().max() < 0.1
    assert execution.traffic == artifact.planned.schedule.traffic


def test_a_layer_without_a_form_is_refused_once_for_all_formats() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    inputs = (torch.randn(1, 5, 4),)
    with pytest.raises(ConfigError) as raised:
        instar.compile(Reads().eval(), inputs, target=f"scratchpad:{MACHINE}", calibration=[inputs] * 4)
    text = str(raised.value)
    assert text.count("recurrent is not computed by the array") == 1
    assert "int8:channel, int8:g32" in text
    assert "compute the layer outside the model" in text
    assert "add fp32" not in text


class Again(nn.Module):
    """Reads its input at the beginning and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x)).flip(2)) + x)


def test_notes_say_the_time_and_what_is_read_again() -> None:
    torch.manual_seed(1)
    inputs = (torch.randn(1, 8, 12, 12),)
    notes = compiled(Again(), inputs, ScratchpadOptions(machine=MACHINE, scratchpad_bytes=7 * 1024)).notes
    assert [note for note in notes if "cycles are predicted" in note and note.endswith("ms at 500 MHz")]
    unknown = compiled(Again(), inputs, ScratchpadOptions(machine="cortex-m7-rt1170")).notes
    asked = [note for note in unknown if note.startswith("no time was predicted")]
    for name in ("dma.setup_cycles", "tcm.read_latency_cycles", "hyperram.write_latency_cycles"):
        assert name in asked[0]
    assert "x: input read again, 1152 bytes: it would fit while b runs, but what inputs" in " ".join(notes)
    assert [note for note in notes if note.startswith("a: activation spilled, 9216 bytes: while a runs it would need")]
