"""Canonicalize: each spelling before and after, what is refused, and that the numbers stay."""

from __future__ import annotations

import pytest
import torch

from instar.ir.graph import Graph
from instar.passes.canonicalize import Canonicalize

from .rewrite_case import X, check_rewrite, one_op, read


def as_buffer(graph: Graph, name: str) -> None:
    """A text does not say what a constant is in the model; let this one be a buffer."""
    next(n.handle for n in graph.constants() if n.handle.name == name).kind = "buffer"


@pytest.mark.parametrize(
    ("call", "result", "dims"),
    [
        ("aten.transpose.int(%x, 0, 1)", "f64[3, 2, 4]", "[1, 0, 2]"),
        ("aten.transpose.int(%x, -1, -2)", "f64[2, 4, 3]", "[0, 2, 1]"),
        ("aten.swapaxes(%x, 0, 2)", "f64[4, 3, 2]", "[2, 1, 0]"),
        ("aten.swapdims(%x, 0, 2)", "f64[4, 3, 2]", "[2, 1, 0]"),
        ("aten.mT(%x)", "f64[2, 4, 3]", "[0, 2, 1]"),
        ("aten.numpy_T(%x)", "f64[4, 3, 2]", "[2, 1, 0]"),
        ("aten.movedim.int(%x, 0, 2)", "f64[3, 4, 2]", "[1, 2, 0]"),
        ("aten.moveaxis.intlist(%x, [0, 1], [1, 0])", "f64[3, 2, 4]", "[1, 0, 2]"),
        ("aten.permute(%x, [-1, 0, 1])", "f64[4, 2, 3]", "[2, 0, 1]"),
    ],
)
def test_every_transpose_is_a_permute(call: str, result: str, dims: str) -> None:
    after = f"%0 = aten.permute(%x, {dims}) : {result}\nreturn %0"
    check_rewrite(one_op(call, result), Canonicalize(), after=after, fires={"to-permute": 1})


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        ("aten.view(%x, [6, 4])", "[6, 4]"),
        ("aten.view(%x, [-1, 2])", "[12, 2]"),
        ("aten._unsafe_view(%x, [24])", "[24]"),
        ("aten.flatten.using_ints(%x, 1)", "[2, 12]"),
        ("aten.unflatten.int(%x, 2, [2, -1])", "[2, 3, 2, 2]"),
        ("aten.ravel(%x)", "[24]"),
        ("aten.reshape(%x, [-1])", "[24]"),
    ],
)
def test_every_view_is_a_reshape(call: str, shape: str) -> None:
    after = f"%0 = aten.reshape(%x, {shape}) : f64{shape}\nreturn %0"
    check_rewrite(one_op(call, f"f64{shape}"), Canonicalize(), after=after, fires={"to-reshape": 1})


@pytest.mark.parametrize(
    "call",
    [
        "aten.alias(%x)",
        "aten.clone(%x, memory_format=torch:contiguous_format)",
        "aten.contiguous(%x)",
        "aten.detach(%x)",
        "aten.lift_fresh_copy(%x)",
        "aten.expand(%x, [-1, 3, -1])",
        "aten.broadcast_to(%x, [2, 3, 4])",
        "aten.narrow(%x, 1, 0, 3)",
        "aten.repeat(%x, [1, 1, 1])",
        "aten.squeeze(%x)",
        "aten.view(%x, [2, 3, 4])",
        "aten._to_copy(%x, dtype=dtype:f64)",
        "aten.to.dtype(%x, dtype:f64)",
        "aten.type_as(%x, %x)",
        "aten.permute(%x, [0, 1, -1])",
        "aten.slice.Tensor(%x, 1, 0, 9223372036854775807)",
        "aten.slice.Tensor(%x, -1, -4)",
        "aten.cat([%x], 1)",
        "aten.constant_pad_nd(%x, [0, 0, 0, 0])",
        "aten.pad(%x, [0, 0])",
        "aten.dropout(%x, 0.5, False)",
        "aten.dropout(%x, 0.0, True)",
        "aten.feature_dropout(%x, 0.5, False)",
        "aten.alpha_dropout(%x, 0.5, False)",
        "aten.feature_alpha_dropout(%x, 0.5, False)",
        "aten.add.Tensor(%x, 0)",
        "aten.sub.Tensor(%x, 0.0)",
        "aten.mul.Tensor(%x, 1)",
        "aten.div.Tensor(%x, 1)",
        "aten.pow.Tensor_Scalar(%x, 1)",
    ],
)
def test_what_changes_nothing_goes_away(call: str) -> None:
    check_rewrite(one_op(call, "f64[2, 3, 4]"), Canonicalize(), after="return %x")


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("aten.constant_pad_nd(%x, [1, -1])", "f64[2, 3, 4]"),
        ("aten.slice.Tensor(%x, 2, 0, 3, 2)", "f64[2, 3, 2]"),
        ("aten.div.Tensor(%x, 3.0)", "f64[2, 3, 4]"),
        ('aten.div.Tensor_mode(%x, 2.0, rounding_mode="floor")', "f64[2, 3, 4]"),
        ("aten._to_copy(%x, dtype=dtype:f32)", "f32[2, 3, 4]"),
        ("aten.gelu(%x)", "f64[2, 3, 4]"),
        ("aten.silu(%x)", "f64[2, 3, 4]"),
        ("aten.cat([%x, %x], 1)", "f64[2, 6, 4]"),
    ],
)
def test_what_is_canonical_stays(call: str, result: str) -> None:
    before = one_op(call, result)
    check_rewrite(before, Canonicalize(), after=before, fires={})


@pytest.mark.parametrize(
    ("call", "after", "result"),
    [
        ("aten.narrow(%x, 2, 1, 2)", "aten.slice.Tensor(%x, 2, 1, 3)", "f64[2, 3, 2]"),
        ("aten.narrow(%x, -1, -3, 2)", "aten.slice.Tensor(%x, 2, 1, 3)", "f64[2, 3, 2]"),
        ("aten.broadcast_to(%x, [5, 2, 3, 4])", "aten.expand(%x, [5, 2, 3, 4])", "f64[5, 2, 3, 4]"),
    ],
)
def test_other_names_of_slices_and_expansions(call: str, after: str, result: str) -> None:
    check_rewrite(one_op(call, result), Canonicalize(), after=one_op(after, result))


def test_chunks_are_a_split() -> None:
    types = "(f64[2, 3, 2], f64[2, 3, 2])"
    before = f"{X}%0 = aten.chunk(%x, 3, -1) : {types}\n%1 = getitem(%0, 1) : f64[2, 3, 2]\nreturn %1"
    after = f"%0 = aten.split.Tensor(%x, 2, 2) : {types}\n%1 = getitem(%0, 1) : f64[2, 3, 2]\nreturn %1"
    check_rewrite(before, Canonicalize(), after=after)


def test_chunks_of_nothing_stay() -> None:
    types = "(f64[0], f64[0])"
    before = f"input %x: f64[0]\n%0 = aten.chunk(%x, 2) : {types}\n%1 = getitem(%0, 1) : f64[0]\nreturn %1"
    check_rewrite(before, Canonicalize(), after=before, fires={})


def test_slices_and_chunks_of_a_dynamic_size() -> None:
    before = """
        dim n in [2, 64]
        input %x: f64[n, 4]
        %0 = aten.narrow(%x, 0, -2, 2) : f64[2, 4]
        %1 = aten.chunk(%x, 2, 1) : (f64[n, 2], f64[n, 2])
        %2 = getitem(%1, 0) : f64[n, 2]
        return %0, %2
    """
    check_rewrite(before, Canonicalize(), ops={"aten.slice.Tensor": 1, "aten.split.Tensor": 1})


def test_same_shape_and_other_dtype_is_not_a_no_op() -> None:
    before = "input %x: i64[3]\n%0 = aten.add.Tensor(%x, 0.0) : f32[3]\nreturn %0"
    check_rewrite(before, Canonicalize(), after=before, fires={})


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("aten.add.Scalar(%x, 2.0)", "aten.add.Tensor(%x, 2.0)"),
        ("aten.add.Tensor(%x, 3.0, alpha=2)", "aten.add.Tensor(%x, 6.0)"),
        ("aten.sub.Scalar(%x, 2.0)", "aten.add.Tensor(%x, -2.0)"),
        ("aten.subtract.Scalar(%x, 2.0)", "aten.add.Tensor(%x, -2.0)"),
        ("aten.sub.Tensor(%x, 2.0, alpha=3.0)", "aten.add.Tensor(%x, -6.0)"),
        ("aten.mul.Scalar(%x, 3.0)", "aten.mul.Tensor(%x, 3.0)"),
        ("aten.multiply.Tensor(%x, 3.0)", "aten.mul.Tensor(%x, 3.0)"),
        ("aten.div.Scalar(%x, 3.0)", "aten.div.Tensor(%x, 3.0)"),
        ("aten.true_divide.Tensor(%x, 3.0)", "aten.div.Tensor(%x, 3.0)"),
        ("aten.div.Tensor(%x, 8.0)", "aten.mul.Tensor(%x, 0.125)"),
        ("aten.div.Tensor(%x, -0.25)", "aten.mul.Tensor(%x, -4.0)"),
        ("aten.rsub.Tensor(%x, %x, alpha=2)", "aten.sub.Tensor(%x, %x, alpha=2)"),
        ("aten.pad(%x, [1, -1])", "aten.constant_pad_nd(%x, [1, -1])"),
        ("aten._softmax(%x, -1, False)", "aten.softmax.int(%x, 2)"),
        ("aten._log_softmax(%x, 1, False)", "aten.log_softmax.int(%x, 1)"),
        ("aten.softmax.int(%x, -2)", "aten.softmax.int(%x, 1)"),
        ("aten.layer_norm(%x, [4], None, None, 1e-05, False)", "aten.layer_norm(%x, [4])"),
    ],
)
def test_one_spelling(call: str, after: str) -> None:
    check_rewrite(one_op(call, "f64[2, 3, 4]"), Canonicalize(), after=one_op(after, "f64[2, 3, 4]"))


def test_division_of_halves_by_a_power_of_two_that_they_cannot_hold_stays() -> None:
    before = "input %x: f16[3]\n%0 = aten.div.Tensor(%x, 65536.0) : f16[3]\nreturn %0"
    check_rewrite(before, Canonicalize(), after=before, fires={})


@pytest.mark.parametrize("divisor", ["0.0", "inf"])
def test_division_without_an_exact_reciprocal_stays(divisor: str) -> None:
    before = one_op(f"aten.div.Tensor(%x, {divisor})", "f64[2, 3, 4]")
    assert Canonicalize()(read(before)).fired == {}


def test_scalar_minus_tensor_is_a_subtraction_from_a_shared_constant() -> None:
    result = check_rewrite(
        X
        + """%0 = aten.rsub.Scalar(%x, 1.0) : f64[2, 3, 4]
        %1 = aten.neg(%x) : f64[2, 3, 4]
        %2 = aten.rsub.Scalar(%1, 1.0) : f64[2, 3, 4]
        return %0, %2""",
        Canonicalize(),
        ops={"aten.sub.Tensor": 2, "aten.rsub.Scalar": 0},
        fires={"reversed-subtraction": 2},
    )
    assert [c.handle.name for c in result.graph.constants()] == ["scalar_1.0"]


def test_scalar_that_the_dtype_cannot_hold_stays_a_reversed_subtraction() -> None:
    before = "input %x: f16[3]\n%0 = aten.rsub.Scalar(%x, 0.1) : f16[3]\nreturn %0"
    check_rewrite(before, Canonicalize(), after=before, fires={})


def test_constants_come_second_and_scalar_buffers_become_numbers() -> None:
    graph = read(
        X
        + """const @scale: f64[]
        const @table: f64[4]
        %0 = aten.mul.Tensor(@scale, %x) : f64[2, 3, 4]
        %1 = aten.add.Tensor(@table, %0) : f64[2, 3, 4]
        return %1""",
        {"scale": torch.tensor(2.5, dtype=torch.float64)},
    )
    as_buffer(graph, "scale")
    after = """%0 = aten.mul.Tensor(%x, 2.5) : f64[2, 3, 4]
    %1 = aten.add.Tensor(%0, @table) : f64[2, 3, 4]
    return %1"""
    fires = {"constant-second": 2, "constant-scalar-to-number": 1}
    check_rewrite(graph, Canonicalize(), after=after, fires=fires)


def test_scalar_parameters_stay_parameters() -> None:
    before = X + "const @scale: f64[]\n%0 = aten.mul.Tensor(%x, @scale) : f64[2, 3, 4]\nreturn %0"
    check_rewrite(before, Canonicalize(), after=before, fires={})


def test_scalar_constant_that_decides_the_dtype_stays() -> None:
    graph = read("input %x: i64[3]\nconst @c: f64[]\n%0 = aten.mul.Tensor(%x, @c) : f64[3]\nreturn %0")
    as_buffer(graph, "c")
    check_rewrite(graph, Canonicalize(), fires={})


def test_permutes_and_reshapes_compose_and_cancel() -> None:
    check_rewrite(
        X
        + """%0 = aten.permute(%x, [1, 2, 0]) : f64[3, 4, 2]
        %1 = aten.permute(%0, [1, 0, 2]) : f64[4, 3, 2]
        %2 = aten.transpose.int(%0, 0, 2) : f64[2, 4, 3]
        %3 = aten.transpose.int(%2, 1, 2) : f64[2, 3, 4]
        %4 = aten.view(%3, [6, 4]) : f64[6, 4]
        %5 = aten.unsqueeze(%4, 0) : f64[1, 6, 4]
        %6 = aten.view(%5, [8, 3]) : f64[8, 3]
        %7 = aten.view(%6, [2, 3, 4]) : f64[2, 3, 4]
        return %1, %6, %7""",
        Canonicalize(),
        after="""%0 = aten.permute(%x, [2, 1, 0]) : f64[4, 3, 2]
        %1 = aten.reshape(%x, [8, 3]) : f64[8, 3]
        return %0, %1, %x""",
    )


def test_squeeze_of_unsqueeze_and_double_negation_go_away() -> None:
    check_rewrite(
        X
        + """%0 = aten.unsqueeze(%x, -1) : f64[2, 3, 4, 1]
        %1 = aten.squeeze.dim(%0, -1) : f64[2, 3, 4]
        %2 = aten.neg(%1) : f64[2, 3, 4]
        %3 = aten.neg(%2) : f64[2, 3, 4]
        return %3""",
        Canonicalize(),
        after="return %x",
    )


def test_unsqueezes_stay_apart() -> None:
    before = """input %x: f64[2, 3]
    %0 = aten.unsqueeze(%x, 1) : f64[2, 1, 3]
    %1 = aten.unsqueeze(%0, 2) : f64[2, 1, 1, 3]
    return %1"""
    check_rewrite(before, Canonicalize(), after=before, fires={})


def test_casts_have_one_spelling_and_widening_is_undone() -> None:
    check_rewrite(
        """input %x: f32[3]
        %0 = aten.to.dtype(%x, dtype:f64) : f64[3]
        %1 = aten._to_copy(%0, dtype=dtype:f32, device=torch:cpu) : f32[3]
        %2 = aten.to.dtype(%x, dtype:f16) : f16[3]
        %3 = aten.to.dtype(%2, dtype:f32) : f32[3]
        return %1, %3""",
        Canonicalize(),
        after="""%0 = aten._to_copy(%x, dtype=dtype:f16) : f16[3]
        %1 = aten._to_copy(%0, dtype=dtype:f32) : f32[3]
        return %x, %1""",
    )


def test_expands_compose() -> None:
    check_rewrite(
        """input %x: f64[1, 1, 4]
        %0 = aten.expand(%x, [-1, 3, -1]) : f64[1, 3, 4]
        %1 = aten.expand(%0, [2, -1, 4]) : f64[2, 3, 4]
        return %1""",
        Canonicalize(),
        after="%0 = aten.expand(%x, [2, 3, 4]) : f64[2, 3, 4]\nreturn %0",
    )


def test_slices_count_from_the_front() -> None:
    check_rewrite(
        X
        + """%0 = aten.slice.Tensor(%x, -1, -2, 9223372036854775807) : f64[2, 3, 2]
        %1 = aten.slice.Tensor(%x, 2, 0, -2) : f64[2, 3, 2]
        %2 = aten.slice.Tensor(%x, 2, None, 2) : f64[2, 3, 2]
        return %0, %1, %2""",
        Canonicalize(),
        after="""%0 = aten.slice.Tensor(%x, 2, 2) : f64[2, 3, 2]
        %1 = aten.slice.Tensor(%x, 2, 0, 2) : f64[2, 3, 2]
        return %0, %1, %1""",
    )


def test_stack_of_one_and_native_dropout() -> None:
    check_rewrite(
        X
        + """%0 = aten.native_dropout(%x, 0.5, False) : (f64[2, 3, 4], bool[2, 3, 4])
        %1 = getitem(%0, 0) : f64[2, 3, 4]
        %2 = aten.stack([%1], -1) : f64[2, 3, 4, 1]
        return %2""",
        Canonicalize(),
        after="%0 = aten.unsqueeze(%x, 3) : f64[2, 3, 4, 1]\nreturn %0",
    )


RMS = """
input %x: f64[2, 3, 4]
const @w: f64[{width}]
%0 = aten.pow.Tensor_Scalar(%x, 2) : f64[2, 3, 4]
%1 = aten.mean.dim(%0, [{axis}], True) : f64[{reduced}]
%2 = aten.add.Tensor(%1, 1e-05) : f64[{reduced}]
%3 = aten.rsqrt(%2) : f64[{reduced}]
%4 = aten.mul.Tensor(%x, %3) : f64[2, 3, 4]
%5 = aten.mul.Tensor(%4, @w) : f64[2, 3, 4]
return %5
"""


def test_a_root_mean_square_norm_is_one_op() -> None:
    after = "%0 = aten.rms_norm(%x, [4], @w, 1e-05) : f64[2, 3, 4]\nreturn %0"
    text = RMS.format(width=4, axis=-1, reduced="2, 3, 1")
    check_rewrite(text, Canonicalize(), after=after, fires={"axis-from-front": 1, "rms-norm-spelling": 1})


def test_a_norm_over_another_axis_or_without_weights_per_element_stays() -> None:
    other = check_rewrite(RMS.format(width=4, axis=1, reduced="2, 1, 4"), Canonicalize())
    assert other.graph.ops()["aten.rms_norm.default"] == 0
    text = RMS.format(width=1, axis=-1, reduced="2, 3, 1")
    check_rewrite(text, Canonicalize(), ops={"aten.rms_norm.default": 0}, refused=["no weight per element"])


def test_what_a_write_leaves_is_the_value_in_the_shape_and_dtype_of_the_memory() -> None:
    head = "input %x: f64[3, 4]\ninput %y: f64[1, 4]\n"
    check_rewrite(
        head + "%0 = aten.copy(%x, %y) : f64[3, 4]\n%1 = aten.slice_scatter(%x, %0, 0, 0, 9) : f64[3, 4]\nreturn %1",
        Canonicalize(),
        after="%0 = aten.expand(%y, [3, 4]) : f64[3, 4]\nreturn %0",
    )
