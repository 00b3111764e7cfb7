"""Scales moved between norms, layers and products leave the function as it was, at every site of every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instar.ir.errors import PassError
from instar.ir.evaluate import evaluate
from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.ir.verify import verify
from instar.passes.canonicalize import Canonicalize
from instar.passes.transforms.scales import ScaleSite, scale_sites, scaled

from ..rewrite_case import assert_same_numbers, constant, module_graph
from .networks import Convolutions, Grouped, Packed, ids, image, seeded


def graph_of(model: nn.Module, *args: Any, **options: Any) -> Graph:
    return Canonicalize()(module_graph(seeded(model), args, **options)).graph


def sites_of(graph: Graph, **options: bool) -> tuple[dict[str, ScaleSite], dict[str, str]]:
    return scale_sites(graph, find_layers(graph, 1)[0], **options)


def random_scales(sites: Mapping[str, ScaleSite]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, site in sites.items():
        drawn = torch.exp(torch.randn(site.free.numel(), dtype=torch.float64))
        found[name] = torch.where(site.free, drawn, torch.ones_like(drawn))
    return found


def assert_scales_keep(graph: Graph, inputs: Sequence[Tensor], **options: bool) -> Graph:
    sites, _ = sites_of(graph, **options)
    result = scaled(graph, sites, random_scales(sites), "awq")
    verify(result.graph)
    assert result.fired == {"awq": len(sites)}
    assert_same_numbers(graph, result.graph, inputs)
    return result.graph


SITES = {
    "q_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
    "head": ("head",),
}
"""Where scales of ``Grouped`` may go, and the layers that each divides."""


@pytest.mark.parametrize("fused", [False, True])
def test_all_readers_of_a_norm_values_of_shared_heads_and_gated_products_are_found(fused: bool) -> None:
    graph = graph_of(Grouped(fused=fused), ids())
    sites, missing = sites_of(graph)
    assert {name: site.layers for name, site in sites.items()} == SITES
    assert sites["o_proj"].free.numel() == 16  # two heads of values, each read by two heads of queries
    assert sites["o_proj"].consumers[0].columns.tolist() == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
    assert missing == {"embed": "neither a norm nor a layer that could be scaled comes before it"}
    after = assert_scales_keep(graph, [ids()])
    assert after.ops() == graph.ops()


def test_of_a_packed_projection_the_values_alone_are_scaled() -> None:
    graph = graph_of(Packed(), image())
    sites, missing = sites_of(graph)
    assert {name: int(site.free.sum()) for name, site in sites.items()} == {
        "qkv": 32,
        "proj": 32,
        "fc1": 32,
        "head": 32,
    }
    assert sites["proj"].free.nonzero().flatten().tolist() == list(range(64, 96))
    assert set(missing) == {"patch", "fc2"}
    assert_scales_keep(graph, [image()])


def test_dynamic_sizes_do_not_hide_channels() -> None:
    batch = torch.export.Dim("batch", min=1, max=16)
    graph = graph_of(Packed(), image(), dynamic_shapes=({0: batch},))
    assert set(sites_of(graph)[0]) == {"qkv", "proj", "fc1", "head"}
    assert_scales_keep(graph, [image()])


def test_convolutions_pass_scales_on_and_residuals_block_them() -> None:
    graph = graph_of(Convolutions(), image(3))
    sites, missing = sites_of(graph)
    assert {name: site.layers for name, site in sites.items()} == {"tail": ("tail",)}
    assert missing["body"] == "aten.add.Tensor reads it too"
    assert_scales_keep(graph, [image(3)])


def test_a_product_takes_the_inverse_where_nothing_else_can() -> None:
    graph = graph_of(Packed(), image())
    sites, missing = sites_of(graph, explicit=True)
    assert sites["fc2"].kind == "product"
    assert set(missing) == {"patch"}
    after = assert_scales_keep(graph, [image()], explicit=True)
    assert after.ops()["aten.mul.Tensor"] == graph.ops()["aten.mul.Tensor"] + 1
    assert constant(after, "fc2.input_scale").shape == (64,)


class Residual(nn.Module):
    """A norm behind which the sum goes on, as in BERT, and two layers that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y + torch.tanh(self.a(y)) + torch.tanh(self.b(y))


def test_layers_that_share_an_input_share_the_product() -> None:
    x = torch.randn(3, 16, dtype=torch.float64)
    graph = graph_of(Residual(), x)
    sites, missing = sites_of(graph)
    assert sites == {}
    assert missing == {"a": "aten.add.Tensor reads it too", "b": "aten.add.Tensor reads it too"}
    after = assert_scales_keep(graph, [x], explicit=True)
    assert after.ops()["aten.mul.Tensor"] == 1


class Tied(nn.Module):
    """A weight that two layers use, behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.a = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.tanh(self.a(self.norm(x))))


class Returned(nn.Module):
    """The norm's value is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.a = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        return y, self.a(y)


class Activated(Tied):
    """Something that does not commute with scales comes between."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.sigmoid(self.norm(x)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Tied, "neither a norm nor a layer that could be scaled comes before it"),
        (Returned, "the model returns it too"),
        (Activated, "neither a norm nor a layer that could be scaled comes before it"),
    ],
)
def test_what_a_scale_cannot_be_moved_through_is_refused(model: type[nn.Module], reason: str) -> None:
    graph = graph_of(model(), torch.randn(3, 16, dtype=torch.float64))
    assert sites_of(graph) == ({}, {"a": reason})


def test_powers_of_two_change_no_bit() -> None:
    """Shifts of a float's exponent from activations into weights (LLM-FP4) round nothing."""
    graph = graph_of(Grouped(), ids())
    sites, _ = sites_of(graph)
    scales = {name: torch.exp2(torch.randint(-6, 7, site.free.shape).double()) for name, site in sites.items()}
    scales = {name: torch.where(sites[name].free, s, torch.ones_like(s)) for name, s in scales.items()}
    (expected,), (found,) = (evaluate(g, [ids()]) for g in (graph, scaled(graph, sites, scales, "awq").graph))
    assert torch.equal(found, expected)


def test_queries_and_keys_with_rotary_positions_are_left_alone() -> None:
    graph = graph_of(Grouped(rotary=True), ids())
    sites, _ = sites_of(graph)
    assert {name: site.layers for name, site in sites.items()} == SITES
    assert_scales_keep(graph, [ids()])


def test_scales_that_do_not_fit_are_errors() -> None:
    graph = graph_of(Packed(), image())
    sites, _ = sites_of(graph)
    with pytest.raises(PassError, match="expected a place where scales may go; found 'other', which is none"):
        scaled(graph, sites, {"other": torch.ones(4)}, "awq")
    with pytest.raises(PassError, match=r"awq: qkv: expected 32 positive scales; found shape \[4\], least 1"):
        scaled(graph, sites, {"qkv": torch.ones(4)}, "awq")
    with pytest.raises(PassError, match="least 0"):
        scaled(graph, sites, {"qkv": torch.zeros(32)}, "awq")
    with pytest.raises(PassError, match="proj: expected a scale of 1 for channels that something else reads"):
        scaled(graph, sites, {"proj": torch.full((96,), 2.0)}, "awq")


def test_without_scales_the_graph_is_the_same_object() -> None:
    graph = graph_of(Packed(), image())
    assert scaled(graph, sites_of(graph)[0], {}, "awq").graph is graph
