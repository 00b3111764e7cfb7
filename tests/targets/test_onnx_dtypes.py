"""Networks in float16, bfloat16 and float64, whole or in part, on ONNX Runtime."""

from __future__ import annotations

from typing import Any, cast

import onnx
import pytest
import torch
from onnx_case import compiled_and_compared
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.capture import capture
from instar.ir.errors import PassError
from instar.ir.evaluate import evaluate
from instar.ir.verify import verify
from instar.passes.promote_floats import PromoteFloats
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.dtypes import without_kernels


class Block(nn.Module):
    """Norm, layers, an activation without a float64 kernel, a mask with the lowest number of the dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.b(nn.functional.gelu(self.a(self.norm(x))))
        scores = (hidden @ x.t()).masked_fill(mask, torch.finfo(x.dtype).min)
        return x + scores.softmax(-1) @ hidden, x


class Plain(nn.Module):
    """Every operator that is said to have float64 kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.table = nn.LayerNorm(4), nn.Linear(4, 4), nn.Embedding(7, 4)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        y = self.a(self.norm(x) + self.table(ids)).tanh().sigmoid() / (x.abs() + 1).sqrt()
        z = torch.cat([y.relu(), -y.exp().log()], 1)[:, 1:5].softmax(-1) - x.mean(-1, keepdim=True) * x.sum()
        picked = z.gather(1, ids[:, None].clamp(max=3)) + z.amax(-1, keepdim=True) - z.amin(-1, keepdim=True)
        first, second = torch.where(z > 0, z, picked).unsqueeze(0).transpose(1, 2).chunk(2, 1)
        return torch.stack([first, second]).flatten(1).unbind(0)[0] @ torch.full((x.shape[0] * 2, 2), 0.5).to(x)


class Region(nn.Module):
    """A region that computes in bfloat16 within a float32 network."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.a(x)
        return self.b(y.float())


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [(torch.float16, {}), (torch.bfloat16, {"budget": instar.Budget(size="900%")}), (torch.float64, {})],
)
def test_a_network_of_another_dtype_compiles(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    model, mask = Block().eval().to(dtype), torch.eye(5, dtype=torch.bool)
    x = torch.randn(5, 16, dtype=dtype)
    expected = model(x, mask)[0].double()
    compiled = instar.compile(model, (x, mask), target="onnx", **settings)
    found, same = compiled(x, mask)
    assert (found.dtype, same.dtype) == (dtype, dtype)
    assert torch.equal(same, x)
    assert float((found.double() - expected).norm() / expected.norm()) < 0.02
    said = [note for note in compiled.report.data.notes if note.startswith("computed in float32, not in")]
    assert len(said) == (dtype != torch.float16)


def test_a_file_takes_float32_in_place_of_bfloat16() -> None:
    model, x = nn.Linear(4, 3).eval().to(torch.bfloat16), torch.randn(2, 4, dtype=torch.bfloat16)
    compiled = instar.compile(model, (x,), target="onnx")
    proto = cast(OnnxArtifact, compiled.artifact).lowered.proto()
    kinds = {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert any("float32 in place of bfloat16" in note for note in compiled.report.data.notes)


def test_float64_stays_float64_where_the_runtime_has_the_kernels() -> None:
    model, args = Plain().double(), (torch.randn(5, 4, dtype=torch.float64), torch.randint(0, 7, (5,)))
    assert without_kernels(capture(model.eval(), args)) == ()
    compiled_and_compared(model, args, tolerance=1e-9)


def test_an_autocast_region_is_computed_in_float32() -> None:
    model, x = Region().eval(), torch.randn(4, 8)
    compiled = instar.compile(model, (x,), target="onnx")
    exact = model.b(model.a(x))
    torch.testing.assert_close(compiled(x), exact)
    assert float((compiled(x) - model(x)).norm() / exact.norm()) < 0.02


def test_promotion_keeps_the_call_and_the_numbers() -> None:
    model, args = Block().to(torch.bfloat16).eval(), (torch.randn(5, 16).bfloat16(), torch.eye(5, dtype=torch.bool))
    graph = capture(model, args)
    promoted = PromoteFloats()(graph).graph
    verify(promoted)
    assert promoted.inputs == graph.inputs
    assert [o.tensor_type.dtype for o in promoted.output_nodes] == [torch.bfloat16] * 2
    wide = Block().eval()
    wide.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    expected = wide(args[0].float(), args[1])[0].bfloat16()
    torch.testing.assert_close(evaluate(promoted, args)[0], expected, rtol=0.01, atol=1e-3)
    assert PromoteFloats(("f16",))(graph).graph is graph


def test_what_cannot_be_promoted_is_refused() -> None:
    class Bits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(torch.int16) & 1

    graph = capture(Bits(), (torch.randn(3).bfloat16(),))
    with pytest.raises(PassError, match=r"op aten.view.dtype .*reads the bits.*call model.float\(\)"):
        PromoteFloats()(graph)
    with pytest.raises(PassError, match="expected dtypes such as bf16, f16 or f64; found 'int8'"):
        PromoteFloats(("int8",))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize(("stored", "kernel"), [("int7:channel", "int8"), ("int4:g32", "nbits")])
def test_kernels_that_round_inputs_are_offered_for_float32_alone(dtype: torch.dtype, stored: str, kernel: str) -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval().to(dtype)
    x = torch.randn(4, 64, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    reason = f"{stored}: kernel {kernel} rounds inputs of float32, this layer's are {name}"
    compiled = instar.compile(model, (x,), target="onnx", formats=[stored], activations=["dynamic_int8"])
    assert {d.chosen.option.kernel for d in compiled.plan.decisions} == {"float"}
    assert all(reason in decision.refused for decision in compiled.plan.decisions)
    assert any("activations = dynamic_int8 has no effect for 0, 2" in note for note in compiled.report.data.notes)
    expected = model(x).double()
    assert float((compiled(x).double() - expected).norm() / expected.norm()) < 0.15


class BatchSecond(nn.Module):
    """Layers read what was transposed, as recurrent ones with ``batch_first`` do."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.head(self.cell(x)[0]), self.head(x.transpose(0, 1)), x.permute(1, 2, 0) @ x.transpose(0, 1)


@torch.no_grad()
def outputs(model: nn.Module, value: Tensor) -> tuple[Tensor, ...]:
    return model(value)


def test_transposed_float16_values_of_dynamic_sizes_are_multiplied() -> None:
    """ONNX Runtime 1.31 ends the process where it takes such a transposition into the product behind it."""
    torch.manual_seed(0)
    model = BatchSecond().eval().half()
    x, other = torch.randn(16, 5, 16).half(), torch.randn(16, 3, 16).half()
    shapes = ({1: Dim("time")},)
    cases: tuple[dict[str, Any], ...] = ({}, {"formats": ["int8:channel"]})
    for settings in cases:
        compiled = instar.compile(model, (x,), target="onnx", dynamic_shapes=shapes, **settings)
        for value in (x, other):
            for found, expected in zip(compiled(value), outputs(model, value), strict=True):
                assert float((found - expected).norm() / expected.norm()) < (0.02 if settings else 0.003)


class AddsUp(nn.Module):
    """Values of several rows fall on one."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        zero, spread = x.new_zeros(4, x.shape[1]), rows[:, None].expand(-1, x.shape[1])
        if self.way == "index_put":
            return zero.index_put((rows,), x, accumulate=True)
        if self.way == "index_add":
            return zero.index_add(0, rows, x)
        if self.way == "scatter_add":
            return zero.scatter_add(0, spread, x)
        return (zero + 1).scatter_reduce(0, spread, x, self.way)


@pytest.mark.parametrize("way", ["index_put", "index_add", "scatter_add", "sum", "prod"])
def test_sums_by_index_in_float16_are_computed_in_float32(way: str) -> None:
    """ONNX Runtime has no such sums in float16, and says so only when the file runs."""
    model = AddsUp(way).eval()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).half()
    rows = torch.tensor([0, 1, 1, 2, 0, 3])
    assert without_kernels(capture(model, (x, rows))) == ("f16",)
    compiled = instar.compile(model, (x, rows), target="onnx")
    torch.testing.assert_close(compiled(x, rows), model(x, rows), rtol=2e-3, atol=2e-3)
    assert any("not in float16" in note for note in compiled.report.data.notes)
