from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from instar.ir.capture import capture
from instar.ir.constants import ConstantHandle
from instar.ir.context import Context
from instar.ir.errors import CaptureError, PassError
from instar.ir.evaluate import evaluate
from instar.ir.expressions import symbol
from instar.ir.fx_conversion import to_flat_module, to_module, unflatten_outputs
from instar.ir.parse import parse_graph
from instar.ir.types import DimRange, TensorType


def test_a_graph_without_signature_becomes_a_module_of_flat_tensors() -> None:
    graph = parse_graph("input %a: f32[2]\ninput %b: f32[2]\n%0 = aten.sub.Tensor(%a, %b) : f32[2]\nreturn %0, %a")
    one, two = torch.ones(2), torch.full((2,), 2.0)
    for module in (to_module(graph), to_flat_module(graph)):
        found = module(one, two)
        assert torch.equal(found[0], -one)
        assert found[1] is one
    assert unflatten_outputs(graph, [1, 2]) == (1, 2)


@pytest.mark.parametrize("shape", [("n", 4), ("2*n", 4), ("3*n + 1", 4), ("5*n - 2", 4)])
def test_sizes_are_read_off_the_inputs_or_solved_for(shape: tuple[str, int]) -> None:
    lines = [
        "dim n in [1, 9]",
        f"input %x: f32[{shape[0]}, 4]",
        "%0 = aten.full([n, n//2 + 1], 1.0) : f32[n, n//2 + 1]",
    ]
    graph = parse_graph("\n".join([*lines, "return %0, n*n"]))
    x = torch.ones(graph.inputs[0].tensor_type.sizes({"n": 6}))
    assert to_flat_module(graph)(x)[1] == 36
    assert to_flat_module(graph)(x)[0].shape == (6, 4)
    assert evaluate(graph, [x])[1] == 36


def test_a_dimension_that_no_input_has_is_named() -> None:
    context = Context([DimRange("n"), DimRange("m")])
    x = context.input("x", TensorType(torch.float32, (symbol("n") * symbol("m"),)))
    with pytest.raises(PassError, match="dimension n: no input has it among its sizes"):
        to_module(context.graph([x], [context.node("aten.full", (symbol("n"),), 1.0)]))


NAMES = [
    "weight",
    "weight.1",
    "weight.1.2",
    "graph",
    "training",
    "forward",
    "a.training.b",
    "class",
    "x.class",
    "",
    ".",
    'q"\\',
    "a\nb",
]


def test_names_that_get_in_each_others_way_still_make_a_module() -> None:
    context = Context()
    nodes = [context.constant(name, torch.full((1,), float(i))) for i, name in enumerate(NAMES)]
    module = to_flat_module(context.graph([], nodes))
    assert [t.item() for t in module()] == list(range(len(NAMES)))
    assert {"weight", "weight_.1"} <= set(module.state_dict())


def test_constants_that_a_state_dict_leaves_out() -> None:
    context = Context()
    kinds = ("parameter", "buffer", "derived", "constant")
    nodes = [context.constant(kind, torch.ones(1), kind) for kind in kinds]
    nodes.append(context.constant("integers", torch.ones(1, dtype=torch.int8), "parameter"))
    module = to_flat_module(context.graph([], nodes))
    assert list(module.state_dict()) == ["parameter", "buffer", "derived", "integers"]
    assert [name for name, _ in module.named_parameters()] == ["parameter"]
    assert "constant" in dict(module.named_buffers())


def test_aliases_are_the_same_parameter() -> None:
    context = Context()
    handle = ConstantHandle.of("a.w", torch.ones(2), aliases=("b.w", "a.w.deep"))
    module = to_flat_module(context.graph([], [context.constant_of(handle)]))
    assert set(module.state_dict()) == {"a.w", "b.w", "a.w_.deep"}
    assert len(list(module.parameters())) == 1


class Odd(nn.Module):
    def forward(self, input: torch.Tensor, *args: torch.Tensor, **kwargs: Any) -> torch.Tensor:  # noqa: A002
        return input + args[0] * kwargs["a b"]


def test_argument_names_that_torch_cannot_write_are_refused_at_capture() -> None:
    x = torch.ones(2)
    with pytest.raises(CaptureError, match="rename arguments that are no Python names or occur twice"):
        capture(Odd().eval(), (x, x * 2), {"a b": x * 3})


def test_argument_names_that_a_module_cannot_have_are_changed() -> None:
    x = torch.ones(2)
    graph = capture(nn.Bilinear(2, 2, 1).eval(), (x, x))
    assert graph.signature is not None
    odd = replace(graph.signature, names=("self", "self"))
    assert graph.context.graph(graph.inputs, graph.outputs, odd).to_module()(x, x).shape == (1,)


def test_a_chain_of_five_thousand_nodes_converts() -> None:
    lines = [f"%{i + 1} = aten.neg(%{i}) : f32[1]" for i in range(5000)]
    graph = parse_graph("\n".join(["input %x: f32[1]", "%0 = aten.neg(%x) : f32[1]", *lines, "return %5000"]))
    assert to_flat_module(graph)(torch.ones(1))[0].item() == -1.0
