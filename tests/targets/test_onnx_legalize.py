"""Legalisation rule by rule: ops after, how often each rule fired, refusals, and numbers through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from instar.ir.constants import ConstantHandle
from instar.ir.context import Context
from instar.ir.errors import LoweringError, PassError
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph, Node
from instar.ir.packing import pack
from instar.ir.parse import parse_graph
from instar.ir.plan import Plan
from instar.ir.types import parse_type
from instar.passes.base import PassResult
from instar.passes.rewrite import RewriteContext
from instar.passes.rules import Outcome, rule
from instar.passes.run import run_passes
from instar.targets import compare
from instar.targets.legalize import legalize
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.kernels import layout
from instar.targets.onnx.legalize import passes
from instar.targets.onnx.lower import lower
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import executed_kernels, kernel_runs, make_session, run
from instar.targets.onnx.target import OnnxTarget

from .fake_table import Times


class Build:
    """A graph under construction over one float input ``x``."""

    def __init__(self, shape: str, dtype: str = "f32") -> None:
        self.context = Context()
        self.x = self.context.input("x", parse_type(f"{dtype}[{shape}]"))

    def node(self, name: str, *args: Any) -> Node:
        return self.context.node(name, *args)

    def constant(self, name: str, value: Tensor) -> Node:
        return self.context.constant_of(ConstantHandle.of(name, value))

    def graph(self, *outputs: Node) -> Graph:
        return self.context.graph([self.x], outputs)

    def weight(
        self,
        shape: Sequence[int],
        bits: int,
        group: int,
        *,
        zero: bool = False,
        int8: bool = False,
        negative: bool = True,
    ) -> Node:
        """A stored weight; every second scale is negative unless told otherwise."""
        rows, columns = shape[0], int(torch.tensor(shape[1:]).prod())
        groups = -(-columns // group) if group else 1
        scale = torch.rand(rows, groups) * 0.02 + 0.01
        if negative:
            scale[::2] *= -1
        return self.node(
            "instar.dequantize_int8" if int8 else "instar.dequantize",
            self.constant("w.codes", pack(torch.randint(0, 1 << bits, (rows, columns)), bits)),
            self.constant("w.scale", scale.half()),
            self.constant("w.zero", pack(torch.randint(0, 1 << bits, (rows, groups)), bits)) if zero else None,
            bits, group, tuple(shape),
        )  # fmt: skip


def legal(graph: Graph) -> PassResult:
    *_, kernels, spellings = passes(OnnxOptions())
    first = kernels(graph)
    second = spellings(first.graph)
    return PassResult(second.graph, first.fired + second.fired, first.refused + second.refused)


def built(graph: Graph, **options: Any) -> OnnxArtifact:
    plan = Plan((), graph.fingerprint(), "onnx")
    x = graph.inputs[0].tensor_type
    floating = x.dtype.is_floating_point
    example = torch.randn(x.sizes()) if floating else torch.randint(0, 40, x.sizes())
    target = OnnxTarget(OnnxOptions(**options))
    artifact = target.build(legalize(target, graph, plan, [[example]])[0], plan, [[example]])
    artifact.check(graph, [[example]])
    return artifact


def runs_like_the_graph(graph: Graph, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> OnnxArtifact:
    monkeypatch.setattr(compare, "FLOAT_BOUND", max(tolerance, 1e-30))
    artifact = built(graph)
    assert artifact.checks[0].error <= tolerance
    return artifact


@pytest.mark.parametrize(
    ("granularity", "symmetric", "op", "kernel"),
    [
        ("tensor", False, "instar.linear_int8", "MatMulIntegerToFloat|DynamicQuantizeMatMul"),
        ("token", True, "instar.linear_int8_tokens", "MatMulIntegerToFloat"),
    ],
)
@pytest.mark.parametrize(
    ("bits", "group", "zero"), [(8, 0, False), (4, 0, False), (4, 0, True), (4, 32, False), (2, 32, True)]
)
def test_int8_linear(
    granularity: str, symmetric: bool, op: str, kernel: str, bits: int, group: int, zero: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    build = Build("5, 64")
    quantized = build.node("instar.fake_quantize_dynamic", build.x, 8, granularity, symmetric)
    weight = build.weight((32, 64), bits, group, zero=zero, int8=True)
    graph = build.graph(build.node("aten.linear", quantized, weight, build.constant("bias", torch.randn(32))))
    ops = legal(graph).graph.ops()
    assert ops[op] == 1
    assert not any(name.startswith(("instar.fake", "instar.dequantize")) for name in ops)
    artifact = runs_like_the_graph(graph, 2e-5, monkeypatch)
    assert artifact.lowered.expected == {kernel: 1}


@pytest.mark.parametrize(("granularity", "symmetric"), [("tensor", False), ("token", True)])
def test_every_int8_weight_has_a_zero_point_of_its_own(granularity: str, symmetric: bool) -> None:
    """Releases before 1.31 that are asked for exact products need one, and none loads two weights that share it."""
    build = Build("5, 64")
    quantized = build.node("instar.fake_quantize_dynamic", build.x, 8, granularity, symmetric)
    weights = [build.weight((32, 64), bits, 0) for bits in (8, 8, 4)]
    model = built(build.graph(*(build.node("aten.linear", quantized, weight) for weight in weights))).lowered.proto()
    zeros = [node.input[5] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(zeros) == len(set(zeros)) == len(weights)
    assert "" not in zeros


def test_one_quantization_is_shared_by_its_consumers() -> None:
    build = Build("5, 64")
    quantized = build.node("instar.fake_quantize_dynamic", build.x, 8, "tensor", False)
    first = build.node("aten.linear", quantized, build.weight((32, 64), 8, 0))
    second = build.node("aten.linear", quantized, build.weight((32, 64), 4, 0))
    result = legal(build.graph(first, second))
    assert result.graph.ops()["instar.quantize_dynamic"] == 1
    assert result.fired["int8-linear"] == 2


def test_quantization_of_the_other_symmetry_is_refused() -> None:
    for granularity, symmetric, reason in (
        ("tensor", True, "int8 quantizes with a zero point; the value is quantized symmetrically"),
        ("token", False, "int8_token quantizes symmetrically; the value is quantized with a zero point"),
        ("group:16", True, "activations have blocks of 16, the weight of 32"),
    ):
        build = Build("5, 64")
        quantized = build.node("instar.fake_quantize_dynamic", build.x, 8, granularity, symmetric)
        graph = build.graph(build.node("aten.linear", quantized, build.weight((32, 64), 4, 32)))
        assert [r.reason for r in legal(graph).refused] == [reason]


@pytest.mark.parametrize("zero", [False, True])
def test_matmul_nbits(zero: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build("1, 80")
    quantized = build.node("instar.fake_quantize_dynamic", build.x, 8, "group:32", True)
    graph = build.graph(build.node("aten.linear", quantized, build.weight((32, 80), 4, 32, zero=zero)))
    assert legal(graph).graph.ops()["instar_ort.matmul_nbits"] == 1
    artifact = runs_like_the_graph(graph, 2e-3, monkeypatch)
    assert artifact.lowered.expected == {"MatMulNBits": 1}


@pytest.mark.parametrize(
    ("bits", "group", "zero", "op"),
    [
        *((bits, 0, False, "gather_packed") for bits in range(2, 9)),
        (4, 16, False, "gather_block_quantized"),
        (8, 32, False, "gather_block_quantized"),
        (4, 16, True, "gather_packed"),
        (6, 32, True, "gather_packed"),
    ],
)
def test_embedding(bits: int, group: int, zero: bool, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build("2, 5", "i64")
    graph = build.graph(build.node("aten.embedding", build.weight((40, 64), bits, group, zero=zero), build.x))
    assert legal(graph).graph.ops() == {f"instar_ort.{op}": 1}
    runs_like_the_graph(graph, 1e-6, monkeypatch)


def test_half_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build("2, 5", "i64")
    table = build.context.node("aten._to_copy", build.constant("t", torch.randn(40, 64).half()), dtype=torch.float32)
    graph = build.graph(build.node("aten.embedding", table, build.x))
    assert legal(graph).graph.ops() == {"instar_ort.gather_half": 1}
    runs_like_the_graph(graph, 0.0, monkeypatch)


# ---------------------------------------------------------------------------------------------- static runs
def static(build: Build, value: Node, scale: float = 0.04, zero: int = 128) -> Node:
    return build.node("instar.fake_quantize_static", value, scale, zero, 8, False)


def conv(build: Build, source: Node, weight: Node) -> Node:
    return build.node("aten.conv2d", source, weight, build.constant("bias", torch.randn(16)), (1, 1), (1, 1))


def convolution_run(activation: Callable[[Build, Node], Node], zero: int, negative: bool, bits: int) -> Graph:
    build = Build("2, 16, 6, 6")
    source = static(build, build.x)
    result = activation(build, conv(build, source, build.weight((16, 16, 3, 3), bits, 0, negative=negative)))
    return build.graph(static(build, result, 0.02, zero))


ACTIVATIONS: dict[str, tuple[Callable[[Build, Node], Node], int]] = {
    "none": (lambda build, x: x, 128),
    "relu": (lambda build, x: build.node("aten.relu", x), 0),
    "relu6": (lambda build, x: build.node("aten.hardtanh", x, 0.0, 6.0), 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_static_convolution(name: str, negative: bool, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales of either sign: QLinearConv multiplies by them as they are."""
    activation, zero = ACTIVATIONS[name]
    graph = convolution_run(activation, zero, negative, bits)
    ops = legal(graph).graph.ops()
    assert ops["instar.conv_int8"] == 1
    assert not any("relu" in op or "hardtanh" in op for op in ops)
    artifact = runs_like_the_graph(graph, 2e-3, monkeypatch)
    assert artifact.lowered.expected == {"QLinearConv": 1}


def test_an_activation_that_saturation_is_not_stays() -> None:
    build = Build("2, 16, 6, 6")
    value = conv(build, static(build, build.x), build.weight((16, 16, 3, 3), 8, 0))
    graph = build.graph(static(build, build.node("aten.relu", value), 0.02, 7))
    ops = legal(graph).graph.ops()
    assert ops["aten.relu"] == 1
    assert ops["instar.conv_int8"] == 0


@pytest.mark.parametrize("relu", [False, True])
def test_a_residual_sum_stays_in_integers(relu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build("2, 16, 6, 6")
    first = static(build, build.x)
    second = static(build, conv(build, first, build.weight((16, 16, 3, 3), 8, 0)), 0.03)
    total = build.node("aten.add.Tensor", first, second)
    if relu:
        total = build.node("aten.relu", total)
    graph = build.graph(static(build, total, 0.05, 0 if relu else 128))
    ops = legal(graph).graph.ops()
    assert (ops["instar.add_int8"], ops["instar.conv_int8"], ops["aten.add"]) == (1, 1, 0)
    artifact = runs_like_the_graph(graph, 5e-3, monkeypatch)
    assert artifact.lowered.expected == {"QLinearAdd": 1, "QLinearConv": 1}


def test_a_sum_of_codes_and_floats_is_rounded_no_more() -> None:
    """The runtime turns the layout of integer convolutions: of codes, not of floats that it then rounds once more."""
    build = Build("2, 16, 6, 6")
    made = static(build, conv(build, static(build, build.x), build.weight((16, 16, 3, 3), 8, 0)), 0.03)
    graph = build.graph(build.node("aten.relu", build.node("aten.add.Tensor", made, build.x)))
    found = legal(graph).graph
    ops = found.ops()
    assert (ops["instar.dequantize_apart"], ops["aten.add.Tensor"], ops["instar.add_int8"]) == (1, 1, 0)
    x = torch.randn(2, 16, 6, 6)
    lowered = lower(found, Plan((), "", "onnx"), [[x]], OnnxOptions())
    ran = executed_kernels(lowered.proto(), {lowered.input_names[0]: x.numpy()})
    assert (ran["QuantizeLinear"], ran["DequantizeLinear"], ran["QLinearConv"]) == (1, 1, 1)


@pytest.mark.parametrize("relu", [False, True])
def test_a_pool_of_floats_is_no_pool_of_codes(relu: bool) -> None:
    """The runtime would pull the rounding in front of the pool, and pool codes many times slower."""
    build = Build("2, 16, 6, 6")
    pooled = build.node("aten.max_pool2d", build.x, (3, 3), (2, 2), (1, 1))
    codes = static(build, build.node("aten.relu", pooled) if relu else pooled, 0.03, 0)
    graph = build.graph(static(build, conv(build, codes, build.weight((16, 16, 3, 3), 8, 0)), 0.03))
    found = legal(graph).graph
    assert found.ops()["instar.quantize_apart"] == 1
    x = torch.randn(2, 16, 6, 6)
    (expected,) = evaluate(found, [x])
    lowered = lower(found, Plan((), "", "onnx"), [[x]], OnnxOptions())
    ran = [run.op for run in kernel_runs(lowered.proto(), {lowered.input_names[0]: x.numpy()})]
    assert ran.index("MaxPool") < ran.index("QuantizeLinear") < ran.index("QLinearConv")
    (got,) = run(make_session(lowered.proto()), {lowered.input_names[0]: x.numpy()})
    assert abs(expected - torch.from_numpy(got)).max() <= 0.0301


def test_what_qlinearconv_cannot_take_is_refused() -> None:
    for weight_options, reason in (
        ({"group": 16}, "the weight has scales per group or zero points; QLinearConv takes one scale per channel"),
        ({"group": 0, "zero": True}, "the weight has scales per group or zero points; QLinearConv takes one scale per"),
    ):
        build = Build("2, 16, 6, 6")
        options: dict[str, Any] = dict(weight_options)
        value = conv(build, static(build, build.x), build.weight((16, 16, 3, 3), 8, **options))
        assert any(r.reason.startswith(reason) for r in legal(build.graph(static(build, value))).refused)
    build = Build("2, 16, 6, 6")
    signed = build.node("instar.fake_quantize_static", build.x, 0.1, 0, 8, True)
    assert [r.reason for r in legal(build.graph(signed)).refused] == [
        "codes are 8-bit signed; the kernels take unsigned 8-bit codes"
    ]


# ---------------------------------------------------------------------------------------------- float spellings
def test_a_sum_before_a_norm_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build("2, 5, 64")
    total = build.node("aten.add.Tensor", build.x, build.node("aten.relu", build.x))
    graph = build.graph(build.node("aten.layer_norm", total, (64,)))
    assert legal(graph).graph.ops() == {"aten.relu": 1, "instar_ort.residual_add": 1, "aten.layer_norm": 1}
    runs_like_the_graph(graph, 1e-5, monkeypatch)


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_of_masked_scores_is_clamped(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build("2, 5, 5")
    scores = build.x
    if masked:
        mask = build.constant("mask", torch.ones(5, 5).triu(1) * -3e38)
        scores = build.node("aten.add.Tensor", scores, mask)
    graph = build.graph(build.node("aten.softmax.int", scores, -1))
    assert legal(graph).graph.ops()["instar_ort.softmax_clamped"] == int(masked)
    runs_like_the_graph(graph, 1e-5, monkeypatch)


def rotated(build: Build, cos: torch.Tensor, sin: torch.Tensor, swapped: bool = False) -> Graph:
    """``x * cos + cat(-x[half:], x[:half]) * sin`` over heads of width 8."""
    right = build.node("aten.neg", build.node("aten.slice.Tensor", build.x, 3, 4))
    left = build.node("aten.slice.Tensor", build.x, 3, 0, 4)
    turned = build.node("aten.cat", [left, right] if swapped else [right, left], 3)
    first = build.node("aten.mul.Tensor", build.x, build.constant("cos", cos))
    second = build.node("aten.mul.Tensor", turned, build.constant("sin", sin))
    return build.graph(build.node("aten.add.Tensor", first, second))


ANGLES = torch.rand(5, 4, generator=torch.Generator().manual_seed(3)).repeat(1, 2)


@pytest.mark.parametrize("lead", [(), (1, 1)])
def test_rotary_positions_are_one_op(lead: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    angles = ANGLES.reshape(*lead, 5, 8)
    graph = rotated(Build("2, 3, 5, 8"), angles.cos(), angles.sin())
    assert legal(graph).graph.ops() == {"instar_ort.rotary": 1}
    runs_like_the_graph(graph, 1e-5, monkeypatch)


def test_other_rotations_are_refused_or_left_alone() -> None:
    result = legal(rotated(Build("2, 3, 5, 8"), ANGLES.cos(), torch.rand(5, 8)))
    assert [r.reason for r in result.refused] == ["angles differ between the two halves of a head"]
    result = legal(rotated(Build("2, 3, 5, 8"), ANGLES[:1].cos(), ANGLES[:1].sin()))
    assert "are not one row per position of" in result.refused[0].reason
    swapped = legal(rotated(Build("2, 3, 5, 8"), ANGLES.cos(), ANGLES.sin(), swapped=True))
    assert swapped.graph.ops()["instar_ort.rotary"] == 0
    assert swapped.refused == ()


def test_dynamic_reshapes_copy_sizes() -> None:
    text = (
        "dim rows in [2, 64]\ndim length in [2, 64]\ninput %x: f32[rows, length, 6]\n"
        "%0 = aten.reshape(%x, {shape}) : f32{shape}\nreturn %0"
    )
    (node,) = legal(parse_graph(text.replace("{shape}", "[rows, length, 2, 3]"))).graph.output_nodes
    assert (node.op.name, node.argument("shape")) == ("instar_ort.reshape.default", (0, 0, 2, 3))
    (node,) = legal(parse_graph(text.replace("{shape}", "[rows*length, 6]"))).graph.output_nodes
    assert (node.op.name, node.argument("shape")) == ("instar_ort.reshape.default", (-1, 6))
    (refused,) = legal(parse_graph(text.replace("{shape}", "[length, rows, 6]"))).refused
    assert refused.reason.startswith("2 sizes of f32[length, rows, 6] are not copied from")


@pytest.mark.parametrize(
    ("times", "given", "chosen"),
    [
        (Times(clamped=2, plain=1), None, "plain"),
        (Times(clamped=1, plain=2), None, "clamped"),
        (Times(clamped=2, plain=1), "clamped", "clamped"),
    ],
)
def test_the_faster_way_into_the_softmax_is_measured(
    times: Times, given: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Build("2, 5, 5")
    scores = build.node("aten.add.Tensor", build.x, build.constant("mask", torch.ones(5, 5).triu(1) * -3e38))
    graph = build.graph(build.node("aten.softmax.int", scores, -1))
    target = OnnxTarget(replace(OnnxOptions(), masked_softmax=given))
    monkeypatch.setattr(target, "_table", lambda: times)
    target = target.tuned(graph, [torch.randn(2, 5, 5)])
    assert target.plan_options["masked_softmax"] == chosen
    clamped = run_passes(graph, passes(target.options))[0].ops()["instar_ort.softmax_clamped"]
    assert clamped == int(chosen == "clamped")


# ---------------------------------------------------------------------------------------------- checks of the artifact
def small_graph() -> Graph:
    build = Build("4, 64")
    return build.graph(build.node("aten.linear", build.x, build.weight((32, 64), 4, 32)))


def test_a_planned_kernel_that_does_not_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instar.targets.onnx.lower.planned_runs", lambda _: {"MatMulNBits": 1})
    with pytest.raises(LoweringError, match=r"did not use the planned kernels \(MatMulNBits: expected 1, ran 0\)"):
        built(small_graph())


def test_numbers_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxArtifact, "run", lambda *_: [torch.zeros(4, 32)])
    with pytest.raises(
        LoweringError, match=r"expected the exported model to agree with the graph within .* at example 0"
    ):
        built(small_graph())


def test_a_rule_that_breaks_the_model_is_named_with_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    @rule("aten.linear.default")
    def twice(node: Node, match: RewriteContext) -> Outcome:
        bias = node.argument("bias")
        return None if bias is not None else match.node("aten.linear", *[a for _, a in node.arguments], match.constant(
            "b", torch.ones(32)
        ))  # fmt: skip

    monkeypatch.setattr(layout, "KERNEL", replace(layout.KERNEL, rules=(twice,)))
    with pytest.raises(PassError, match=r"pass onnx-spellings \(after fuse-attention, onnx-kernels\): expected finite"):
        built(small_graph())


@pytest.mark.parametrize("opset", [21, 23, 25])
def test_opsets(opset: int) -> None:
    artifact = built(small_graph(), opset=opset, ir_version={21: 10, 23: 11, 25: 13}[opset])
    proto = artifact.lowered.proto()
    assert {o.version for o in proto.opset_import if not o.domain} == {opset}
