"""Programs are written as ``torch.onnx.export`` writes them, without what it does for every program anew."""

from __future__ import annotations

import onnx_ir
import pytest
import torch
from torch import Tensor, nn

from instar.targets.onnx import torchlib
from instar.targets.onnx.export import OPSET, quiet


class Direct(nn.Module):
    """Every operator has a translation."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.softmax(x @ x.t(), dim=-1), x.mean(dim=0) + 1


class TakenApart(nn.Module):
    """``renorm`` is written by what it is made of."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.cos(), x.renorm(2, 0, 1.0), torch.relu(x)


def spelled(model: onnx_ir.Model) -> list[tuple[str, int, int]]:
    return [(node.op_type, len(node.inputs), len(node.outputs)) for node in model.graph]


@pytest.mark.parametrize(("module", "apart"), [(Direct(), False), (TakenApart(), True)])
def test_the_same_nodes_as_the_exporter(module: nn.Module, apart: bool) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    dims = ({0: torch.export.Dim("rows", min=1, max=64)},)
    program = torch.export.export(module, (x,), dynamic_shapes=dims)
    assert torchlib.takes_apart(program, {}, OPSET) is apart
    with quiet():
        expected = torch.onnx.export(program, opset_version=OPSET, dynamo=True, optimize=False, verbose=False)
        assert expected is not None
        found = torchlib.translate(program, {}, opset=OPSET)
    assert sorted(spelled(found)) == sorted(spelled(expected.model))
    assert found.opset_imports[""] == OPSET


def test_what_is_known_of_an_operator_is_what_the_exporter_knows() -> None:
    known = torchlib.exporter(OPSET).registered
    for overload in (torch.ops.aten.linear.default, torch.ops.aten.add.Tensor, torch.ops.aten.gelu.default):
        assert overload in known
        assert torchlib.known_operator(overload, OPSET)
    assert not torchlib.known_operator(torch.ops.aten.renorm.default, OPSET)
    assert torch.ops.aten.renorm.default not in known
