"""Running passes: records, and every way in which a pass can break a model and is named for it."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from instar.ir.capture import capture
from instar.ir.errors import PassError
from instar.ir.graph import Graph, Node
from instar.ir.op import CONSTANT
from instar.ir.types import TensorType
from instar.passes.base import KEPT_REFUSALS, Pass, PassResult, Refusal
from instar.passes.canonicalize import Canonicalize
from instar.passes.fold_batch_norm import FoldBatchNorm
from instar.passes.rewrite import RewriteContext, rewrite, substitute
from instar.passes.rules import Outcome, Rule, rule
from instar.passes.run import NumericCheck, run_passes

from .rewrite_case import read


@dataclass(frozen=True)
class Apply:
    """A pass of the rules that a test gives it."""

    rules: tuple[Rule, ...]
    name: ClassVar[str] = "apply-rules"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        return rewrite(graph, self.rules)


@dataclass(frozen=True)
class ApplyLossy(Apply):
    """The same without the promise."""

    name: ClassVar[str] = "apply-lossy"
    exact: ClassVar[bool] = False


@rule("aten.gelu.default")
def faster_gelu(node: Node, match: RewriteContext) -> Outcome:
    """An approximation that claims to be exact."""
    if node.argument("approximate") == "tanh":
        return None
    return match.node("aten.gelu", node.inputs[0], approximate="tanh")


class Model(nn.Module):
    """Two layers, an activation and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.gelu(self.norm(self.conv(x)))
        return self.head(y.mean((-2, -1)))


def captured() -> tuple[Graph, NumericCheck]:
    x = torch.randn(2, 3, 5, 5)
    return capture(Model().eval(), (x,)), NumericCheck([[x], [torch.randn(2, 3, 5, 5)]])


def failure(graph: Graph, passes: list[Pass], check: NumericCheck | None) -> PassError:
    with pytest.raises(PassError) as caught:
        run_passes(graph, passes, check)
    return caught.value


# ------------------------------------------------------------------------------------------------ records
def test_records_of_passes_that_keep_the_model() -> None:
    graph, check = captured()
    after, (first, second, third) = run_passes(graph, [Canonicalize(), FoldBatchNorm(), FoldBatchNorm()], check)
    assert dict(after.ops()) == {"aten.conv2d": 1, "aten.gelu": 1, "aten.mean.dim": 1, "aten.linear": 1}
    assert (first.name, first.exact, first.fired) == ("canonicalize", True, {"axis-from-front": 1})
    assert (first.nodes_before, second.nodes_before) == (len(graph.nodes()), first.nodes_after)
    assert first.check is not None
    assert first.check.precision == "float64"
    assert first.max_error == 0.0
    assert second.check is not None
    assert second.check.precision == "own dtype, constants rounded"
    assert "in float64, before the new constants were rounded" in second.check.note
    assert 0 < second.check.max_error < second.check.tolerance == 1e-4
    assert second.sqnr_db is not None
    assert second.sqnr_db > 100
    assert third.check is not None
    assert (third.check.precision, third.check.sqnr_db) == ("unchanged", math.inf)
    assert min(first.seconds, first.verify_seconds, first.check.seconds) > 0


def test_without_a_check_nothing_is_compared() -> None:
    graph, _ = captured()
    after, (record,) = run_passes(graph, [Apply((faster_gelu,))])
    assert after is not graph
    assert (record.check, record.max_error, record.sqnr_db) == (None, None, None)
    assert run_passes(graph, []) == (graph, [])


def test_kept_refusals_are_bounded() -> None:
    @dataclass(frozen=True)
    class Refuses:
        name: ClassVar[str] = "refuses"
        exact: ClassVar[bool] = True

        def __call__(self, graph: Graph) -> PassResult:
            return PassResult(graph, Counter(), (Refusal("r", "n", graph.nodes()[0].origin, "why"),) * 1000)

    _, (record,) = run_passes(captured()[0], [Refuses()])
    assert (len(record.refused), record.refused_count) == (KEPT_REFUSALS, 1000)


# ------------------------------------------------------------------------------------------------ broken passes
def test_a_pass_that_changes_the_function_is_named_with_the_node_and_the_text_around_it() -> None:
    graph, check = captured()
    error = failure(graph, [Canonicalize(), Apply((faster_gelu,))], check)
    pattern = (
        r"pass apply-rules \(after canonicalize\): expected the same outputs within 1e-09 \(float64\); "
        r"found a relative error of [\d.e-]+ in output 0; "
        r"the first value that deviates is <aten.gelu: f32\[2, 4, 3, 3\]> \(.*test_run.py:\d+\); "
        r"leave the pass out and report it"
    )
    assert re.fullmatch(pattern, str(error))
    (note,) = error.__notes__
    (marked,) = [line for line in note.splitlines() if line.startswith(">>> ")]
    assert 'aten.gelu(%1, approximate="tanh")' in marked


def test_the_first_wrong_value_is_found_behind_right_new_ones() -> None:
    """Values that are new and right come before it, values that are new because of it come behind."""

    @rule("aten.mul.Tensor")
    def square(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten.square", node.inputs[0])

    @rule("aten.exp.default")
    def wrong(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten.expm1", node.inputs[0])

    graph = read(
        """input %x: f32[3]
        %0 = aten.mul.Tensor(%x, %x) : f32[3]
        %1 = aten.sin(%0) : f32[3]
        %2 = aten.exp(%1) : f32[3]
        %3 = aten.cos(%2) : f32[3]
        %4 = aten.cos(%x) : f32[3]
        return %4, %3"""
    )
    error = failure(graph, [Apply((square, wrong))], NumericCheck([[torch.randn(3)]]))
    assert "in output 1; the first value that deviates is <aten.expm1: f32[3]>" in str(error)


def test_a_value_that_existed_before_in_the_wrong_place() -> None:
    """The new output is an old value: no new node is to blame."""

    @rule("aten.neg.default")
    def drop(node: Node, match: RewriteContext) -> Outcome:
        del match
        return node.inputs[0]

    graph = read("input %x: f32[3]\n%0 = aten.sin(%x) : f32[3]\n%1 = aten.neg(%0) : f32[3]\nreturn %1")
    error = failure(graph, [Apply((drop,))], NumericCheck([[torch.randn(3)]]))
    assert str(error).endswith("in output 0; leave the pass out and report it")


def test_wrong_constants_are_found_where_they_are_used() -> None:
    @dataclass(frozen=True)
    class Halve:
        name: ClassVar[str] = "halve"
        exact: ClassVar[bool] = True

        def __call__(self, graph: Graph) -> PassResult:
            new = {n: graph.context.constant(n.handle.name, n.handle.tensor / 2) for n in graph.constants()}
            return PassResult(substitute(graph, dict(new)))

    graph = read("input %x: f32[2, 3]\nconst @w: f32[4, 3]\n%0 = aten.linear(%x, @w) : f32[2, 4]\nreturn %0")
    error = failure(graph, [Halve()], NumericCheck([[torch.randn(2, 3)]]))
    assert "the first value that deviates is <aten.linear: f32[2, 4]>" in str(error)


def test_a_pass_that_fails_is_named() -> None:
    @rule("aten.gelu.default")
    def other_type(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten.sum", node.inputs[0])

    error = failure(captured()[0], [Canonicalize(), Apply((other_type,))], None)
    assert str(error).startswith(
        "pass apply-rules (after canonicalize): rule other-type: expected a replacement of type"
    )


def test_a_pass_that_raises_anything_is_named() -> None:
    @rule("aten.gelu.default")
    def bug(node: Node, match: RewriteContext) -> Outcome:
        raise ZeroDivisionError

    error = failure(captured()[0], [Apply((bug,))], None)
    assert str(error).startswith("pass apply-rules (after no other pass): failed with ZeroDivisionError: ")
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_a_pass_returns_a_result() -> None:
    @dataclass(frozen=True)
    class Careless:
        name: ClassVar[str] = "careless"
        exact: ClassVar[bool] = True

        def __call__(self, graph: Graph) -> Any:
            return graph

    error = failure(captured()[0], [Careless()], None)
    assert str(error) == "pass careless (after no other pass): expected a PassResult from it; found Graph"


@dataclass(frozen=True)
class Rewire:
    """Returns a graph that some function of the old one gives."""

    function: Any
    name: ClassVar[str] = "rewire"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        return PassResult(self.function(graph))


def test_a_graph_that_is_not_well_formed_is_an_error() -> None:
    def mistyped(graph: Graph) -> Graph:
        relu = graph.context.node("aten.relu", graph.inputs[0])
        wrong = graph.context.node_of(relu.op, (("self", relu),), TensorType(torch.float64, (1,)))
        return graph.with_outputs((wrong,))

    error = failure(captured()[0], [Rewire(mistyped)], None)
    assert str(error).startswith("pass rewire (after no other pass): left a graph that is not well formed: 1 error(s)")


def test_inputs_may_not_change() -> None:
    error = failure(captured()[0], [Rewire(lambda g: g.with_inputs(()))], None)
    expected = "pass rewire (after no other pass): expected the graph to keep its inputs (%x,); found ()"
    assert str(error) == expected


def test_a_graph_that_does_not_run_is_an_error() -> None:
    bad = read("input %i: i64[2]\nconst @w: f32[4, 3]\n%0 = aten.embedding(@w, %i) : f32[2, 3]\nreturn %0")
    check = NumericCheck([[torch.tensor([1, 9])]])
    replaced = Rewire(lambda g: g.with_outputs((g.context.node("aten.neg", g.outputs[0]),)))
    error = failure(bad, [replaced], check)
    assert str(error).startswith("pass rewire (after no other pass): the numeric check could not run: aten.embedding")


# ------------------------------------------------------------------------------------------------ precision
def test_ops_that_refuse_float64_are_compared_in_their_own_dtype() -> None:
    text = """input %x: f32[4]
    %0 = aten.view.dtype(%x, dtype:i32) : i32[4]
    %1 = aten.view.dtype(%0, dtype:f32) : f32[4]
    %2 = aten.clone(%1) : f32[4]
    %3 = aten.gelu(%2) : f32[4]
    return %3"""
    check = NumericCheck([[torch.randn(4)]])
    _, (record,) = run_passes(read(text), [Canonicalize()], check)
    assert record.check is not None
    assert record.check.precision == "own dtype"
    assert record.check.note.startswith("float64 refused: op aten.view.dtype")
    assert record.check.tolerance == 1e-4
    error = failure(read(text), [Apply((faster_gelu,))], check)
    assert "expected the same outputs within 0.0001 (own dtype)" in str(error)


def test_narrow_models_have_a_tolerance_that_they_can_keep() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            assert self.norm.running_var is not None
            nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.linear(x))

    x = torch.randn(3, 4).bfloat16()
    graph = capture(Half().eval().bfloat16(), (x,))
    _, records = run_passes(graph, [Canonicalize(), FoldBatchNorm()], NumericCheck([[x]]))
    outcome = records[1].check
    assert outcome is not None
    assert outcome.precision == "own dtype, constants rounded"
    assert outcome.tolerance == 16 * torch.finfo(torch.bfloat16).eps
    assert outcome.max_error < outcome.tolerance


def test_constants_that_are_rounded_too_much_are_found() -> None:
    @dataclass(frozen=True)
    class Coarse:
        name: ClassVar[str] = "coarse"
        exact: ClassVar[bool] = True

        def __call__(self, graph: Graph) -> PassResult:
            narrow = torch.float16
            new: dict[Node, Node] = {}
            for n in graph.constants():
                if n.tensor_type.dtype == torch.float32:
                    new[n] = graph.context.constant(n.handle.name, n.handle.tensor.to(narrow).to(torch.float32))
            return PassResult(substitute(graph, new))

    graph = read("input %x: f32[2, 3]\nconst @w: f32[4, 3]\n%0 = aten.linear(%x, @w) : f32[2, 4]\nreturn %0")
    error = failure(graph, [Coarse()], NumericCheck([[torch.randn(2, 3)]], own_rtol=1e-6))
    assert "expected the same outputs within 1.90735e-06 (own dtype, constants rounded)" in str(error)


# ------------------------------------------------------------------------------------------------ lossy passes
def test_lossy_passes_record_their_error() -> None:
    graph, check = captured()
    _, (record,) = run_passes(graph, [ApplyLossy((faster_gelu,))], check)
    assert record.check is not None
    assert record.check.precision == "own dtype"
    assert record.check.tolerance == math.inf
    assert 40 < record.check.sqnr_db < 100
    assert record.check.max_error == pytest.approx(10 ** (-record.check.sqnr_db / 20))


def test_lossy_passes_have_a_floor() -> None:
    graph, check = captured()
    error = failure(graph, [ApplyLossy((faster_gelu,))], NumericCheck(check.inputs, min_sqnr_db=120))
    expected = "pass apply-lossy (after no other pass): expected finite values and at least 120 dB in output 0; found "
    assert re.match(re.escape(expected) + r"\d\d\.\d dB; ", str(error))


def test_lossy_passes_may_not_give_nan() -> None:
    @rule("aten.gelu.default")
    def divide(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten.log", match.node("aten.neg", match.node("aten.abs", node.inputs[0])))

    graph, check = captured()
    error = failure(graph, [ApplyLossy((divide,))], check)
    assert "expected finite values in output 0; found NaN or infinity; the first value that deviates is" in str(error)


def test_a_check_needs_inputs() -> None:
    with pytest.raises(PassError, match="expected at least one list of inputs; found none; give real inputs"):
        NumericCheck([])


def test_constants_are_not_changed_by_a_run() -> None:
    graph, check = captured()
    before = {n: n.handle.tensor.clone() for n in graph.nodes() if n.op is CONSTANT}
    run_passes(graph, [Canonicalize(), FoldBatchNorm()], check)
    assert all(torch.equal(n.handle.tensor, value) for n, value in before.items())
