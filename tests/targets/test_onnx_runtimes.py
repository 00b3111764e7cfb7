"""Older ONNX Runtimes: what each one has, which one loads a model, and models that keep to an old one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import onnx
import onnx.helper as helper
import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation.rough_build import build_rough
from instar.ir.capture import capture
from instar.ir.errors import ConfigError, LoweringError
from instar.ir.evaluate import flatten_call
from instar.ir.layers import find_layers
from instar.ir.options import Activation, Arithmetic, Option
from instar.ir.plugins import given
from instar.passes.registry import exact_pipeline
from instar.passes.run import run_passes
from instar.targets.base import Candidates
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.given_up import given_up
from instar.targets.onnx.kernels import SPELLINGS, Kernel, Written, kernels
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.runtimes.kept import ATTENTION, has, lacks, least
from instar.targets.onnx.runtimes.needs import Requirement
from instar.targets.onnx.runtimes.reach import check_reach, reach_of
from instar.targets.onnx.runtimes.table import table
from instar.targets.onnx.spellings import fused_gain_ms
from instar.targets.onnx.target import OnnxTarget

from .fake_table import Times

FLOAT, UINT8, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT8


def model(
    *nodes: onnx.NodeProto,
    inputs: Mapping[str, int],
    opset: int = 21,
    ir_version: int = 10,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()]
    results = [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.UNDEFINED, None)]
    graph = helper.make_graph(nodes, "g", values, results)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)


# ------------------------------------------------------------------------------------------------ the table
@pytest.mark.parametrize(
    ("requirement", "first"),
    [
        (Requirement("QuantizeLinear", "", 21, (("T1", "float"), ("T2", "uint8"))), "1.18"),
        (Requirement("QuantizeLinear", "", 23, (("T1", "float"), ("T2", "float"), ("T3", "uint8"))), "1.24"),
        (Requirement("Sub", "", 14, (("T", "int8"),)), "1.21"),
        (Requirement("MatMulNBits", "com.microsoft", inputs=5), "1.18"),
        (Requirement("MatMulNBits", "com.microsoft", inputs=6), "1.19"),
        (Requirement("GatherBlockQuantized", "com.microsoft"), "1.20"),
        (Requirement("GatherBlockQuantized", "com.microsoft", attributes=frozenset(["bits"])), "1.23"),
        (ATTENTION, "1.23"),
        (Requirement("Sub", "", 14, (("T", "string"),)), ""),
    ],
)
def test_the_table_says_what_the_released_packages_say(requirement: Requirement, first: str) -> None:
    assert least(requirement) == first


def test_the_table_is_whole() -> None:
    known = table()
    assert known.names[0] == "1.18"
    assert [int(name.split(".")[1]) for name in known.names] == list(range(18, 18 + len(known.names)))
    assert known.reads[0].opset == 21
    assert [reads.opset for reads in known.reads] == sorted(reads.opset for reads in known.reads)
    assert known.number("1.20.1") == known.number("1.20")


# ------------------------------------------------------------------------------------------------ models
def test_a_types_kernel_decides() -> None:
    node = helper.make_node("Sub", ["x", "x"], ["y"])
    assert reach_of(model(node, inputs={"x": FLOAT})).least == "1.18"
    found = reach_of(model(node, inputs={"x": INT8}))
    assert (found.least, found.because) == ("1.21", ("Sub (opset 14) of int8",))
    assert str(found) == "ONNX Runtime 1.21 or later (before it: no Sub (opset 14) of int8)"


def test_float16_without_a_kernel_is_computed_in_float32_between_conversions() -> None:
    """As a runtime does it while it loads a file."""
    half = onnx.TensorProto.FLOAT16
    found = reach_of(model(helper.make_node("Relu", ["x"], ["y"]), inputs={"x": half}))
    assert (found.least, found.because) == ("1.18", ())
    assert reach_of(model(helper.make_node("BitShift", ["x", "x"], ["y"]), inputs={"x": half})).least == ""


def test_types_follow_nodes_functions_and_branches() -> None:
    cast = helper.make_node("Cast", ["x"], ["c"], to=INT8)
    assert reach_of(model(cast, helper.make_node("Sub", ["c", "c"], ["y"]), inputs={"x": FLOAT})).least == "1.21"

    body = [helper.make_node("Sub", ["a", "a"], ["b"])]
    function = helper.make_function("own", "twice", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    call = helper.make_node("twice", ["c"], ["y"], domain="own")
    assert reach_of(model(cast, call, inputs={"x": FLOAT}, functions=[function])).least == "1.21"
    assert reach_of(model(helper.make_node("twice", ["x"], ["y"], domain="own"), inputs={"x": FLOAT},
                          functions=[function])).least == "1.18"  # fmt: skip

    value = helper.make_tensor_value_info("s", onnx.TensorProto.UNDEFINED, None)
    branch = helper.make_graph([helper.make_node("Sub", ["c", "c"], ["s"])], "b", [], [value])
    choice = helper.make_node("If", ["p"], ["y"], then_branch=branch, else_branch=branch)
    again = helper.make_node("Neg", ["y"], ["z"])
    inputs = {"x": FLOAT, "p": onnx.TensorProto.BOOL}
    assert reach_of(model(cast, choice, again, inputs=inputs)).because == ("Sub (opset 14) of int8",)


def test_operators_without_kernels_of_their_own() -> None:
    """Constants become initializers; a standard operator without a kernel is taken apart by the runtime."""
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", INT8, [1], [1]))
    assert reach_of(model(constant, helper.make_node("Neg", ["c"], ["y"]), inputs={"x": FLOAT})).least == "1.18"
    like = helper.make_node("CastLike", ["x", "c"], ["d"])
    assert ("", "CastLike") not in table().kernels
    assert reach_of(model(constant, like, inputs={"x": FLOAT})).least == "1.18"
    found = reach_of(model(constant, like, helper.make_node("Sub", ["d", "d"], ["y"]), inputs={"x": FLOAT}))
    assert found.because == ("Sub (opset 14) of int8",)


def test_results_have_the_type_of_the_input_where_no_attribute_says_another() -> None:
    """A diagonal is masked by ``EyeLike``, whose type follows its input."""
    eye, like = helper.make_node("EyeLike", ["x"], ["e"]), helper.make_node("CastLike", ["e", "x"], ["y"])
    assert reach_of(model(eye, like, inputs={"x": FLOAT})).least == "1.18"
    small = helper.make_node("EyeLike", ["x"], ["e"], dtype=INT8)
    found = reach_of(model(small, helper.make_node("Sub", ["e", "e"], ["y"]), inputs={"x": FLOAT}))
    assert found.because == ("EyeLike (opset 9) of float, int8",)


@pytest.mark.parametrize(
    ("node", "inputs", "first"),
    [
        (helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]), {"x": FLOAT, "s": FLOAT, "z": UINT8}, "1.24"),
        (helper.make_node("Relu", ["x"], ["y"]), {"x": FLOAT}, "1.23"),
    ],
)
def test_what_an_opset_of_23_needs(node: onnx.NodeProto, inputs: Mapping[str, int], first: str) -> None:
    assert reach_of(model(node, inputs=inputs, opset=23)).least == first


def test_files_that_are_too_new() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    newest = table().reads[-1]
    assert reach_of(model(node, inputs={"x": FLOAT}, opset=22)).because == ("opset 22",)
    assert reach_of(model(node, inputs={"x": FLOAT}, ir_version=11)).because == ("IR version 11",)
    found = reach_of(model(node, inputs={"x": FLOAT}, ir_version=newest.ir_version + 1))
    assert (found.least, found.runs) == ("", ())
    assert "no known ONNX Runtime" in str(found)


# ------------------------------------------------------------------------------------------------ keeping to one
class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.split, self.last = nn.Embedding(200, 64), nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        query, key, value = (t.unflatten(-1, (4, 16)).transpose(1, 2) for t in self.split(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.last(mixed.transpose(1, 2).flatten(2)) + x


IDS = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
PACKED = Option("int4:g32", "rtn", Activation.dynamic("group:32"), "nbits", Arithmetic.CODES)
STORED = Option("int4:g32", "rtn", Activation("none"), "float")


@cache
def built(*given: tuple[str, Any]) -> OnnxArtifact:
    """Embedding and linear layers packed, as an allocation might choose them, under options of the target."""
    options = dict(given)
    torch.manual_seed(0)
    graph = run_passes(capture(Words().eval(), (IDS,)), exact_pipeline())[0]
    layers, _ = find_layers(graph)
    chosen = {layer.name: STORED if layer.kind == "embedding" else PACKED for layer in layers}
    assert set(chosen) == {"table", "split", "last"}
    found = build_rough(graph, layers, chosen, {}, OnnxTarget(OnnxOptions(**options)),
                        flatten_call(graph, (IDS,), {}))  # fmt: skip
    assert isinstance(found, OnnxArtifact)
    return found


def test_a_model_keeps_to_the_runtime_and_says_what_it_gave_up() -> None:
    """The oldest file is checked against the table; the newest runtime runs both alike."""
    free, old = built(), built(("runtime", "1.18"))
    assert free.reach.least == "1.23"
    assert old.reach.least == "1.18"
    assert reach_of(old.lowered.proto()) == old.reach, "a file says the same as the model that it was written from"
    free_ops, old_ops = (a.lowered.expected for a in (free, old))
    assert (free_ops["GatherBlockQuantized"], old_ops.get("GatherBlockQuantized", 0)) == (1, 0)
    assert free_ops["MatMulNBits"] == old_ops["MatMulNBits"] == 2, "the bias is added apart, the kernel stays"
    torch.testing.assert_close(free.run([IDS])[0], old.run([IDS])[0], rtol=1e-5, atol=1e-5)
    assert free.notes[0] == (
        "loads in ONNX Runtime 1.23 or later (before it: no GatherBlockQuantized (com.microsoft) with attribute bits)"
    )
    said = "\n".join(old.notes)
    assert "loads in ONNX Runtime 1.18 or later\n" in said
    assert "rows of 1 embeddings are unpacked in several operators (no GatherBlockQuantized (com.microsoft), " in said
    assert "attention cannot be one kernel (no Attention (opset 23), which needs ONNX Runtime 1.23); its time" in said


def test_fewer_kernels_in_between() -> None:
    found = built(("runtime", "1.20"))
    assert found.reach.least == "1.19", "MatMulNBits with a bias is there"


def test_the_time_that_attention_would_save_is_said() -> None:
    graph = run_passes(capture(Words().eval(), (IDS,)), exact_pipeline())[0]
    times: Any = Times(fused=1.0, unfused_clamped=1.75, unfused_plain=2.0)
    for version, gain in (("1.22", 0.75), ("1.23", 0.0), (None, 0.0)):
        assert fused_gain_ms(graph, [IDS], times, OnnxOptions(masked_softmax="clamped", runtime=version)) == gain
    legal = built(("runtime", "1.18")).lowered.graph
    assert any("0.75 ms a run, measured here" in note for note in given_up(legal, "1.22", 0.75))
    assert not any("attention" in note for note in given_up(legal, "1.22", 0.0))


def test_an_artifact_beyond_the_runtime_is_refused() -> None:
    node = helper.make_node("Sub", ["x", "x"], ["y"])
    reach = reach_of(model(node, inputs={"x": INT8}))
    check_reach("1.21", reach)
    with pytest.raises(
        LoweringError, match=r"a model that ONNX Runtime 1\.20 loads, found one that needs ONNX Runtime"
    ):
        check_reach("1.20", reach)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "1.17"}, r"expected an ONNX Runtime from 1\.18 to .*, found '1\.17'"),
        ({"runtime": "1.20", "opset": 22}, "target_options.opset: expected at most 21, which ONNX Runtime 1.20 reads"),
        ({"runtime": "1.22", "ir_version": 11}, "target_options.ir_version: expected at most 10, which ONNX Runtime"),
        ({"runtime": "1.22", "attention": "fused"}, "'unfused' for ONNX Runtime 1.22, found 'fused', which needs 1.23"),
        ({"runtime": "newest"}, "target_options.runtime"),
    ],
)
def test_options_that_the_runtime_does_not_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instar.compile(nn.Linear(4, 4).eval(), (torch.ones(1, 4),), target_options=options)


# ------------------------------------------------------------------------------------------------ kernels
def test_a_kernel_that_needs_more_is_refused_with_the_reason() -> None:
    need = Requirement("Attention", "", 23)

    def offers(layer: Any, chosen: Any, encoder: str, allowed: Any) -> Candidates:
        del layer, allowed
        return Candidates((Option(chosen.spelling, encoder, Activation("none"), "new"),))

    kernel = Kernel("new", "a kernel", (Written("aten.add", lambda x: x, requires=(need,)),), (), offers)
    layers, _ = find_layers(run_passes(capture(Words().eval(), (IDS,)), exact_pipeline())[0])
    with given({"kernel": {"new": kernel}}):
        candidates = [
            OnnxTarget(OnnxOptions(runtime=version)).candidates(layers[0], ["int4:g32"], [], "rtn")
            for version in ("1.22", "1.23")
        ]
    assert not candidates[0].options
    reason = "int4:g32: kernel new uses Attention (opset 23), which needs ONNX Runtime 1.23"
    assert candidates[0].refused == (reason,)
    assert [o.kernel for o in candidates[1].options] == ["new"]


def test_every_requirement_is_met_by_some_runtime_or_has_a_substitute() -> None:
    entries = [entry for kernel in (*kernels(), *SPELLINGS) for entry in kernel.writes]
    assert sum(bool(entry.requires) for entry in entries) >= 7
    for entry in entries:
        assert all(has(table().names[-1], need) for need in entry.requires)
        assert not lacks(table().names[-1], *entry.requires)
    old = [entry.op for entry in entries if entry.requires and not has("1.18", *entry.requires)]
    kept = [entry.op for entry in entries if entry.otherwise is not None]
    assert {op for op in old if "attention" not in op} <= set(kept), "attention is a matter of spelling"
