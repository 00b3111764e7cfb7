"""Constant folding: what is computed now, what would make the model bigger, and the names of what is stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from instar.ir.parse import parse_graph
from instar.passes.fold_constants import FoldConstants, constant_cone

from .rewrite_case import assert_agrees, check_rewrite, constant, module_graph, read


def test_transposed_weight_is_stored_transposed_under_its_name() -> None:
    result = check_rewrite(
        """input %x: f64[2, 3]
        const @layer.weight: f64[3, 4]
        %0 = aten.permute(@layer.weight, [1, 0]) : f64[4, 3]
        %1 = aten.linear(%x, %0) : f64[2, 4]
        return %1""",
        FoldConstants(max_growth=0),
        after="%0 = aten.linear(%x, @layer.weight) : f64[2, 4]\nreturn %0",
        fires={"fold-constants": 1},
    )
    assert result.graph.constants()[0].handle.kind == "parameter"


def test_transpose_of_a_matrix_that_is_used_as_it_is_would_be_stored_twice() -> None:
    before = """input %x: f64[2, 4]
    input %i: i64[5]
    const @w: f64[9, 4]
    %0 = aten.permute(@w, [1, 0]) : f64[4, 9]
    %1 = aten.mm(%x, %0) : f64[2, 9]
    %2 = aten.embedding(@w, %i) : f64[5, 4]
    return %1, %2"""
    reason = "storing the value would make the model 288 bytes bigger"
    check_rewrite(before, FoldConstants(max_growth=287), after=before, fires={}, refused=[reason])
    result = check_rewrite(before, FoldConstants(max_growth=288), fires={"fold-constants": 1}, refused=[])
    assert sorted(c.handle.name for c in result.graph.constants()) == ["w", "w.1"]


def test_tables_are_folded_and_their_expansions_are_not() -> None:
    check_rewrite(
        """input %x: f64[64, 32]
        %0 = aten.arange(32, dtype=dtype:f64) : f64[32]
        %1 = aten.mul.Tensor(%0, 0.5) : f64[32]
        %2 = aten.expand(%1, [64, 32]) : f64[64, 32]
        %3 = aten.add.Tensor(%x, %2) : f64[64, 32]
        return %3""",
        FoldConstants(max_growth=1000),
        after="""%0 = aten.expand(@mul, [64, 32]) : f64[64, 32]
        %1 = aten.add.Tensor(%x, %0) : f64[64, 32]
        return %1""",
        fires={"fold-constants": 1},
        refused=["16384 bytes bigger"],
    )


def test_values_in_between_cost_nothing() -> None:
    """The sum of a large table is small, and the table itself is never stored."""
    check_rewrite(
        """input %x: f64[2]
        %0 = aten.arange(4096, dtype=dtype:f64) : f64[4096]
        %1 = aten.sum(%0) : f64[]
        %2 = aten.mul.Tensor(%x, %1) : f64[2]
        return %2""",
        FoldConstants(max_growth=8),
        after="%0 = aten.mul.Tensor(%x, @sum) : f64[2]\nreturn %0",
    )


def test_weight_norm_becomes_the_weight() -> None:
    layer = parametrizations.weight_norm(nn.Linear(64, 48))
    x = torch.randn(3, 64)
    graph = module_graph(layer, (x,))
    result = check_rewrite(graph, FoldConstants(max_growth=0), inputs=[x.double()])
    assert dict(result.graph.ops()) == {"aten.linear": 1}
    assert_agrees(layer, (x,), result.graph)


def test_part_of_a_table_is_named_after_it() -> None:
    result = check_rewrite(
        """input %x: f64[3, 4]
        const @position.weight: f64[9, 4]
        %0 = aten.arange(3) : i64[3]
        %1 = aten.embedding(@position.weight, %0) : f64[3, 4]
        %2 = aten.add.Tensor(%x, %1) : f64[3, 4]
        return %2""",
        FoldConstants(max_growth=0),
        after="%0 = aten.add.Tensor(%x, @position.weight) : f64[3, 4]\nreturn %0",
    )
    assert constant(result.graph, "position.weight").shape == (3, 4)


def test_results_of_several_values_fold_one_by_one() -> None:
    result = check_rewrite(
        """input %x: f64[3, 4]
        const @w: f64[6, 4]
        %0 = aten.split.Tensor(@w, 3) : (f64[3, 4], f64[3, 4])
        %1 = getitem(%0, 0) : f64[3, 4]
        %2 = getitem(%0, 1) : f64[3, 4]
        %3 = aten.add.Tensor(%x, %1) : f64[3, 4]
        %4 = aten.mul.Tensor(%3, %2) : f64[3, 4]
        return %4""",
        FoldConstants(),
        after="""%0 = aten.add.Tensor(%x, @w) : f64[3, 4]
        %1 = aten.mul.Tensor(%0, @w.1) : f64[3, 4]
        return %1""",
        fires={"fold-constants": 2},
    )
    assert constant(result.graph, "w").shape == constant(result.graph, "w.1").shape == (3, 4)


def test_constant_outputs_fold_and_inputs_stay() -> None:
    result = check_rewrite(
        "input %x: f64[2]\n%0 = aten.zeros([3], dtype=dtype:f64) : f64[3]\nreturn %0, %x, None",
        FoldConstants(),
        after="return @zeros, %x, None",
    )
    assert len(result.graph.inputs) == 1


def test_expanded_values_are_stored_densely() -> None:
    result = check_rewrite(
        """const @w: f64[1, 4]
        %0 = aten.expand(@w, [3, 4]) : f64[3, 4]
        return %0""",
        FoldConstants(),
    )
    assert result.graph.constants()[0].handle.tensor.is_contiguous()


@pytest.mark.parametrize(
    "text",
    [
        """const @codes: u8[4, 2]
        const @scale: f16[4, 1]
        %0 = instar.dequantize(@codes, @scale, None, 4, 0, [4, 4]) : f32[4, 4]
        return %0""",
        "%0 = aten.rand([3]) : f32[3]\nreturn %0",
        "input %x: f64[3]\n%0 = aten.neg(%x) : f64[3]\nreturn %0",
    ],
)
def test_stored_weights_random_values_and_functions_of_inputs_are_left(text: str) -> None:
    graph = read(text)
    assert FoldConstants()(graph).graph is graph


def test_dynamic_sizes_are_left() -> None:
    graph = parse_graph(
        "dim n in [2, 9]\ninput %x: f32[n]\n%0 = aten.arange(n) : i64[n]\n%1 = aten.arange(3) : i64[3]\nreturn %0, %1\n"
    )
    result = FoldConstants()(graph).graph
    assert dict(result.ops()) == {"aten.arange": 1}
    assert len(constant_cone(graph)) == 1


def test_halves_are_computed_as_the_model_computes_them() -> None:
    text = (
        "const @w: f16[64]\n%0 = aten.mul.Tensor(@w, 0.3) : f16[64]\n%1 = aten.add.Tensor(%0, 0.7) : f16[64]\nreturn %1"
    )
    graph = read(text)
    (stored,) = FoldConstants()(graph).graph.constants()
    (source,) = graph.constants()
    assert torch.equal(stored.handle.tensor, source.handle.tensor * 0.3 + 0.7)
