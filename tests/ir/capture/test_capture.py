from __future__ import annotations

import pytest
import torch
from capture_models import EXAMPLES, ROWS, WIDE, Example, Keywords, OddNames, SharedStorage, Tied, X, same
from torch import Tensor, nn
from torch.export import Dim

from instar.ir.capture import capture
from instar.ir.errors import PassError
from instar.ir.evaluate import call
from instar.ir.graph import Graph
from instar.ir.parse import parse_graph
from instar.ir.verify import verify


def captured(example: Example) -> Graph:
    return capture(example.model, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_captured_model_is_the_model(name: str) -> None:
    example = EXAMPLES[name]
    graph = captured(example)
    verify(graph)
    assert parse_graph(graph.text()).text() == graph.text()
    module = graph.to_module()
    for args in (example.args, *example.others):
        expected = example.model(*args, **example.kwargs)
        same(call(graph, args, example.kwargs), expected)
        same(module(*args, **example.kwargs), expected)
    again = capture(module, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes)
    assert again.text() == graph.text()
    assert again.fingerprint() == graph.fingerprint()


def test_tied_weights_are_one_constant_with_two_names() -> None:
    model = Tied().eval()
    graph = capture(model, torch.tensor([[1, 2]]))
    (constant,) = graph.constants()
    assert (constant.handle.name, constant.handle.aliases) == ("embed.weight", ("head.weight",))
    module = graph.to_module()
    assert module.get_parameter("embed.weight") is module.get_parameter("head.weight")
    assert list(module.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("model", [OddNames(), SharedStorage()], ids=lambda m: type(m).__name__)
def test_the_state_dict_keeps_its_names(model: nn.Module) -> None:
    module = capture(model.eval(), (X,)).to_module()
    assert set(module.state_dict()) == set(model.state_dict())
    assert all(not p.requires_grad for p in module.parameters())


def test_views_of_one_storage_stay_apart() -> None:
    graph = capture(SharedStorage().eval(), (X,))
    kinds = {n.handle.name: n.handle.kind for n in graph.constants()}
    assert kinds == {
        "top": "parameter",
        "bottom": "parameter",
        "turned": "parameter",
        "spread": "buffer",
        "hidden": "constant",
    }


def test_nothing_of_the_model_changes() -> None:
    model = SharedStorage().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    capture(model, (X,))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_dimensions_have_the_users_names() -> None:
    graph = captured(EXAMPLES["derived"])
    assert [str(n.type) for n in graph.inputs] == ["f32[2*batch, 4]", "f32[batch, 4]"]
    assert graph.text().startswith("dim batch in [")
    keyed = capture(
        Keywords().eval(), (X,), {"mask": X}, dynamic_shapes={"mask": {0: Dim("rows")}, "x": {0: Dim("rows")}}
    )
    assert [str(n.type) for n in keyed.inputs] == ["f32[rows, 4]", "f32[rows, 4]"]


def test_names_that_text_could_not_hold_are_changed() -> None:
    graph = capture(nn.ReLU().eval(), (X,), dynamic_shapes=({0: Dim("inf"), 1: Dim("lambda_")},))
    assert [str(n.type) for n in graph.inputs] == ["f32[inf_, lambda_]"]
    assert parse_graph(graph.text()).text() == graph.text()


def test_sizes_without_names_are_named_after_the_input() -> None:
    graph = capture(nn.ReLU().eval(), (X,), dynamic_shapes=({0: Dim.AUTO},))
    assert str(graph.inputs[0].type) == "f32[input_dim0, 4]"


def test_exported_programs_are_taken_with_their_dynamic_shapes() -> None:
    program = torch.export.export(nn.Linear(4, 2).eval(), (X,), dynamic_shapes=ROWS)
    assert str(capture(program).inputs[0].type) == "f32[input_dim0, 4]"
    graph = capture(program, (X,), dynamic_shapes=ROWS)
    assert str(graph.inputs[0].type) == "f32[batch, 4]"
    same(call(graph, (WIDE,)), program.module()(WIDE))


def test_nodes_know_where_they_came_from() -> None:
    graph = captured(EXAMPLES["transformer"])
    (attention,) = [n for n in graph.nodes() if n.op.short_name == "aten.scaled_dot_product_attention"]
    assert attention.origin.module == "self_attn"
    shapes = captured(EXAMPLES["shapes"])
    assert {n.origin.source.split(":")[0] for n in shapes.output_nodes} == {"capture_models.py"}


def test_a_module_takes_arguments_by_name_and_refuses_other_fixed_values() -> None:
    module = capture(Keywords().eval(), (X,), {"scale": 3.0}).to_module()
    torch.testing.assert_close(module(x=X, scale=3.0), X * 3 + 1)
    with pytest.raises(PassError, match=r"expected 3.0, fixed at capture; found 4.0; capture again"):
        module(X, scale=4.0)


def test_a_graph_is_captured_without_gradients_and_module_trains_after_asking() -> None:
    module = capture(nn.Linear(4, 2).eval(), (X,)).to_module()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    module(X).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


class Picks(nn.Module):
    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        return torch.take_along_dim(x, where, self.axis), x.take_along_dim(where % 2, dim=self.axis)


@pytest.mark.parametrize(("axis", "shape"), [(1, (-1, 1, 5)), (-1, (-1, 7, 2)), (2, (1, 7, 3)), (None, (-1, 7, 5))])
def test_taking_along_a_dimension_takes_every_batch(axis: int | None, shape: tuple[int, ...]) -> None:
    def inputs(batch: int) -> tuple[Tensor, Tensor]:
        size = [batch if n == -1 else n for n in shape]
        return torch.randn(batch, 7, 5), torch.randint(0, 5, size)

    torch.manual_seed(0)
    batch = Dim("batch", max=64)
    shapes = ({0: batch}, {0: batch} if shape[0] == -1 else None)
    graph = capture(Picks(axis), inputs(3), dynamic_shapes=shapes)
    for size in (3, 6):
        given = inputs(size)
        for found, expected in zip(call(graph, given), Picks(axis)(*given), strict=True):
            assert torch.equal(found, expected)
