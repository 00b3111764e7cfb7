"""Functions for chains of constants: what is outlined, what stays, and that files stay small and right."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import onnx_ir
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import instar
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.export import export_module, to_proto
from instar.targets.onnx.outline import chains, outline
from instar.targets.onnx.session import executed_kernels, make_session


class Stored(nn.Module):
    """Linear layers over stored codes of a number of bits."""

    def __init__(self, layers: int, bits: int, columns: int = 32) -> None:
        super().__init__()
        self.bits, self.columns = bits, columns
        self.codes = nn.ParameterList(
            nn.Parameter(torch.randint(0, 256, (columns, columns * bits // 8), dtype=torch.uint8), requires_grad=False)
            for _ in range(layers)
        )
        self.scales = nn.ParameterList(
            nn.Parameter((torch.rand(columns, 2) / 10).half(), requires_grad=False) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for codes, scale in zip(self.codes, self.scales, strict=True):
            shape = (self.columns, self.columns)
            weight = torch.ops.instar.dequantize(codes, scale, None, self.bits, 16, shape)
            x = torch.nn.functional.linear(x, weight)
        return x


def model_of(layers: int, bits: int) -> tuple[nn.Module, onnx.ModelProto, Tensor]:
    module, x = Stored(layers, bits), torch.randn(4, 32)
    return module, to_proto(export_module(module, [x], input_names=["x"])), x


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_of_one_format_share_a_function(bits: int) -> None:
    module, proto, x = model_of(3, bits)
    assert [f.name for f in proto.functions] == ["expand_0"]
    assert sum(n.domain == "instar" for n in proto.graph.node) == 3
    found = np.asarray(make_session(proto, threads=1).run(None, {"x": x.numpy()})[0])
    assert np.allclose(found, module(x).numpy(), rtol=1e-4, atol=1e-5)
    assert set(executed_kernels(proto, {"x": x.numpy()})) <= {"MatMul", "Gemm"}


def test_one_layer_needs_no_function() -> None:
    _, proto, _ = model_of(1, 4)
    assert len(proto.functions) == 0
    assert all(n.domain == "" for n in proto.graph.node)


def test_large_shared_constants_stay_in_the_graph() -> None:
    _, proto, _ = model_of(3, 4)
    inside = [a.t.ByteSize() for f in proto.functions for n in f.node for a in n.attribute if a.name == "value"]
    assert max(inside) < 128
    assert [list(i.dims) for i in proto.graph.initializer].count([256, 1]) == 1


class Returned(nn.Module):
    """Two outputs that depend on constants alone and are too large to be computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.first, self.second = (nn.Buffer(torch.randn(300, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layer(x), *(each.expand(300, 300).sin().expand(9, 300, 300) for each in (self.first, self.second))


def test_what_a_call_gives_may_be_an_output() -> None:
    torch.manual_seed(0)
    model, x = Returned().eval(), torch.randn(2, 8)
    compiled = instar.compile(model, (x,), target="onnx")
    assert isinstance(compiled.artifact, OnnxArtifact)
    assert [f.name for f in compiled.artifact.lowered.proto().functions] == ["expand_0"]
    for found, expected in zip(compiled(x), model(x), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_only_what_depends_on_constants_alone_is_a_chain() -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Mul", ["a", "b"], ["c"]), make("Neg", ["c"], ["d"]), make("Add", ["x", "d"], ["y"]),
        make("Mul", ["y", "c"], ["z"]), make("Neg", ["b"], ["e"]), make("Sub", ["z", "e"], ["out"]),
    ]  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    constants = [numpy_helper.from_array(np.ones(2, np.float32) * k, name) for k, name in ((2, "a"), (3, "b"))]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(nodes, "g", [info("x", kind, [2])], [info("out", kind, [2])], constants)
    model = onnx_ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]))
    found = [([n.op_type for n in c.nodes], sorted(str(v.name) for v in c.results)) for c in chains(model.graph)]
    assert found == [(["Mul", "Neg"], ["c", "d"]), (["Neg"], ["e"])]
    assert len(outline(model).functions) == 0
