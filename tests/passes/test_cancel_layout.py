"""Cancel layout: pairs that undo each other, directly, through elementwise ops, and around layers on tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instar.ir.parse import parse_graph
from instar.ir.verify import verify
from instar.passes.cancel_layout import CancelLayout, is_elementwise
from instar.passes.canonicalize import Canonicalize

from .rewrite_case import X, assert_agrees, check_rewrite, module_graph, read


def test_inverse_permutes_cancel_through_elementwise_ops() -> None:
    check_rewrite(
        X
        + """%0 = aten.permute(%x, [0, 2, 1]) : f64[2, 4, 3]
        %1 = aten.gelu(%0) : f64[2, 4, 3]
        %2 = aten.mul.Tensor(%1, 3.0) : f64[2, 4, 3]
        %3 = aten.permute(%2, [0, 2, 1]) : f64[2, 3, 4]
        return %3""",
        CancelLayout(),
        after="""%0 = aten.gelu(%x) : f64[2, 3, 4]
        %1 = aten.mul.Tensor(%0, 3.0) : f64[2, 3, 4]
        return %1""",
        fires={"permute-through-elementwise": 1},
    )


def test_other_operands_are_permuted_where_that_leaves_fewer_permutes() -> None:
    check_rewrite(
        X
        + """input %y: f64[2, 4, 3]
        const @c: f64[3]
        %0 = aten.permute(%x, [0, 2, 1]) : f64[2, 4, 3]
        %1 = aten.add.Tensor(%0, %y) : f64[2, 4, 3]
        %2 = aten.mul.Tensor(%1, @c) : f64[2, 4, 3]
        %3 = aten.permute(%2, [0, 2, 1]) : f64[2, 3, 4]
        return %3""",
        CancelLayout(),
        after="""%0 = aten.permute(%y, [0, 2, 1]) : f64[2, 3, 4]
        %1 = aten.add.Tensor(%x, %0) : f64[2, 3, 4]
        %2 = aten.reshape(@c, [1, 1, 3]) : f64[1, 1, 3]
        %3 = aten.permute(%2, [0, 2, 1]) : f64[1, 3, 1]
        %4 = aten.mul.Tensor(%1, %3) : f64[2, 3, 4]
        return %4""",
    )


def test_a_slice_is_taken_before_axes_are_permuted() -> None:
    check_rewrite(
        X
        + """%0 = aten.permute(%x, [2, 0, 1]) : f64[4, 2, 3]
        %1 = aten.select.int(%0, 0, 1) : f64[2, 3]
        %2 = aten.select.int(%0, -1, 2) : f64[4, 2]
        return %1, %2""",
        CancelLayout(),
        after="""%0 = aten.select.int(%x, 2, 1) : f64[2, 3]
        %1 = aten.select.int(%x, 1, 2) : f64[2, 4]
        %2 = aten.permute(%1, [1, 0]) : f64[4, 2]
        return %0, %2""",
        fires={"select-of-permute": 2},
    )


def test_permutes_that_do_not_cancel_are_joined() -> None:
    check_rewrite(
        X
        + """%0 = aten.permute(%x, [1, 2, 0]) : f64[3, 4, 2]
        %1 = aten.relu(%0) : f64[3, 4, 2]
        %2 = aten.permute(%1, [1, 0, 2]) : f64[4, 3, 2]
        return %2""",
        CancelLayout(),
        after="%0 = aten.permute(%x, [2, 1, 0]) : f64[4, 3, 2]\n%1 = aten.relu(%0) : f64[4, 3, 2]\nreturn %1",
    )


@pytest.mark.parametrize(
    "rest",
    [
        # The value in between is used as it is too.
        """%1 = aten.relu(%0) : f64[2, 4, 3]
        %2 = aten.permute(%1, [0, 2, 1]) : f64[2, 3, 4]
        return %1, %2""",
        # Softmax looks along an axis.
        """%1 = aten.softmax.int(%0, 2) : f64[2, 4, 3]
        %2 = aten.permute(%1, [0, 2, 1]) : f64[2, 3, 4]
        return %2""",
        # One permute goes, another comes.
        """%1 = aten.add.Tensor(%0, %y) : f64[2, 4, 3]
        %2 = aten.permute(%1, [0, 2, 1]) : f64[2, 3, 4]
        return %2, %0""",
        # The other operand has fewer axes and is not constant.
        """%1 = aten.add.Tensor(%0, %z) : f64[2, 4, 3]
        %2 = aten.permute(%1, [0, 2, 1]) : f64[2, 3, 4]
        return %2""",
    ],
)
def test_what_would_not_leave_fewer_permutes_stays(rest: str) -> None:
    head = X + "input %y: f64[2, 4, 3]\ninput %z: f64[3]\n%0 = aten.permute(%x, [0, 2, 1]) : f64[2, 4, 3]\n"
    check_rewrite(head + rest, CancelLayout(), after=head + rest, fires={})


def test_reshapes_cancel_through_elementwise_ops() -> None:
    check_rewrite(
        X
        + """%0 = aten.reshape(%x, [6, 4]) : f64[6, 4]
        %1 = aten.tanh(%0) : f64[6, 4]
        %2 = aten.reshape(%1, [2, 3, 4]) : f64[2, 3, 4]
        %3 = aten.reshape(%2, [24]) : f64[24]
        %4 = aten.neg(%3) : f64[24]
        %5 = aten.reshape(%4, [4, 6]) : f64[4, 6]
        return %2, %5""",
        CancelLayout(),
        after="""%0 = aten.tanh(%x) : f64[2, 3, 4]
        %1 = aten.neg(%0) : f64[2, 3, 4]
        %2 = aten.reshape(%1, [4, 6]) : f64[4, 6]
        return %0, %2""",
    )


def test_reshape_of_an_unsqueezed_value_moves_through() -> None:
    check_rewrite(
        X
        + """%0 = aten.unsqueeze(%x, 1) : f64[2, 1, 3, 4]
        %1 = aten.sigmoid(%0) : f64[2, 1, 3, 4]
        %2 = aten.reshape(%1, [6, 4]) : f64[6, 4]
        return %2""",
        CancelLayout(),
        after="%0 = aten.sigmoid(%x) : f64[2, 3, 4]\n%1 = aten.reshape(%0, [6, 4]) : f64[6, 4]\nreturn %1",
    )


def test_reshapes_with_a_second_tensor_between_stay() -> None:
    before = (
        X
        + """input %y: f64[6, 4]
        %0 = aten.reshape(%x, [6, 4]) : f64[6, 4]
        %1 = aten.add.Tensor(%0, %y) : f64[6, 4]
        %2 = aten.reshape(%1, [2, 3, 4]) : f64[2, 3, 4]
        return %2"""
    )
    check_rewrite(before, CancelLayout(), after=before, fires={})


TOKENS = """const @w: f64[5, 4]
const @b: f64[5]
const @g: f64[5]
%0 = aten.reshape(%x, [6, 4]) : f64[6, 4]
%1 = aten.linear(%0, @w, @b) : f64[6, 5]
"""


def test_layers_on_flattened_tokens_take_them_as_they_are() -> None:
    check_rewrite(
        X
        + TOKENS
        + """%2 = aten.layer_norm(%1, [5], @g, @b) : f64[6, 5]
        %3 = aten.gelu(%2) : f64[6, 5]
        %4 = aten.mul.Tensor(%3, @g) : f64[6, 5]
        %5 = aten.reshape(%4, [2, 3, 5]) : f64[2, 3, 5]
        return %5""",
        CancelLayout(),
        after="""%0 = aten.linear(%x, @w, @b) : f64[2, 3, 5]
        %1 = aten.layer_norm(%0, [5], @g, @b) : f64[2, 3, 5]
        %2 = aten.gelu(%1) : f64[2, 3, 5]
        %3 = aten.mul.Tensor(%2, @g) : f64[2, 3, 5]
        return %3""",
        fires={"reshape-around-tokens": 1},
    )


@pytest.mark.parametrize(
    "rest",
    [
        "%2 = aten.reshape(%1, [3, 2, 5]) : f64[3, 2, 5]\nreturn %2",
        "%2 = aten.reshape(%1, [2, 3, 5]) : f64[2, 3, 5]\nreturn %2, %1",
        "%2 = aten.softmax.int(%1, 0) : f64[6, 5]\n%3 = aten.reshape(%2, [2, 3, 5]) : f64[2, 3, 5]\nreturn %3",
    ],
)
def test_layers_on_other_shapes_stay(rest: str) -> None:
    before = X + TOKENS + rest
    check_rewrite(before, CancelLayout(), after=before, fires={})


def test_dynamic_sizes() -> None:
    graph = parse_graph(
        """dim b in [2, 9]
dim s in [2, 9]
input %x: f32[b, s, 4]
const @w: f32[5, 4]
%0 = aten.reshape(%x, [b*s, 4]) : f32[b*s, 4]
%1 = aten.linear(%0, @w) : f32[b*s, 5]
%2 = aten.reshape(%1, [b, s, 5]) : f32[b, s, 5]
return %2
"""
    )
    result = CancelLayout()(graph).graph
    verify(result)
    assert dict(result.ops()) == {"aten.linear": 1}


def test_what_is_elementwise() -> None:
    graph = read(
        X
        + """%0 = aten.hardswish(%x) : f64[2, 3, 4]
        %1 = aten.split.Tensor(%0, 1) : (f64[1, 3, 4], f64[1, 3, 4])
        %2 = getitem(%1, 0) : f64[1, 3, 4]
        %3 = aten.bernoulli(%2) : f64[1, 3, 4]
        %4 = aten.softmax.int(%3, 1) : f64[1, 3, 4]
        return %4"""
    )
    assert [is_elementwise(n) for n in graph.nodes()] == [False, True, False, False, False, False]


class ChannelsLast(nn.Module):
    """Works in channels-last in between, as converted networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).permute(0, 2, 3, 1)
        y = torch.nn.functional.silu(y) + x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1).mean()
        return self.b(y.permute(0, 3, 1, 2))


def test_a_network_that_changes_its_layout() -> None:
    x = torch.randn(2, 3, 4, 4)
    model = ChannelsLast()
    graph = Canonicalize()(module_graph(model, (x,))).graph
    result = check_rewrite(graph, CancelLayout(), inputs=[x.double()])
    assert result.graph.ops()["aten.permute"] == 1
    assert_agrees(model, (x,), result.graph)
