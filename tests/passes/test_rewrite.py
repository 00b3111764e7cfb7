"""The driver: fixed points, bounds, origins, uses, names, refusals, and time that grows with the nodes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from instar.ir.context import Context
from instar.ir.errors import PassError
from instar.ir.graph import Graph, Node, Origin
from instar.ir.parse import parse_graph
from instar.ir.types import TensorType, parse_dim
from instar.ir.verify import verify
from instar.passes.base import Refusal
from instar.passes.registry import exact_pipeline
from instar.passes.rewrite import RewriteContext, rewrite, same_dim, same_type, settle_names, substitute
from instar.passes.rules import Outcome, Refused, refuse, rule

from .rewrite_case import body, read

F32 = TensorType(torch.float32, (4,))


@rule("aten.relu.default")
def relu_to_gelu(node: Node, match: RewriteContext) -> Outcome:
    """Replaces every relu."""
    return match.node("aten.gelu", node.inputs[0])


@rule("aten.gelu.default")
def gelu_to_tanh(node: Node, match: RewriteContext) -> Outcome:
    """Replaces every gelu."""
    return match.node("aten.tanh", node.inputs[0])


def chain(length: int, op: str = "aten.relu") -> Graph:
    context = Context()
    x = context.input("x", F32)
    value = x
    for step in range(length):
        with context.origin(Origin(f"layer.{step}", f"model.py:{step}")):
            value = context.node(op, value) if step % 2 == 0 else context.node("aten.neg", value)
    return context.graph([x], [value])


def test_rules_apply_until_none_fires_and_the_order_of_rules_does_not_matter() -> None:
    for rules in ([relu_to_gelu, gelu_to_tanh], [gelu_to_tanh, relu_to_gelu]):
        result = rewrite(chain(4), rules)
        assert dict(result.graph.ops()) == {"aten.tanh": 2, "aten.neg": 2}
        assert result.fired == Counter({"relu-to-gelu": 2, "gelu-to-tanh": 2})


def test_an_unchanged_graph_is_the_same_object() -> None:
    graph = chain(3, "aten.abs")
    result = rewrite(graph, [relu_to_gelu])
    assert result.graph is graph
    assert result.fired == Counter()


def test_replacements_keep_the_origin() -> None:
    graph = rewrite(chain(3), [relu_to_gelu]).graph
    origins = [str(n.origin) for n in graph.nodes()[1:]]
    assert origins == [f"layer.{i} at model.py:{i}" for i in range(3)]


def test_unused_inputs_stay_and_dead_code_and_common_expressions_go() -> None:
    graph = parse_graph(
        """input %x: f32[4]
        input %unused: f32[4]
        %0 = aten.relu(%x) : f32[4]
        %1 = aten.gelu(%x) : f32[4]
        %2 = aten.add.Tensor(%0, %1) : f32[4]
        %3 = aten.exp(%0) : f32[4]
        return %2"""
    )
    result = rewrite(graph, [relu_to_gelu]).graph
    assert result.inputs == graph.inputs
    assert body(result.text()) == ["%0 = aten.gelu(%x) : f32[4]", "%1 = aten.add.Tensor(%0, %0) : f32[4]", "return %1"]


def test_a_rule_that_keeps_firing_at_a_node_is_named() -> None:
    @rule("aten.gelu.default")
    def back(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten.relu", node.inputs[0])

    message = "rule back: expected a fixed point at aten.relu (layer.0 at model.py:0); it fired 64 times; make the rule"
    with pytest.raises(PassError, match=re.escape(message)):
        rewrite(chain(1), [relu_to_gelu, back])


def test_a_rule_that_fires_in_every_sweep_is_named() -> None:
    @rule("aten.relu.default")
    def grow(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten.neg", match.node("aten.relu", match.node("aten.neg", node.inputs[0])))

    with pytest.raises(PassError, match="rule grow: expected a fixed point within 64 sweeps; it still fires"):
        rewrite(chain(1), [grow])


def test_a_replacement_of_another_type_is_an_error() -> None:
    @rule("aten.relu.default")
    def widen(node: Node, match: RewriteContext) -> Outcome:
        return match.node("aten._to_copy", node.inputs[0], dtype=torch.float64)

    message = (
        "rule widen: expected a replacement of type f32[4] for aten.relu (layer.0 at model.py:0); "
        "found f64[4] from aten._to_copy; mend the rule"
    )
    with pytest.raises(PassError, match=re.escape(message)):
        rewrite(chain(1), [widen])


def test_types_are_compared_as_expressions() -> None:
    first, second = parse_dim("2*(s + 1)"), parse_dim("2*s + 2")
    assert same_dim(first, second)
    assert not same_dim(first, parse_dim("2*s"))
    assert same_dim(parse_dim("Max(s, s)"), parse_dim("s"))
    assert not same_dim(3, 4)
    assert same_type(TensorType(torch.int64, (first, 3)), TensorType(torch.int64, (second, 3)))
    assert not same_type(TensorType(torch.int64, (3,)), TensorType(torch.int32, (3,)))
    assert not same_type(TensorType(torch.int64, (3,)), TensorType(torch.int64, (3, 1)))
    assert not same_type((F32, F32), F32)
    assert not same_type((F32, F32), (F32,))
    assert same_type((F32, TensorType(torch.int64, (first,))), (F32, TensorType(torch.int64, (second,))))


# ------------------------------------------------------------------------------------------------ refusals
class Shown:
    """Counts how often it is written."""

    written = 0

    def __str__(self) -> str:
        Shown.written += 1
        return "x"


def test_refusals_say_rule_node_origin_and_reason_and_are_formatted_late() -> None:
    @rule("aten.relu.default")
    def never(node: Node, match: RewriteContext) -> Outcome:
        del match
        return refuse("because of {} and {}", node.inputs[0], Shown())

    Shown.written = 0
    assert Refused("because of {}", (Shown(),)).template == "because of {}"
    assert Shown.written == 0
    refused = rewrite(chain(1), [never]).refused
    expected = Refusal("never", "aten.relu(%x)", Origin("layer.0", "model.py:0"), "because of %x and x")
    assert refused == (expected,)
    assert str(expected) == "never: aten.relu(%x) (layer.0 at model.py:0): because of %x and x"


def test_refusals_are_those_of_the_last_sweep() -> None:
    """A value that is used twice only until a common expression is found is not refused."""
    graph = parse_graph(
        """input %x: f32[4]
        %0 = aten.neg(%x) : f32[4]
        %1 = aten.relu(%0) : f32[4]
        %2 = aten.gelu(%0) : f32[4]
        %3 = aten.add.Tensor(%1, %2) : f32[4]
        return %3"""
    )

    @rule("aten.gelu.default")
    def alone(node: Node, match: RewriteContext) -> Outcome:
        if match.use_count(node.inputs[0]) > 1:
            return refuse("used {} times", match.use_count(node.inputs[0]))
        return match.node("aten.tanh", node.inputs[0])

    result = rewrite(graph, [alone, relu_to_gelu])
    assert result.refused == ()
    assert result.fired == Counter({"relu-to-gelu": 1, "alone": 1})
    assert [r.reason for r in rewrite(graph, [alone]).refused] == ["used 2 times"]


# ------------------------------------------------------------------------------------------------ what rules may ask
@dataclass(frozen=True)
class Uses:
    """Notes use counts and users of every argument that it is shown."""

    seen: dict[str, tuple[int, list[str]]]
    name: str = "uses"
    ops: tuple[str, ...] = ("aten.relu.default", "aten.neg.default", "aten.add.Tensor")

    def apply(self, node: Node, match: RewriteContext) -> Outcome:
        """Never changes anything."""
        for source in node.inputs:
            self.seen[repr(source)] = (match.use_count(source), [u.op.short_name for u in match.users(source)])
        return None


def test_uses_count_nodes_and_outputs() -> None:
    graph = parse_graph(
        """input %x: f32[4]
        %0 = aten.relu(%x) : f32[4]
        %1 = aten.neg(%x) : f32[4]
        %2 = aten.add.Tensor(%0, %1) : f32[4]
        return %2, %0, %x"""
    )
    rule_ = Uses({})
    rewrite(graph, [rule_])
    assert rule_.seen["%x"] == (3, ["aten.relu", "aten.neg"])
    assert rule_.seen["<aten.relu: f32[4]>"] == (2, ["aten.add.Tensor"])
    assert rule_.seen["<aten.neg: f32[4]>"] == (1, ["aten.add.Tensor"])


def test_uses_follow_replacements_within_a_sweep() -> None:
    counts: list[int] = []

    @rule("aten.tanh.default")
    def drop(node: Node, match: RewriteContext) -> Outcome:
        del match
        return node.inputs[0]

    @rule("aten.neg.default")
    def note(node: Node, match: RewriteContext) -> Outcome:
        counts.append(match.use_count(node.inputs[0]))
        return None

    graph = parse_graph(
        """input %x: f32[4]
        %0 = aten.relu(%x) : f32[4]
        %1 = aten.tanh(%0) : f32[4]
        %2 = aten.neg(%1) : f32[4]
        return %2"""
    )
    rewrite(graph, [drop, note, relu_to_gelu])
    assert counts == [1, 1]


def test_derived_constants_are_shared_and_named_apart() -> None:
    graph = read(
        """input %x: f32[4]
        const @w: f32[4]
        %0 = aten.add.Tensor(%x, @w) : f32[4]
        %1 = aten.mul.Tensor(%0, @w) : f32[4]
        %2 = aten.sub.Tensor(%1, @w) : f32[4]
        return %2"""
    )

    @rule("aten.add.Tensor", "aten.mul.Tensor")
    def double(node: Node, match: RewriteContext) -> Outcome:
        source = node.inputs[1]
        if node.op.name == "aten.mul.Tensor" or source.handle.aliases:
            return None
        twice = match.derive(source, "twice", lambda w: 2 * w)
        assert match.derive(source, "twice", lambda w: 2 * w) is twice
        assert match.scalar(1.0, torch.float32) is match.scalar(1.0, torch.float32)
        return match.node("aten.maximum", node.inputs[0], twice)

    result = rewrite(graph, [double]).graph
    verify(result)
    assert sorted(c.handle.name for c in result.constants()) == ["w", "w.1"]
    renamed = next(c for c in result.constants() if c.handle.name == "w")
    assert torch.equal(renamed.handle.tensor, 2 * graph.constants()[0].handle.tensor)


def test_names_that_are_apart_stay() -> None:
    graph = read("const @w: f32[4]\nconst @w.1: f32[4]\n%0 = aten.add.Tensor(@w, @w.1) : f32[4]\nreturn %0")
    assert settle_names(graph) is graph


def test_substitute_rebuilds_what_uses_a_node() -> None:
    graph = chain(3)
    target = graph.nodes()[2]
    replaced = substitute(graph, {target: graph.context.node("aten.abs", target.inputs[0])})
    assert dict(replaced.ops()) == {"aten.relu": 2, "aten.abs": 1}
    assert substitute(graph, {}) is graph


# ------------------------------------------------------------------------------------------------ size
def test_a_chain_of_ten_thousand_nodes_goes_through_every_exact_pass() -> None:
    graph = chain(10_000, "aten.clone")
    for pass_ in exact_pipeline():
        graph = pass_(graph).graph
    assert len(graph.nodes()) == 1


def test_work_grows_linearly() -> None:
    visits: list[int] = []
    for length in (500, 1000, 2000):
        count = 0

        @rule("aten.relu.default", "aten.gelu.default", "aten.neg.default")
        def visit(node: Node, match: RewriteContext) -> Outcome:
            del node, match
            nonlocal count
            count += 1
            return None

        rewrite(chain(length), [visit, relu_to_gelu])
        visits.append(count)
    assert visits[1] == 2 * visits[0]
    assert visits[2] == 2 * visits[1]
