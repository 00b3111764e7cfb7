"""Export: shared constants, no traces of the machine, dynamic sizes from views, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import torch
from torch import Tensor, nn

from instar.ir.errors import LoweringError
from instar.ir.packing import pack
from instar.targets.onnx.export import export_module, to_proto
from instar.targets.onnx.options import IR_VERSION, OPSET

instar_ops: Any = torch.ops.instar


class TwoLinears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "second"):
            self.register_buffer(name, pack(torch.randint(0, 16, (32, 32)), 4))
        self.register_buffer("scale", torch.rand(32, 1).half())

    def forward(self, x: Tensor) -> Tensor:
        for codes in (self.first, self.second):
            weight = instar_ops.int8_weight(codes, self.scale, None, 4, 0, [32, 32], True)
            x = instar_ops.linear_int8(*instar_ops.quantize_dynamic(x), *weight)
        return x


def test_equal_constants_are_stored_once() -> None:
    proto = to_proto(export_module(TwoLinears(), [torch.randn(4, 32)], input_names=["x"]))
    tables = [i for i in proto.graph.initializer if list(i.dims) == [256, 1]]
    assert len(tables) == 1
    assert not any(node.op_type == "Constant" for node in proto.graph.node)
    assert [i.name for i in proto.graph.input] == ["x"]


def test_the_file_says_nothing_about_the_machine() -> None:
    data = to_proto(export_module(TwoLinears(), [torch.randn(4, 32)])).SerializeToString()
    assert b"stack_trace" not in data
    assert str(Path(__file__).parent).encode() not in data


def test_opset_and_ir_version() -> None:
    proto = to_proto(export_module(TwoLinears(), [torch.randn(4, 32)]))
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", OPSET), ("com.microsoft", 1), ("instar", 1)}
    assert proto.ir_version == IR_VERSION


def test_a_view_as_example_does_not_fix_its_stride() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1)

    dims = {0: torch.export.Dim("rows", min=2, max=512), 1: torch.export.Dim("length", min=2, max=512)}
    proto = to_proto(export_module(Sum(), [torch.randn(4, 100)[:, :77]], dynamic_shapes=[dims]))
    assert not any(d.HasField("dim_value") for d in proto.graph.input[0].type.tensor_type.shape.dim)


def test_an_invalid_model_is_refused() -> None:
    model = export_module(TwoLinears(), [torch.randn(4, 32)])
    model.graph.append(onnx_ir.Node("", "Relu", []))
    with pytest.raises(LoweringError, match="expected a valid model, the checker found: "):
        to_proto(model)
