"""Failures of a finished file name the user's line; what the message advises works."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import LoweringError
from instar.ir.graph import Graph
from instar.targets.onnx.culprit import located


class Ranked(nn.Module):
    """Positions of equal values, in a network with operators before and after."""

    def __init__(self, *, stable: bool) -> None:
        super().__init__()
        self.first, self.second, self.stable = nn.Linear(32, 64), nn.Linear(64, 8), stable

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x).relu()
        places = torch.sort(y, dim=-1, stable=self.stable).indices
        return self.second(y), places.float().cumsum(-1).long()


def test_tied_sorts_name_the_line_and_a_stable_sort_works() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32)
    model = Ranked(stable=False).eval()
    with pytest.raises(LoweringError) as raised:
        instar.compile(model, (x,), target="onnx")
    first, second = str(raised.value).splitlines()
    assert "positions of equal values have no order that every runtime keeps: sort with stable=True" in first
    assert "inf" not in first
    assert "report" not in first
    assert "kernel" not in first
    assert second.startswith("  the first operator that this is true of: aten.sort")
    assert "test_onnx_culprit.py:" in second
    stable = Ranked(stable=True).eval()
    compiled = instar.compile(stable, (x,), target="onnx")
    assert torch.equal(compiled(x)[1], stable(x)[1])


def test_the_first_failing_operator_is_found_among_several() -> None:
    graph = instar.optimize(Ranked(stable=True).eval(), (torch.randn(4, 32),))

    def fails(part: Graph) -> bool:
        return any(node.op.short_name == "aten.cumsum" for node in part.nodes())

    found = located(LoweringError("onnxruntime: Node (cumsum_3) is refused"), graph, fails)
    assert "aten.cumsum in " in str(found)
    assert "test_onnx_culprit.py:25" in str(found)

    def breaks(part: Graph) -> bool:
        raise ValueError("no such part")

    given_up = str(located(LoweringError("onnxruntime: something"), graph, breaks))
    assert given_up.startswith("onnxruntime: something\n")
    assert "which operator this is true of was not found: ValueError: no such part" in given_up
    unfound = LoweringError("onnxruntime: something else")
    assert located(unfound, graph, lambda part: False) is unfound
