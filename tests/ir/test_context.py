from __future__ import annotations

import gc
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instar.ir.constants import ConstantHandle
from instar.ir.context import Context
from instar.ir.errors import CaptureError, ParseError, VerifyError
from instar.ir.graph import Node, type_text
from instar.ir.op import op
from instar.ir.types import DimRange, TensorType, symbol

BATCH = DimRange("batch", 1, 64)
MATRIX = TensorType(torch.float32, (BATCH.symbol, 4))


def live(context: Context) -> int:
    """How many nodes the context knows."""
    return len(cast(Any, context)._nodes)


def test_structurally_equal_nodes_are_one_object() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    assert context.node("aten.relu", x) is context.node("aten.relu", x)
    assert context.node("aten.sum.dim_IntList", x, [1]) is context.node("aten.sum.dim_IntList", x, (1,), keepdim=False)
    assert context.input("x", MATRIX) is x


@given(st.sampled_from([(True, 1), (False, 0), (0.0, -0.0), (1, 1.0), (1.0, True)]))
def test_values_that_only_compare_equal_are_different(pair: tuple[float, float]) -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    first, second = (context.node("aten.mul.Tensor", x, value) for value in pair)
    assert first is not second


def test_an_input_has_one_type() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    assert x.type == MATRIX
    with pytest.raises(ParseError, match=r"input %x: expected one type per name; found f32\[batch, 4\] and f32\[4\]"):
        context.input("x", TensorType(torch.float32, (4,)))


def test_nan_arguments_are_one_node() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    assert context.node("aten.mul.Tensor", x, float("nan")) is context.node("aten.mul.Tensor", x, float("nan"))


def test_constants_are_equal_by_identity_only() -> None:
    context = Context()
    tensor = torch.ones(3)
    first, second = context.constant("w", tensor), context.constant("w", tensor)
    assert first is not second
    assert [first.handle.name, second.handle.name] == ["w", "w.1"]
    assert context.constant_of(first.handle) is first


def test_names_avoid_each_other() -> None:
    context = Context()
    context.constant("w.1", torch.ones(1))
    names = [context.constant("w", torch.ones(1)).handle.name for _ in range(3)]
    assert names == ["w", "w.2", "w.3"]


def test_nodes_that_nothing_holds_are_freed() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    node = context.node("aten.relu", x)
    assert live(context) == 2
    del node
    gc.collect()
    assert live(context) == 1


def test_rebuilding_with_nothing_replaced_gives_the_same_object() -> None:
    context = Context([BATCH])
    x, y = (context.input(name, MATRIX) for name in "xy")
    node = context.node("aten.add.Tensor", x, x)
    assert context.rebuild(node, {y: x}) is node
    assert context.rebuild(node, {x: x}) is node
    assert context.rebuild(node, {x: y}) is context.node("aten.add.Tensor", y, y)


def test_a_chain_of_twenty_thousand_nodes() -> None:
    context = Context([BATCH])
    x = node = context.input("x", MATRIX)
    for step in range(20_000):
        node = context.node("aten.add.Tensor", node, x) if step % 2 else context.node("aten.relu", node)
    graph = context.graph([x], [node])
    assert len(graph.nodes()) == 20_001
    assert graph.text().count("\n") == 20_003
    assert len(graph.users()[x]) == 10_001
    del graph, node
    gc.collect()
    assert live(context) == 1


def test_arguments_are_bound_by_name_and_defaults_left_out() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    node = context.node("aten.softmax.int", x, dim=-1, dtype=None)
    assert node.arguments == (("self", x), ("dim", -1))
    assert node.argument("dtype", "absent") is None


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("aten.relu", (1, 2), {}, "expected at most 1 arguments; found 2"),
        ("aten.softmax.int", (), {"dims": 1}, "no parameter 'dims'; did you mean 'dim'"),
        ("aten.softmax.int", (), {"dim": 1}, "expected an argument for 'self'"),
        ("aten.softmaxx", (), {}, "no such torch operator; did you mean 'softmax'"),
        ("aten.add.Tenso", (), {}, "expected one of its overloads"),
        ("aten.softmax", (), {}, "expected one of its overloads"),
        ("import_module.x", (), {}, "no such torch operator"),
        ("a-b", (), {}, "no such torch operator"),
    ],
)
def test_wrong_calls_are_explained(name: str, args: tuple[int, ...], kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ParseError, match=message):
        Context().node(name, *args, **kwargs)


def test_ops_that_write_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"aten.add_.Tensor: expected a functional operator"):
        op("aten.add_.Tensor")


def test_types_are_inferred_with_named_dimensions() -> None:
    context = Context([BATCH, DimRange("length", 2, 8)])
    x = context.input("x", TensorType(torch.float32, (symbol("batch"), symbol("length"), 4)))
    weight = context.constant("w", torch.ones(5, 4))
    assert str(context.node("aten.linear", x, weight).type) == "f32[batch, length, 5]"
    assert str(context.node("aten.view", x, (symbol("batch") * symbol("length"), 4)).type) == "f32[batch*length, 4]"
    assert str(context.node("aten.pad", x, (1, 1), value=0.0).type) == "f32[batch, length, 6]"
    assert type_text(context.node("aten.topk", x, 2).type) == "(f32[batch, length, 2], i64[batch, length, 2])"


def test_torchs_refusal_names_the_op_and_the_types() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    weight = context.constant("w", torch.ones(5, 3))
    with pytest.raises(
        VerifyError, match=r"linear.default\(input=f32\[batch, 4\], weight=f32\[5, 3\]\): torch refuses"
    ):
        context.node("aten.linear", x, weight)


def test_an_op_that_fits_one_size_only_is_refused_and_later_ones_are_not() -> None:
    context = Context([BATCH])
    x = context.input("x", MATRIX)
    hint = next(n for n in range(2, 64) if not _refused(context, x, n))
    with pytest.raises(VerifyError, match=f"fits only where batch is {hint}"):
        context.node("aten.add.Tensor", x, context.constant("w", torch.ones(hint, 4)))
    assert str(context.node("aten.relu", x).type) == "f32[batch, 4]"


def _refused(context: Context, x: Node, size: int) -> bool:
    """Whether torch itself refuses to add ``size`` rows, because its example for the batch is another number."""
    with pytest.raises(VerifyError) as caught:
        context.node("aten.add.Tensor", x, context.constant("probe", torch.ones(size, 4)))
    return "fits only" not in str(caught.value)


def test_a_digest_depends_on_type_and_contents() -> None:
    tensors = [torch.zeros(2), torch.zeros(1, 2), torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, -0.0])]
    tensors += [
        torch.zeros(0),
        torch.zeros(()),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.complex128),
    ]
    digests = {ConstantHandle.of("w", t).digest for t in tensors}
    assert len(digests) == len(tensors)
    assert ConstantHandle.of("a", torch.ones(3, 2).t()).digest == ConstantHandle.of("b", torch.ones(2, 3)).digest
