"""Promotion to float64: dtypes everywhere, what an op gives narrow all the same, and ops that refuse."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from instar.ir.capture import capture
from instar.ir.errors import PassError
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph
from instar.ir.types import TensorType
from instar.ir.verify import verify
from instar.passes.promote import promote, promote_inputs

from .rewrite_case import body, draw_inputs, read


class Mixed(nn.Module):
    """Casts, factories, a softmax with a dtype, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(4, dtype=torch.float32) + torch.zeros(4)
        y = self.linear(x).to(torch.float16).float() + positions
        return torch.softmax(y, -1, dtype=torch.float32), y.argmax(-1) + i


def test_every_float_is_wide_and_integers_stay() -> None:
    x, i = torch.randn(3, 4), torch.tensor([1, 2, 3])
    graph = capture(Mixed().eval(), (x, i))
    wide = promote(graph).graph
    verify(wide)
    types = [t for n in wide.nodes() for t in (n.type if isinstance(n.type, tuple) else (n.type,))]
    assert {t.dtype for t in types if t.dtype.is_floating_point} <= {torch.float64, torch.float32}
    outputs = evaluate(wide, promote_inputs([x, i]))
    assert [o.dtype for o in outputs] == [torch.float64, torch.int64]
    linear = nn.functional.linear(x.double(), *(p.detach().double() for p in (graph_parameters(graph))))
    expected = torch.softmax(linear + torch.arange(4), -1)
    torch.testing.assert_close(outputs[0], expected, rtol=1e-12, atol=0)


def graph_parameters(graph: Graph) -> list[torch.Tensor]:
    named = {c.handle.name: c.handle.tensor for c in graph.constants()}
    return [named["linear.weight"], named["linear.bias"]]


def test_what_an_op_gives_narrow_is_cast_up() -> None:
    graph = read(
        """input %x: f32[2, 4]
        const @codes: u8[3, 2]
        const @scale: f16[3, 1]
        %0 = instar.dequantize(@codes, @scale, None, 4, 0, [3, 4]) : f32[3, 4]
        %1 = aten.linear(%x, %0) : f32[2, 3]
        %2 = aten.ones([3]) : f32[3]
        %3 = aten.add.Tensor(%1, %2) : f32[2, 3]
        return %3"""
    )
    wide = promote(graph).graph
    verify(wide)
    assert "%1 = aten._to_copy(%0, dtype=dtype:f64) : f64[3, 4]" in body(wide.text())
    (x,) = draw_inputs(graph)
    (narrow,), (found,) = evaluate(graph, [x]), evaluate(wide, promote_inputs([x]))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), narrow)


def test_several_results_and_complex_numbers() -> None:
    graph = read(
        """input %x: f32[4, 2]
        %0 = aten.view_as_complex(%x) : c64[4]
        %1 = aten.view_as_real(%0) : f32[4, 2]
        %2 = aten.split.Tensor(%1, 2) : (f32[2, 2], f32[2, 2])
        %3 = getitem(%2, 1) : f32[2, 2]
        return %3"""
    )
    wide = promote(graph).graph
    verify(wide)
    assert wide.output_nodes[0].type == TensorType(torch.float64, (2, 2))


def test_correspondence_of_nodes() -> None:
    graph = read("input %x: f32[2]\nconst @c: f32[2]\n%0 = aten.add.Tensor(%x, @c) : f32[2]\nreturn %0")
    promotion = promote(graph)
    assert [repr(promotion.nodes[n]) for n in graph.nodes()] == ["%x", "@c", "<aten.add.Tensor: f64[2]>"]
    constant = promotion.nodes[graph.constants()[0]].handle
    assert constant.tensor is not constant.tensor
    assert torch.equal(constant.tensor, graph.constants()[0].handle.tensor.double())


def test_reading_bits_is_refused() -> None:
    graph = read("input %x: f32[2]\n%0 = aten.view.dtype(%x, dtype:i32) : i32[2]\nreturn %0")
    message = "op aten.view.dtype (unknown origin): reads the bits of a number, which float64 has others of"
    with pytest.raises(PassError, match=re.escape(message)):
        promote(graph)


def test_an_op_that_refuses_float64_is_named() -> None:
    graph = read(
        "input %x: f32[2, 3]\ninput %y: f16[3, 4]\n%0 = aten._to_copy(%y, dtype=dtype:f8e4m3) : f8e4m3[3, 4]\n"
        "%1 = aten._to_copy(%0, dtype=dtype:f32) : f32[3, 4]\n%2 = aten.mm(%x, %1) : f32[2, 4]\nreturn %2"
    )
    assert promote(graph).graph.output_nodes[0].tensor_type.dtype == torch.float64
    mixed = read(
        """input %x: f32[4]
        const @s: f32[4]
        const @z: i32[4]
        %0 = aten.fake_quantize_per_channel_affine_cachemask(%x, @s, @z, 0, 0, 255) : (f32[4], bool[4])
        %1 = getitem(%0, 0) : f32[4]
        return %1"""
    )
    with pytest.raises(PassError, match=re.escape("op aten.fake_quantize_per_channel_affine_cachemask.default")):
        promote(mixed)
