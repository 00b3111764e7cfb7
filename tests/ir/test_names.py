"""Names of inputs and outputs: from the user's keys, unique, and as chosen."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.utils.generic import ModelOutput

from instar.ir.capture import capture
from instar.ir.errors import ConfigError
from instar.ir.evaluate import call, evaluate
from instar.ir.graph import Graph, Signature
from instar.ir.names import input_names, output_names, renamed, unused_name
from instar.ir.parse import parse_graph
from instar.ir.storage import load, save


class Returns(nn.Module):
    """Returns whatever a function makes of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.make(x * 2, mask)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Detection:
    boxes: Tensor
    scores: Tensor | None = None
    masks: Tensor | None = None


pytree.register_dataclass(Detection, serialized_type_name="tests.Detection")


@dataclass
class Encoded(ModelOutput):
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    pooler_output: Tensor | None = None


def _captured(make: Any) -> Graph:
    return capture(Returns(make).eval(), (torch.ones(2, 3), torch.ones(2, 3)))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda y, m: y, ["output"]),
        (lambda y, m: (y,), ["output"]),
        (lambda y, m: (y, y + 1), ["output_0", "output_1"]),
        (lambda y, m: {"logits": y}, ["logits"]),
        (lambda y, m: OrderedDict(b=y, a=y + 1), ["b", "a"]),
        (lambda y, m: defaultdict(list, b=y, a=y + 1), ["b", "a"]),
        (lambda y, m: {"past": [{"key": y, "value": y + 1}], "y": y}, ["past.0.key", "past.0.value", "y"]),
        (lambda y, m: ({"a": y}, y + 1), ["output_0.a", "output_1"]),
        (lambda y, m: (y, None, y + 1), ["output_0", "output_2"]),
        (lambda y, m: {0: y, 1: y + 1}, ["output_0", "output_1"]),
        (lambda y, m: {"a.b": y, "a": {"b": y + 1}}, ["a.b", "a.b_1"]),
        (lambda y, m: {"a b": y, "": y + 1}, ["a_b", "output"]),
        (lambda y, m: {"x": y, "mask": m}, ["x_out", "mask_out"]),
        (lambda y, m: Pair(y, y + 1), ["left", "right"]),
        (lambda y, m: {"pair": Pair(y, y + 1)}, ["pair.left", "pair.right"]),
        (lambda y, m: Detection(y, masks=y + 1), ["boxes", "masks"]),
        (
            lambda y, m: Encoded(last_hidden_state=y, hidden_states=(y + 1, y + 2)),
            ["last_hidden_state", "hidden_states.0", "hidden_states.1"],
        ),
    ],
)
def test_outputs_are_called_like_the_keys_that_the_model_returns(make: Any, names: list[str]) -> None:
    assert list(output_names(_captured(make))) == names


@settings(deadline=None)
@given(st.recursive(st.just("*"), lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8))
def test_names_are_unique_whatever_the_keys_are(structure: Any) -> None:
    graph = _captured(lambda y, m: (y, m))
    leaves, spec = pytree.tree_flatten(structure)
    many = graph.context.graph(graph.inputs, [graph.outputs[0]] * len(leaves), Signature(None, spec))
    names = output_names(many)
    assert len(set(names)) == len(leaves)
    assert not set(names) & set(input_names(many))
    assert all(name and name.isprintable() for name in names)


def test_a_taken_name_gets_the_next_number() -> None:
    assert unused_name("a", set()) == "a"
    assert unused_name("a", {"a", "a_1"}) == "a_2"


def test_chosen_names_leave_call_and_numbers_alone() -> None:
    graph = _captured(lambda y, m: {"y": y + m})
    other = renamed(graph, ["mask", "x"], ["past.0/key:0"])
    assert (input_names(other), output_names(other)) == (("mask", "x"), ("past.0/key:0",))
    x, mask = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(call(other, (x, mask))["y"], call(graph, (x,), {"mask": mask})["y"])
    assert torch.equal(evaluate(other, [x, mask])[0], evaluate(graph, [x, mask])[0])


def test_chosen_names_survive_text_and_file(tmp_path: Any) -> None:
    graph = renamed(_captured(lambda y, m: {"y": y + m}), ["past.0/key", "0"], ["out-put"])
    assert input_names(parse_graph(graph.text())) == ("past.0/key", "0")
    save(graph, tmp_path / "graph.safetensors")
    again = load(tmp_path / "graph.safetensors")
    assert again.text() == graph.text()
    assert output_names(again) == ("out-put",)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["a"], None, "input_names: expected 2 names, for x, mask; found 1"),
        (["a", "a"], None, "input_names: expected a name once; found 'a' for two tensors"),
        (["a", ""], None, "input_names: expected names of letters.*found ''"),
        (["a", "b c"], None, "input_names: expected names of letters.*found 'b c'"),
        (None, ["a", "b"], "output_names: expected 1 names, for y; found 2"),
        (None, ["x"], "output_names: expected other names than the inputs'; found 'x' for both; rename one"),
        (["a", "b"], ["b"], "output_names: expected other names than the inputs'; found 'b'"),
        (None, ["a\n"], "output_names: expected names of letters"),
    ],
)
def test_names_that_cannot_be_are_refused(inputs: Any, outputs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        renamed(_captured(lambda y, m: {"y": y + m}), inputs, outputs)
