from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from instar.ir.capture import capture
from instar.ir.errors import PassError
from instar.ir.evaluate import bind_dims, call, evaluate, flatten_call
from instar.ir.graph import Graph, Node
from instar.ir.parse import parse_graph

TEXT = """\
dim batch in [2, 8]
input %x: f32[batch, 4]
input %y: f32[2*batch + 1]
%0 = aten.mul.Tensor(%x, batch) : f32[batch, 4]
%1 = aten.topk(%0, 2) : (f32[batch, 2], i64[batch, 2])
%2 = getitem(%1, 0) : f32[batch, 2]
return %2, batch*3, None
"""


class Model(nn.Module):
    def forward(self, x: torch.Tensor, scale: float, *, mask: torch.Tensor, flag: Any = None) -> dict[str, Any]:
        return {"y": x * scale * mask, "flag": flag}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Model().eval(), (torch.ones(2, 3), 2.0), {"mask": torch.ones(3), "flag": None})


def test_sizes_are_read_off_the_inputs() -> None:
    graph = parse_graph(TEXT)
    assert bind_dims(graph, [torch.ones(3, 4), torch.ones(7)]) == {"batch": 3}
    values = evaluate(graph, [torch.ones(3, 4), torch.ones(7)])
    assert torch.equal(values[0], torch.full((3, 2), 3.0))
    assert values[1:] == [9, None]


def test_a_size_that_is_only_part_of_an_expression_is_solved_for() -> None:
    graph = parse_graph(TEXT.replace("input %x: f32[batch, 4]\n", "").split("%0")[0] + "return batch")
    assert evaluate(graph, [torch.ones(7)]) == [3]


def test_an_observer_sees_every_value_in_order() -> None:
    graph = parse_graph(TEXT)
    seen: list[Node] = []
    evaluate(graph, [torch.ones(2, 4), torch.ones(5)], lambda node, _: seen.append(node))
    assert tuple(seen) == graph.nodes()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([torch.ones(2, 4)], "inputs: expected 2 tensors; found 1"),
        (
            [torch.ones(2, 4).double(), torch.ones(5)],
            r"expected f32\[batch, 4\]; found torch.float64 \[2, 4\]",
        ),
        ([torch.ones(2), torch.ones(5)], r"input x: expected f32\[batch, 4\]; found torch.float32 \[2\]"),
        (
            [torch.ones(2, 5), torch.ones(5)],
            r"input x: expected f32\[batch, 4\]; found torch.float32 \[2, 5\], whose axis 1 was fixed to 4 at capture; "
            "pass dynamic_shapes=... to compile, so that it may vary",
        ),
        (
            [torch.ones(2, 4), torch.ones(6)],
            r"input y: .*; found torch.float32 \[6\], whose axis 0 would have to be 5 \(2\*batch \+ 1\)",
        ),
        ([torch.ones(9, 4), torch.ones(19)], r"dimension batch: expected a size in \[2, 8\]; found 9"),
    ],
)
def test_inputs_that_do_not_fit_are_explained(inputs: list[torch.Tensor], message: str) -> None:
    with pytest.raises(PassError, match=message):
        evaluate(parse_graph(TEXT), inputs)


def test_an_op_that_fails_is_named() -> None:
    text = "input %i: i64[2]\nconst @w: f32[3, 4]\n%0 = aten.embedding(@w, %i) : f32[2, 4]\nreturn %0"
    graph = parse_graph(text, {"w": torch.ones(3, 4)})
    with pytest.raises(PassError, match=r"aten.embedding.default \(unknown origin\): index out of range"):
        evaluate(graph, [torch.tensor([0, 9])])


def test_a_call_takes_arguments_by_position_and_by_name(graph: Graph) -> None:
    x, mask = torch.ones(2, 3), torch.zeros(3)
    for found in (
        call(graph, (x, 2.0), {"mask": mask, "flag": None}),
        call(graph, (x,), {"flag": None, "mask": mask, "scale": 2.0}),
        call(graph, (), {"mask": mask, "x": x, "scale": 2.0, "flag": None}),
        call(graph, (x, 2.0, mask, None)),
    ):
        assert list(found) == ["y", "flag"]
        assert found["flag"] is None
        assert torch.equal(found["y"], torch.zeros(2, 3))


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((ONES, 2.0), {}, r"call: expected \(x, scale, mask, flag\); missing: mask, flag"),
        ((ONES, 2.0), {"mask": ONES[0], "flag": None, "maks": 1}, "unknown: maks"),
        ((ONES, 2.0), {"mask": ONES[0], "flag": None, "x": ONES}, "given twice: x"),
        ((ONES, 2.0, ONES, None, 1), {}, "found 5 arguments"),
        ((ONES, 3.0, ONES[0], None), {}, "an argument was fixed to 2.0 at capture; found 3.0; capture again"),
        ((ONES, 2, ONES[0], None), {}, "fixed to 2.0 at capture; found 2"),
        ((ONES, 2.0, ONES[0], ONES), {}, "fixed to None"),
        ((ONES, 2.0, 1, None), {}, "expected a tensor, as at capture; found int 1"),
        (([ONES, ONES], 2.0, ONES[0], None), {}, "expected arguments of structure"),
    ],
)
def test_calls_that_do_not_fit_are_explained(
    graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(PassError, match=message):
        call(graph, args, kwargs)


def test_a_graph_without_signature_takes_flat_tensors() -> None:
    graph = parse_graph("input %x: f32[2]\nreturn %x")
    assert torch.equal(call(graph, (torch.ones(2),)), torch.ones(2))
    with pytest.raises(PassError, match="expected flat tensors by position; found keywords x"):
        flatten_call(graph, (), {"x": torch.ones(2)})
    with pytest.raises(PassError, match="expected a tensor"):
        flatten_call(graph, (3,), {})


def test_a_chain_of_twenty_thousand_nodes_runs() -> None:
    lines = [f"%{i + 1} = aten.neg(%{i}) : f32[1]" for i in range(20_000)]
    text = "\n".join(["input %x: f32[1]", "%0 = aten.neg(%x) : f32[1]", *lines, "return %20000"])
    assert evaluate(parse_graph(text), [torch.ones(1)])[0].item() == -1.0
