from __future__ import annotations

import pytest
import torch

from instar.ir.context import Context
from instar.ir.errors import VerifyError
from instar.ir.graph import Graph, Node, Origin
from instar.ir.op import GETITEM, op
from instar.ir.types import DimRange, TensorType, symbol
from instar.ir.verify import list_errors, verify

MATRIX = TensorType(torch.float32, (symbol("batch"), 4))


def _relu(context: Context, x: Node, kind: TensorType) -> Node:
    return context.node_of(op("aten.relu"), (("self", x),), kind, Origin("layer.0", "model.py:7"))


def test_a_well_formed_graph_has_no_errors() -> None:
    context = Context([DimRange("batch")])
    x = context.input("x", MATRIX)
    assert list_errors(context.graph([x], [_relu(context, x, MATRIX)])) == []


def test_every_error_is_listed_at_once() -> None:
    context = Context([DimRange("batch")])
    x, hidden, named = (context.input(name, MATRIX) for name in ("x", "hidden", "twice"))
    other = Context().input("twice", TensorType(torch.int64, (2,)))
    wrong = _relu(context, x, TensorType(torch.float64, (symbol("batch"), 4)))
    stranger = context.input("stranger", TensorType(torch.float32, (symbol("rows"),)))
    refused = context.node_of(op("aten.mm"), (("self", x), ("mat2", x)), MATRIX, Origin())
    single = context.node_of(GETITEM, (("value", x), ("index", 0)), MATRIX, Origin())
    graph = context.graph([x, named, other, stranger], [wrong, hidden, refused, single])
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    text = str(caught.value)
    assert text.startswith("6 error(s) in the graph:")
    assert "%0 (layer.0 at model.py:7): aten.relu(%x): expected f32[batch, 4]; found f64[batch, 4]" in text
    assert "%hidden (unknown origin): used but not among the graph's inputs" in text
    assert "dimension 'rows' is not declared" in text
    assert "aten.mm(%x, %x): op aten.mm.default" in text
    assert "getitem of a node with one result" in text
    assert "%twice: two different values have this name" in text


def test_an_op_whose_type_was_given_wrongly_is_found_also_after_a_right_one() -> None:
    context = Context([DimRange("batch")])
    x = context.input("x", MATRIX)
    good = context.node("aten.tanh", x)
    bad = context.node_of(op("aten.tanh"), (("self", good),), TensorType(torch.float32, (1,)))
    assert len(list_errors(context.graph([x], [good, bad]))) == 1


def _constants(context: Context) -> Graph:
    first = context.constant("w", torch.ones(2))
    clash = Context().constant("w", torch.ones(2))
    return context.graph([], [first, context.constant_of(clash.handle)])


def test_two_constants_of_one_name_are_found() -> None:
    with pytest.raises(VerifyError, match="@w: two different values have this name"):
        verify(_constants(Context()))
