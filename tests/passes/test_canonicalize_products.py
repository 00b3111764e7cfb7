"""Canonicalize: products, convolutions, norms and dynamic sizes; what is refused; a transformer-like block."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from instar.ir.evaluate import evaluate
from instar.ir.parse import parse_graph
from instar.ir.verify import verify
from instar.passes.canonicalize import Canonicalize

from .rewrite_case import assert_agrees, check_rewrite, constant, module_graph, one_op


def test_products_with_a_constant_are_linear_and_share_its_transpose() -> None:
    result = check_rewrite(
        """input %x: f64[2, 3]
        const @w: f64[3, 4]
        const @b: f64[4]
        %0 = aten.mm(%x, @w) : f64[2, 4]
        %1 = aten.addmm(@b, %x, @w) : f64[2, 4]
        %2 = aten.matmul(%x, @w) : f64[2, 4]
        return %0, %1, %2""",
        Canonicalize(),
        after="""%0 = aten.linear(%x, @w) : f64[2, 4]
        %1 = aten.linear(%x, @w, @b) : f64[2, 4]
        return %0, %1, %0""",
        fires={"product-to-linear": 2, "addmm-to-linear": 1},
    )
    assert constant(result.graph, "w").shape == (4, 3)


def test_product_with_a_transposed_constant_keeps_the_constant() -> None:
    result = check_rewrite(
        """input %x: f64[5, 2, 3]
        const @w: f64[4, 3]
        %0 = aten.t(@w) : f64[3, 4]
        %1 = aten.matmul(%x, %0) : f64[5, 2, 4]
        return %1""",
        Canonicalize(),
        after="%0 = aten.linear(%x, @w) : f64[5, 2, 4]\nreturn %0",
    )
    assert constant(result.graph, "w").shape == (4, 3)


def test_product_with_a_shared_matrix_is_refused() -> None:
    before = """input %x: f64[2, 3]
    input %i: i64[2]
    const @w: f64[3, 4]
    %0 = aten.mm(%x, @w) : f64[2, 4]
    %1 = aten.embedding(@w, %i) : f64[2, 4]
    return %0, %1"""
    reason = "@w is used by other ops too; transposing it would store it twice"
    check_rewrite(before, Canonicalize(), after=before, fires={}, refused=[reason])


def test_product_of_two_inputs_stays() -> None:
    before = "input %x: f64[2, 3]\ninput %y: f64[3, 4]\n%0 = aten.mm(%x, %y) : f64[2, 4]\nreturn %0"
    check_rewrite(before, Canonicalize(), after=before, fires={}, refused=[])


def test_addmm_with_factors_is_refused() -> None:
    before = """input %x: f64[2, 3]
    const @w: f64[3, 4]
    const @b: f64[4]
    %0 = aten.addmm(@b, %x, @w, alpha=2) : f64[2, 4]
    return %0"""
    check_rewrite(before, Canonicalize(), after=before, fires={}, refused=["beta is 1 and alpha is 2"])


def test_addmm_with_a_computed_matrix_stays() -> None:
    before = """input %x: f64[2, 3]
    input %w: f64[3, 4]
    const @b: f64[4]
    %0 = aten.addmm(@b, %x, %w) : f64[2, 4]
    return %0"""
    check_rewrite(before, Canonicalize(), after=before, fires={}, refused=[])


def test_addmm_with_a_wide_bias_adds_it_behind() -> None:
    check_rewrite(
        """input %x: f64[2, 3]
        input %b: f64[2, 4]
        const @w: f64[3, 4]
        %0 = aten.addmm(%b, %x, @w) : f64[2, 4]
        return %0""",
        Canonicalize(),
        after="%0 = aten.linear(%x, @w) : f64[2, 4]\n%1 = aten.add.Tensor(%0, %b) : f64[2, 4]\nreturn %1",
    )


def test_added_vector_becomes_the_bias_unless_the_product_is_used_elsewhere() -> None:
    head = "input %x: f64[2, 3]\nconst @w: f64[4, 3]\nconst @b: f64[4]\n%0 = aten.linear(%x, @w) : f64[2, 4]\n"
    added = head + "%1 = aten.add.Tensor(@b, %0) : f64[2, 4]\nreturn %1"
    after = "%0 = aten.linear(%x, @w, @b) : f64[2, 4]\nreturn %0"
    check_rewrite(added, Canonicalize(), after=after, fires={"constant-second": 1, "bias-into-linear": 1})
    shared = head + "%1 = aten.add.Tensor(%0, @b) : f64[2, 4]\nreturn %1, %0"
    check_rewrite(shared, Canonicalize(), after=shared, fires={})


def test_convolution_gets_the_name_that_the_user_wrote() -> None:
    head = "input %x: f64[1, 4, 8]\nconst @w: f64[4, 2, 3]\n"
    check_rewrite(
        head + "%0 = aten.convolution(%x, @w, None, [1], [1], [1], False, [0], 2) : f64[1, 4, 8]\nreturn %0",
        Canonicalize(),
        ops={"aten.conv1d": 1, "aten.convolution": 0},
        fires={"convolution-spelling": 1},
    )
    check_rewrite(
        "input %x: f64[1, 4, 5, 5]\nconst @w: f64[4, 3, 2, 2]\n"
        "%0 = aten.convolution(%x, @w, None, [2, 2], [0, 0], [1, 1], True, [1, 1], 1) : f64[1, 3, 11, 11]\nreturn %0",
        Canonicalize(),
        ops={"aten.conv_transpose2d.input": 1, "aten.convolution": 0},
    )


def test_padding_by_name_becomes_numbers() -> None:
    head = "input %x: f64[1, 4, 8, 8]\nconst @w: f64[4, 4, 3, 3]\n"
    for padding, shape in (("same", "f64[1, 4, 8, 8]"), ("valid", "f64[1, 4, 6, 6]")):
        call = f'aten.conv2d.padding(%x, @w, None, [1, 1], "{padding}")'
        result = check_rewrite(one_op(call, shape, head), Canonicalize(), ops={"aten.conv2d": 1})
        assert result.fired == {"padding-by-name": 1}


@pytest.mark.parametrize(("kernel", "dilation", "length"), [(2, 1, 8), (4, 3, 8), (4, 9, 20), (6, 5, 12)])
def test_padding_that_is_not_symmetric_is_a_padding_of_its_own(kernel: int, dilation: int, length: int) -> None:
    call = f'aten.conv1d.padding(%x, @w, None, [1], "same", [{dilation}])'
    head = f"input %x: f64[1, 4, {length}]\nconst @w: f64[4, 4, {kernel}]\n"
    ops = {"aten.conv1d": 1, "aten.constant_pad_nd": 1, "aten.conv1d.padding": 0}
    check_rewrite(one_op(call, f"f64[1, 4, {length}]", head), Canonicalize(), ops=ops)
    call = f'aten.conv2d.padding(%x, @w, None, [1, 1], "same", [1, {dilation}])'
    head = f"input %x: f64[1, 4, 8, {length}]\nconst @w: f64[4, 4, 3, {kernel}]\n"
    ops = {"aten.conv2d": 1, "aten.constant_pad_nd": 1}
    check_rewrite(one_op(call, f"f64[1, 4, 8, {length}]", head), Canonicalize(), ops=ops)


def test_embedding_options_of_training_go_away() -> None:
    before = "input %i: i64[5]\nconst @w: f64[9, 4]\n%0 = aten.embedding(@w, %i, 0) : f64[5, 4]\nreturn %0"
    check_rewrite(before, Canonicalize(), after="%0 = aten.embedding(@w, %i) : f64[5, 4]\nreturn %0")


def test_norms_have_one_result() -> None:
    check_rewrite(
        """input %x: f64[2, 3, 4]
        const @v: f64[3]
        const @m: f64[3]
        const @w: f64[4]
        %0 = aten.native_layer_norm(%x, [4], @w, None, 1e-05) : (f64[2, 3, 4], f64[2, 3, 1], f64[2, 3, 1])
        %1 = getitem(%0, 0) : f64[2, 3, 4]
        %2 = aten.square(@v) : f64[3]
        %3 = aten.native_batch_norm(%1, None, None, @m, %2, False, 0.2, 1e-05) : (f64[2, 3, 4], f64[0], f64[0])
        %4 = getitem(%3, 0) : f64[2, 3, 4]
        return %4""",
        Canonicalize(),
        after="""%0 = aten.layer_norm(%x, [4], @w) : f64[2, 3, 4]
        %1 = aten.square(@v) : f64[3]
        %2 = aten.batch_norm(%0, None, None, @m, %1, False, 0.1, 1e-05, False) : f64[2, 3, 4]
        return %2""",
        fires={"layer-norm-spelling": 1, "batch-norm-spelling": 1},
    )


def test_statistics_of_a_norm_stay() -> None:
    before = """input %x: f64[2, 3]
    %0 = aten.native_layer_norm(%x, [3], None, None, 1e-05) : (f64[2, 3], f64[2, 1], f64[2, 1])
    %1 = getitem(%0, 1) : f64[2, 1]
    return %1"""
    check_rewrite(before, Canonicalize(), after=before, fires={})


def test_dynamic_sizes() -> None:
    graph = parse_graph(
        "dim batch in [2, 64]\ninput %x: f32[batch, 4]\n"
        "%0 = aten.view(%x, [-1]) : f32[4*batch]\n%1 = aten.view(%0, [batch, 2, 2]) : f32[batch, 2, 2]\n"
        "%2 = aten.view(%1, [batch, 4]) : f32[batch, 4]\n%3 = aten.slice.Tensor(%2, 0, 1) : f32[batch - 1, 4]\n"
        "%4 = aten.slice.Tensor(%2, 0, 0, batch) : f32[batch, 4]\nreturn %1, %3, %4\n"
    )
    result = Canonicalize()(graph).graph
    verify(result)
    assert result.text().splitlines()[2:] == [
        "%0 = aten.reshape(%x, [batch, 2, 2]) : f32[batch, 2, 2]",
        "%1 = aten.slice.Tensor(%x, start=1) : f32[batch - 1, 4]",
        "return %0, %1, %x",
    ]


class Gpt2Like(nn.Module):
    """A layer that multiplies ``x @ W + b`` on flattened tokens, and heads that are split and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 24))
        self.b = nn.Parameter(torch.randn(24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = torch.addmm(self.b, x.view(-1, 8), self.w).view(*x.shape[:-1], 24)
        q, k, v = (p.view(*x.shape[:-1], 2, 4).transpose(1, 2) for p in packed.split(8, dim=2))
        scores = (q @ k.transpose(-1, -2)) / 2.0
        mixed = torch.softmax(scores, -1) @ v
        return torch.dropout(mixed.transpose(1, 2).contiguous().view(*x.shape), 0.1, False)


def test_a_transformer_like_block() -> None:
    x = torch.randn(2, 5, 8)
    graph = module_graph(Gpt2Like(), (x,))
    result = check_rewrite(graph, Canonicalize(), inputs=[x.double()])
    ops = result.graph.ops()
    assert ops["aten.linear"] == 1
    assert set(ops) == {
        "aten.linear",
        "aten.reshape",
        "aten.permute",
        "aten.split.Tensor",
        "aten.matmul",
        "aten.mul.Tensor",
        "aten.softmax.int",
    }


def test_module_and_graph_agree() -> None:
    model, x = Gpt2Like().double().eval(), torch.randn(2, 5, 8)
    assert_agrees(model, (x,), Canonicalize()(module_graph(model, (x,))).graph)


@pytest.mark.parametrize("name", ["aten._grouped_mm", "transformers.grouped_mm_fallback"])
def test_a_grouped_product_is_a_sum_of_masked_products(name: str) -> None:
    importlib.import_module("transformers.integrations.moe")  # registers the operator

    rows, weights = torch.randn(7, 16, dtype=torch.bfloat16), torch.randn(3, 16, 8, dtype=torch.bfloat16)
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)
    graph = parse_graph(
        "input %x: bf16[7, 16]\ninput %ends: i32[3]\nconst @w: bf16[3, 16, 8]\n"
        f"%0 = {name}(%x, @w, offs=%ends) : bf16[7, 8]\nreturn %0",
        {"w": weights},
    )
    result = Canonicalize()(graph)
    assert result.graph.ops()["aten.where.ScalarOther"] == 3
    parts = [rows[:2] @ weights[0], rows[2:2] @ weights[1], rows[2:] @ weights[2]]
    torch.testing.assert_close(evaluate(result.graph, [rows, ends])[0], torch.cat(parts))
