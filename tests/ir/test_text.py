from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.constants import ConstantHandle
from instar.ir.context import Context
from instar.ir.errors import ParseError
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph, Node
from instar.ir.parse import parse_graph
from instar.ir.types import DimRange, TensorType
from instar.ir.verify import verify

DIMS = [DimRange("batch", 1, 64), DimRange("n", 0), DimRange("length", 2, 32)]
NAMES = ["w", "a.b-c", "a b", "x, y]) : (", 'quote"\\', "", "ü", "0"]

TEXT = """\
dim batch in [1, 64]
input %x: f32[batch, 4]
const @w: f32[3, 4]
%0 = aten.linear(%x, @w) : f32[batch, 3]
%1 = aten.topk(%0, 2) : (f32[batch, 2], i64[batch, 2])
%2 = getitem(%1, 0) : f32[batch, 2]
return %2, batch, None, "s"
"""


def test_text_is_what_the_parser_reads() -> None:
    graph = parse_graph(TEXT, {"w": torch.ones(3, 4)})
    verify(graph)
    assert graph.text() == TEXT == str(graph)
    assert graph.ops() == {"aten.linear": 1, "aten.topk": 1}
    assert repr(graph.constants()[0].handle) == "@w: f32[3, 4]"


def test_comments_and_blank_lines_are_passed_over() -> None:
    assert parse_graph("# a comment\n\n" + TEXT.replace("%1 =", "\n  %1 =")).text() == TEXT


def test_without_values_a_constant_can_be_typed_but_not_read() -> None:
    graph = parse_graph(TEXT)
    verify(graph)
    with pytest.raises(ParseError, match=r"constant @w: the text was parsed without values; pass constants="):
        evaluate(graph, [torch.ones(2, 4)])


def _replace(line: int, text: str) -> str:
    lines = TEXT.splitlines()
    return "\n".join([*lines[: line - 1], text, *lines[line:]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_replace(1, "dim batch"), "line 1: expected 'dim NAME in"),
        (_replace(2, "input x f32"), "line 2: expected 'input %NAME: TYPE'"),
        (_replace(2, "input %x: f32[rows, 4]"), "rows"),
        (_replace(3, "const w: f32[3, 4]"), "line 3: expected a constant such as @name"),
        (_replace(3, "dim late in [1, 2]"), "before the first input"),
        (_replace(3, "input %x: f32[batch, 4]"), "line 3: %x: expected a new name"),
        (_replace(4, "%0 = aten.linear(%x, @w)"), "line 4: expected '%N = op"),
        (_replace(4, "%0 = aten.lineer(%x, @w) : f32[batch, 3]"), "did you mean 'linear'"),
        (_replace(4, "%0 = aten.linear(%x, @v) : f32[batch, 3]"), "expected a value defined above; found @v"),
        (
            _replace(4, "%0 = aten.linear(%x, @w) : f32[batch, 9]"),
            r"expected type f32\[batch, 9\]; the op gives f32\[batch, 3\]",
        ),
        (_replace(4, "%0 = aten.linear(%x, @w, %x) : f32[batch, 3]"), "torch refuses"),
        (_replace(4, "%0 = aten.relu_(%x) : f32[batch, 4]"), "expected a functional operator"),
        (_replace(4, '%0 = aten.from_file("secret") : f32[batch, 4]'), "it reads files"),
        (_replace(4, "%0 = aten.sum(%x, dtype=dtype:f99) : f32[]"), "expected a known dtype value; found 'f99'"),
        (_replace(4, "%0 = aten.sum(%x, dtype=torch:nowhere) : f32[]"), "expected a known torch value"),
        (_replace(4, "%0 = aten.sum(%x, dtype=what:f32) : f32[]"), "expected dtype:, torch: or complex:"),
        (_replace(4, '%0 = aten.gelu(%x, approximate="a) : f32[]'), "expected a string"),
        (_replace(6, "%2 = getitem(%1, 7) : f32[batch, 2]"), "expected an index below 2; found 7"),
        (_replace(6, "%2 = getitem(%0, 0) : f32[batch, 2]"), "expected a value with several results"),
        (_replace(6, "%2 = getitem(%1) : f32[batch, 2]"), "expected a value with several results"),
        (_replace(7, ""), "expected a last line 'return"),
        (TEXT + "return %2", "expected nothing after 'return'"),
        (_replace(7, "return 1.5*2"), "expected a value"),
    ],
)
def test_every_departure_from_the_grammar_is_explained(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse_graph(text)


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ParseError, match=r"constant @w: expected a tensor of type f32\[3, 4\]; found f64\[3, 4\]"):
        parse_graph(TEXT, {"w": torch.ones(3, 4, dtype=torch.float64)})


@given(st.text(alphabet='%@[](){}:=,". \\abx01-\n', max_size=80))
def test_no_text_does_more_than_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError):
        parse_graph(text)


VALUES: list[Any] = [
    0,
    -3,
    2**40,
    True,
    0.0,
    -0.0,
    1e-300,
    1 / 3,
    1e22,
    float("inf"),
    -float("inf"),
    float("nan"),
    1 + 2j,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_number_reads_back_with_its_type(value: complex) -> None:
    context = Context()
    x = context.input("x", TensorType(torch.complex64, (2,)))
    text = context.graph([x], [context.node("aten.mul.Tensor", x, value)]).text()
    read = parse_graph(text)
    found = read.output_nodes[0].argument("other")
    assert type(found) is type(value)
    assert repr(found) == repr(value)
    assert read.text() == text


def test_all_kinds_of_arguments_read_back() -> None:
    context = Context([DIMS[0]])
    x = context.input("x", TensorType(torch.float32, (DIMS[0].symbol, 4)))
    nodes = [
        context.node("aten.to.dtype", x, torch.bfloat16, memory_format=torch.contiguous_format),
        context.node("aten.arange", DIMS[0].symbol * 2 + 1, device=torch.device("cpu"), layout=torch.strided),
        context.node("aten.index.Tensor", x, [None, context.constant("i", torch.tensor([1, 2]))]),
        context.node("aten.gelu", x, approximate="tanh"),
        context.node("aten.einsum", "ij,kj->ik", [x, x]),
        context.node("aten.full", (2,), True),
    ]
    graph = context.graph([x], nodes)
    assert parse_graph(graph.text(), {"i": torch.tensor([1, 2])}).text() == graph.text()


# ------------------------------------------------------------------------------------------------ random graphs
UNARY = ["aten.relu", "aten.tanh", "aten.neg", "aten.abs"]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    context = Context(DIMS)
    shape = draw(
        st.lists(st.sampled_from([2, 3, DIMS[0].symbol, DIMS[1].symbol * 2, DIMS[2].symbol]), min_size=1, max_size=3)
    )
    kind = TensorType(torch.float32, tuple(shape))
    nodes: list[Node] = [context.input(f"x{i}", kind) for i in range(draw(st.integers(1, 2)))]
    inputs = list(nodes)
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3))
    nodes += [context.constant(name, torch.full((1,), float(i))) for i, name in enumerate(names)]
    for _ in range(draw(st.integers(0, 8))):
        nodes.append(_grow(draw, context, nodes))
    outputs: Sequence[Any] = draw(st.lists(st.sampled_from([*nodes, None, 3, DIMS[2].symbol]), max_size=3))
    return context.graph(inputs, outputs)


def _grow(draw: st.DrawFn, context: Context, nodes: list[Node]) -> Node:
    first, second = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
    choice = draw(st.integers(0, 3))
    if choice == 0:
        return context.node(draw(st.sampled_from(UNARY)), first)
    if choice == 1:
        return context.node("aten.mul.Tensor", first, draw(st.sampled_from([2, 0.5, -0.0, True])))
    if choice == 2:
        return context.item(context.node("aten.var_mean.correction", first, [0], keepdim=True), draw(st.integers(0, 1)))
    fits = first.type == second.type or second.is_constant
    return context.node("aten.add.Tensor", first, second if fits else first)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_random_graphs_verify_and_read_back(graph: Graph) -> None:
    verify(graph)
    constants = {n.handle.name: n.handle.tensor for n in graph.constants()}
    read = parse_graph(graph.text(), constants)
    assert read.text() == graph.text()
    assert read.fingerprint() == graph.fingerprint()


def test_the_fingerprint_depends_on_values_and_not_on_the_way_the_graph_was_built() -> None:
    def fingerprint(value: float, *, extra: bool = False) -> str:
        context = Context(DIMS)
        x = context.input("x", TensorType(torch.float32, (3,)))
        if extra:
            context.node("aten.tanh", x)
        weight = context.constant_of(ConstantHandle.of("w", torch.full((3,), value)))
        return context.graph([x], [context.node("aten.add.Tensor", x, weight)]).fingerprint()

    assert fingerprint(1.0) == fingerprint(1.0, extra=True)
    assert fingerprint(1.0) != fingerprint(2.0)


def test_fingerprints_are_the_same_in_every_process() -> None:
    expected = "55a81a0c"
    assert parse_graph(TEXT, {"w": torch.ones(3, 4)}).fingerprint()[:8] == expected
