"""Looking at a model without compiling it."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import instar
from instar.ir.errors import FormatError, PassError
from instar.ir.graph import Graph
from instar.passes.base import PassResult
from instar.passes.fold_constants import FoldConstants
from instar.tools.inspect import Inspection, inspect


class Attention(nn.Module):
    """One attention by hand, one whole, and a softmax that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 64)
        self.small = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        query = self.project(x)
        scores = (query @ x.transpose(-1, -2) / 8.0).masked_fill(torch.eye(8).bool(), -1e9)
        found = torch.softmax(scores, dim=-1) @ x
        found = found + nn.functional.scaled_dot_product_attention(found, x, x)
        return torch.softmax(self.small(found), dim=-1)


class Inverse(nn.Module):
    """An op that has no place in ONNX, and one that decomposes into some that have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x) + torch.diff(x, dim=-1).sum()


@pytest.fixture(scope="module")
def found() -> Inspection:
    """As on a processor whose 8-bit products do not saturate; nothing runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("instar.targets.onnx.kernels.offers.products_saturate", lambda: False)
        return instar.inspect(
            Attention().eval(), (torch.randn(2, 8, 64),), formats=["fp32", "int8:channel", "int4:g32"]
        )


def test_layers_kernels_and_what_is_no_layer(found: Inspection) -> None:
    (layer,) = found.layers
    assert (layer.name, layer.kind, layer.shape, layer.nbytes) == ("project", "linear", (64, 64), 64 * 64 * 4)
    assert layer.flops == 2 * 2 * 8 * 64 * 64
    assert layer.kernels["int8"] == ("int8:channel", "int4:g32")
    assert layer.kernels["nbits"] == ("int4:g32",)
    assert found.skipped == ("small: it has only 256 weights (fewer than 1024)",)


def test_attention_is_counted_in_both_forms(found: Inspection) -> None:
    assert [site.form for site in found.attention] == ["softmax", "scaled_dot_product_attention"]
    assert "test_inspect.py" in found.attention[0].origin.source


def test_ops_are_ordered_by_work_and_add_up(found: Inspection) -> None:
    assert [op.flops for op in found.ops] == sorted((op.flops for op in found.ops), reverse=True)
    assert sum(op.flops for op in found.ops) == found.model.flops
    assert sum(op.count for op in found.ops) == sum(found.model.ops.values())


def test_what_the_target_cannot_run_is_named_with_its_place() -> None:
    found = inspect(Inverse().eval(), (torch.eye(4),), target="onnx")
    assert [entry.op for entry in found.unsupported] == ["aten.linalg_inv"]
    assert "test_inspect.py" in found.unsupported[0].places[0]
    assert inspect(Inverse().eval(), (torch.eye(4),), target="torch").unsupported == ()


def test_it_is_plain_data(found: Inspection) -> None:
    assert json.loads(json.dumps(found.to_json()))["layers"][0]["name"] == "project"


def test_a_budget_for_a_search_does_not_matter_here() -> None:
    found = inspect(Attention().eval(), (torch.randn(2, 8, 64),), pipeline={"budget": "smallest"})
    assert found.layers


def test_an_exact_pass_that_breaks_the_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, args = Attention().eval(), (torch.randn(2, 8, 64),)
    found = instar.inspect(model, args)
    assert all(record.check is not None and record.check.max_error < 1e-9 for record in found.passes)

    def double(_: FoldConstants, graph: Graph) -> PassResult:
        (output,) = graph.output_nodes
        return PassResult(graph.with_outputs((graph.context.node("aten.mul.Tensor", output, 2.0),)))

    monkeypatch.setattr(FoldConstants, "__call__", double)
    with pytest.raises(PassError, match="fold-constants"):
        instar.inspect(model, args)
    unchecked = instar.inspect(model, args, check_passes=False)
    console = Console(file=io.StringIO(), width=120)
    console.print(unchecked.table())
    assert isinstance(console.file, io.StringIO)
    assert "not checked" in console.file.getvalue()


def test_a_weight_that_is_not_finite_is_no_candidate_as_compile_says() -> None:
    broken, x = nn.Linear(64, 64), torch.randn(2, 64)
    model = nn.Sequential(broken, nn.Linear(64, 64)).eval()
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    layer = instar.inspect(model, (x,)).layers[0]
    assert (layer.name, dict(layer.kernels)) == ("0", {})
    assert layer.refused == ("expected finite weights; found 1 NaN or infinity; repair the checkpoint",)
    with pytest.raises(FormatError, match="layer 0: expected finite weights; found 1 NaN or infinity"):
        instar.compile(model, (x,), target="onnx", budget={"size": "60%"})
