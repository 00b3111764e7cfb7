from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from instar.ir.analysis import (
    Interval,
    bit_operations,
    bytes_moved,
    flops,
    flops_of,
    liveness,
    parameter_bytes,
    to_networkx,
)
from instar.ir.capture import capture
from instar.ir.context import Context
from instar.ir.errors import ConfigError
from instar.ir.graph import Graph
from instar.ir.parse import parse_graph
from instar.ir.types import TensorType

SIZES = {"batch": 2}


def costs(line: str, inputs: str, constants: str = "") -> int:
    """FLOPs of the last node of a graph of one line."""
    graph = graph_of(line, inputs, constants)
    return flops(graph, SIZES)[graph.output_nodes[-1]]


def graph_of(line: str, inputs: str, constants: str = "") -> Graph:
    head = ["dim batch in [1, 8]"]
    head += [f"input %{part}" for part in inputs.split("; ")]
    head += [f"const @{part}" for part in constants.split("; ") if part]
    return parse_graph("\n".join([*head, line, "return %0"]))


@pytest.mark.parametrize(
    ("line", "inputs", "constants", "expected"),
    [
        (
            "aten.linear(%x, @w, @b) : f32[batch, 5, 3]",
            "x: f32[batch, 5, 4]",
            "w: f32[3, 4]; b: f32[3]",
            2 * 2 * 5 * 3 * 4,
        ),
        ("aten.matmul(%x, %y) : f32[batch, 5, 6]", "x: f32[batch, 5, 4]; y: f32[4, 6]", "", 2 * 2 * 5 * 4 * 6),
        ("aten.matmul(%x, %x) : f32[]", "x: f32[7]", "", 2 * 7),
        ("aten.mm(%x, %y) : f32[batch, 6]", "x: f32[batch, 4]; y: f32[4, 6]", "", 2 * 2 * 4 * 6),
        ("aten.addmm(%b, %x, %y) : f32[batch, 6]", "b: f32[6]; x: f32[batch, 4]; y: f32[4, 6]", "", 2 * 2 * 4 * 6),
        ("aten.bmm(%x, %y) : f32[batch, 3, 5]", "x: f32[batch, 3, 4]; y: f32[batch, 4, 5]", "", 2 * 2 * 3 * 4 * 5),
        (
            "aten.conv2d(%x, @w, groups=2) : f32[batch, 6, 7, 7]",
            "x: f32[batch, 4, 9, 9]",
            "w: f32[6, 2, 3, 3]",
            2 * 2 * 6 * 49 * 18,
        ),
        ("aten.conv1d(%x, @w) : f32[6, 7]", "x: f32[4, 9]", "w: f32[6, 4, 3]", 2 * 6 * 7 * 12),
        (
            "aten.conv_transpose2d.input(%x, @w) : f32[batch, 6, 11, 11]",
            "x: f32[batch, 4, 9, 9]",
            "w: f32[4, 6, 3, 3]",
            2 * 2 * 81 * 4 * 6 * 9,
        ),
        (
            "aten.scaled_dot_product_attention(%q, %k, %k) : f32[batch, 4, 5, 8]",
            "q: f32[batch, 4, 5, 8]; k: f32[batch, 4, 7, 8]",
            "",
            2 * (2 * 2 * 4 * 5 * 7 * 8),
        ),
        (
            "aten.scaled_dot_product_attention(%q, %k, %k) : f32[5, 8]",
            "q: f32[5, 8]; k: f32[7, 8]",
            "",
            2 * (2 * 5 * 7 * 8),
        ),
        (
            'aten.einsum("bij,bkj->bik", [%x, %y]) : f32[batch, 3, 5]',
            "x: f32[batch, 3, 4]; y: f32[batch, 5, 4]",
            "",
            240,
        ),
        ('aten.einsum("...ij,jk", [%x, %y]) : f32[batch, 3, 5]', "x: f32[batch, 3, 4]; y: f32[4, 5]", "", 240),
        ('aten.einsum("ij->ji", [%x]) : f32[4, batch]', "x: f32[batch, 4]", "", 8),
        ("aten.add.Tensor(%x, %y) : f32[batch, 4]", "x: f32[batch, 4]; y: f32[4]", "", 8),
        ("aten.sum(%x) : f32[]", "x: f32[batch, 4]", "", 8),
        ("aten.cat([%x, %x]) : f32[2*batch, 4]", "x: f32[batch, 4]", "", 0),
        ("aten.embedding(@w, %i) : f32[batch, 4]", "i: i64[batch]", "w: f32[10, 4]", 0),
        ("aten.transpose.int(%x, 0, 1) : f32[4, batch]", "x: f32[batch, 4]", "", 0),
    ],
)
def test_operations_as_counted_by_hand(line: str, inputs: str, constants: str, expected: int) -> None:
    assert costs(f"%0 = {line}", inputs, constants) == expected


def test_a_network_costs_what_torch_counts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    x = torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    counted = flops(capture(model, (x,)))
    assert sum(n for node, n in counted.items() if "relu" not in node.op.name) == counter.get_total_flops()


def test_bytes_of_operands_and_results() -> None:
    graph = graph_of("%0 = aten.add.Tensor(%x, %x) : f32[batch, 4]", "x: f32[batch, 4]")
    assert bytes_moved(graph, SIZES)[graph.output_nodes[0]] == 32 + 32
    gather = graph_of("%0 = aten.embedding(@w, %i) : f32[batch, 4]", "i: i64[batch]", "w: f32[1000, 4]")
    assert bytes_moved(gather, SIZES)[gather.output_nodes[0]] == 2 * 32 + 16
    view = graph_of("%0 = aten.transpose.int(%x, 0, 1) : f32[4, batch]", "x: f32[batch, 4]")
    assert set(bytes_moved(view, SIZES).values()) == {0}
    assert (parameter_bytes(gather), parameter_bytes(view)) == (16000, 0)


CHAIN = """\
dim batch in [1, 8]
input %x: f32[batch, 4]
const @w: f32[100, 4]
%0 = aten.linear(%x, @w) : f32[batch, 100]
%1 = aten.transpose.int(%0, 0, 1) : f32[100, batch]
%2 = aten.sum(%1) : f32[]
%3 = aten.add.Tensor(%x, %2) : f32[batch, 4]
return %3
"""


def test_lifetimes_as_counted_by_hand() -> None:
    graph = parse_graph(CHAIN)
    found = liveness(graph, SIZES)
    x, weight, linear, view, total, result = graph.nodes()
    assert found.intervals == {
        x: Interval(0, 6, 32),
        linear: Interval(2, 5, 800),
        total: Interval(4, 6, 4),
        result: Interval(5, 6, 32),
    }
    assert weight not in found.intervals
    assert view not in found.intervals
    assert (found.peak_bytes, found.peak_step) == (32 + 800 + 4, 4)


def test_an_output_lives_to_the_end_also_through_a_view() -> None:
    graph = parse_graph(CHAIN.replace("return %3", "return %1, %3"))
    linear = graph.nodes()[2]
    assert liveness(graph, SIZES).intervals[linear] == Interval(2, 6, 800)


def test_sizes_that_are_missing_are_named() -> None:
    for analysis in (flops, bytes_moved, liveness):
        with pytest.raises(ConfigError, match=r"sizes: expected a value for batch; found none; pass \{'batch': 1\}"):
            analysis(parse_graph(CHAIN))


def test_the_networkx_view() -> None:
    graph = parse_graph(CHAIN)
    view = to_networkx(graph)
    assert (view.number_of_nodes(), view.number_of_edges()) == (6, 6)
    assert [view.nodes[n]["name"] for n in graph.nodes()] == ["%x", "@w", "%0", "%1", "%2", "%3"]
    assert view.nodes[graph.nodes()[2]]["op"] == "aten.linear"
    assert graph.to_networkx().edges == view.edges


def test_products_of_integers_cost_what_those_of_floats_do() -> None:
    context = Context()
    codes = context.input("codes", TensorType(torch.uint8, (3, 5, 32)))
    weight = context.input("weight", TensorType(torch.int8, (32, 24)))
    scale, zero = context.input("s", TensorType(torch.float32, ())), context.input("z", TensorType(torch.uint8, ()))
    rows = context.input("rows", TensorType(torch.float32, (24,)))
    product = context.node("instar.linear_int8", codes, scale, zero, weight, rows)
    assert flops_of(product, codes) == 2 * 3 * 5 * 32 * 24
    image = context.input("image", TensorType(torch.uint8, (2, 8, 7, 7)))
    window = context.input("window", TensorType(torch.int8, (16, 4, 3, 3)))
    steps = context.input("steps", TensorType(torch.float32, (16,)))
    options = (0.1, 3, window, steps, None, 0.2, 5, (1, 1), (1, 1), (1, 1), 2)
    convolved = context.node("instar.conv_int8", image, *options)
    assert flops_of(convolved, image) == 2 * (2 * 16 * 7 * 7) * (4 * 3 * 3)


def test_bit_operations_see_what_operands_are_stored_in_and_rounded_to() -> None:
    context = Context()
    x = context.input("x", TensorType(torch.float32, (5, 32)))
    codes = context.constant("codes", torch.zeros(24, 16, dtype=torch.uint8))
    scale = context.constant("scale", torch.ones(24, 1, dtype=torch.float16))
    weight = context.node("instar.dequantize", codes, scale, None, 4, 0, (24, 32))
    half = context.node("aten._to_copy", context.constant("h", torch.ones(24, 32).half()), dtype=torch.float32)
    rounded = context.node("instar.fake_quantize_dynamic", x, 8, "token", True)
    multiply_adds = 5 * 24 * 32
    for value, stored, bits in ((x, weight, 32 * 4), (rounded, weight, 8 * 4), (x, half, 32 * 16)):
        assert bit_operations(context.node("aten.linear", value, stored), x) == multiply_adds * bits
    both = context.node("aten.add.Tensor", weight, half)
    assert bit_operations(context.node("aten.linear", rounded, both), x) == multiply_adds * 8 * 20
    assert bit_operations(context.node("aten.relu", x), x) == 0
