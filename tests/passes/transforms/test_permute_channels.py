"""Permutations of channels: networks compute what they did, in float64, and blocks hold channels alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from instar.ir.errors import PassError
from instar.ir.graph import Graph
from instar.ir.layers import find_layers, layer_name
from instar.ir.options import Option
from instar.ir.statistics import WeightStatistics
from instar.ir.verify import verify
from instar.passes.canonicalize import Canonicalize
from instar.passes.transforms import Evidence, PermuteChannels, Rewriting
from instar.passes.transforms.free_channels import FreeChannels, moved_columns
from instar.passes.transforms.reach import FOREIGN

from ..rewrite_case import assert_same_numbers, constant, module_graph
from .networks import Grouped, Packed, ids, image, seeded


class Residual(nn.Module):
    """Two convolutions into one stream, whose channels a third reads, a depthwise one that keeps its own, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, groups=32)
        self.head = nn.Linear(32, 40)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        y = torch.relu(self.d(torch.nn.functional.silu(self.c(y + self.b(y)))))
        return self.head(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))


class Plain(nn.Module):
    """Hidden channels of two magnitudes, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.nn.functional.gelu(self.up(x)))


def graph_of(model: nn.Module, *args: Any, **options: Any) -> Graph:
    return Canonicalize()(module_graph(seeded(model), args, **options)).graph


def sites_of(graph: Graph) -> tuple[dict[str, FreeChannels], dict[str, str]]:
    sites, reasons = PermuteChannels().sites(graph, find_layers(graph, 1)[0])
    return dict(sites), dict(reasons)


def layers_of(site: FreeChannels) -> set[str]:
    return {layer_name(weight.handle.name) for weight in site.columns}


def permuted(graph: Graph) -> Graph:
    """With all channels that are free in a random order."""
    orders: dict[str, Tensor] = {}
    for name, site in sites_of(graph)[0].items():
        order = torch.arange(site.size)
        for group in site.groups[site.groups != FOREIGN].unique():
            places = (site.groups == group).nonzero().flatten()
            order[places] = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(len(places)))]
        orders[name] = order
    result = Rewriting(PermuteChannels(), orders)(graph)
    verify(result.graph)
    assert result.fired == {"permute-channels": len(orders)}
    return result.graph


def test_gates_heads_and_the_residual_stream_each_move() -> None:
    graph = graph_of(Grouped(), ids())
    sites, reasons = sites_of(graph)
    assert {name: layers_of(site) for name, site in sites.items()} == {
        "o_proj": {"o_proj"},
        "embed": {"embed", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "head"},
        "down_proj": {"down_proj"},
    }
    assert reasons == {}
    assert {constant.handle.name for constant in sites["embed"].rows} == {
        "norm1.weight", "norm2.weight", "norm.weight", "o_proj.weight", "down_proj.weight"
    }  # fmt: skip
    moved = permuted(graph)
    assert_same_numbers(graph, moved, [ids()])
    assert moved.ops() == graph.ops()


@pytest.mark.parametrize("fused", [False, True])
def test_values_keep_their_head_and_heads_of_queries_share_their_order(fused: bool) -> None:
    graph = graph_of(Grouped(fused=fused, rotary=True), ids())
    site = sites_of(graph)[0]["o_proj"]
    assert site.groups.tolist() == [0] * 8 + [8] * 8  # two heads of values, each read by two of queries
    assert_same_numbers(graph, permuted(graph), [ids()])
    across = torch.arange(16).roll(1)
    with pytest.raises(PassError, match="expected a permutation of channels of this graph that are free, each within"):
        Rewriting(PermuteChannels(), {"o_proj": across})(graph)


def test_of_a_packed_projection_the_values_move_and_class_tokens_go_with_the_stream() -> None:
    batch = torch.export.Dim("batch", min=1, max=16)
    graph = graph_of(Packed(), image(), dynamic_shapes=({0: batch},))
    sites, reasons = sites_of(graph)
    assert set(sites) == {"proj", "qkv", "fc2"}
    assert (sites["proj"].groups != FOREIGN).nonzero().flatten().tolist() == list(range(64, 96))
    assert {"token", "place", "patch.weight", "patch.bias", "norm.bias"} <= {c.handle.name for c in sites["qkv"].rows}
    assert reasons == {"patch": "what it reads is not computed by layers alone"}
    moved = permuted(graph)
    assert_same_numbers(graph, moved, [image()])
    assert torch.equal(constant(moved, "place").sort().values, constant(graph, "place").sort().values)


def test_streams_of_convolutions_move_as_one_through_depthwise_ones_and_pools() -> None:
    graph = graph_of(Residual(), image(3))
    sites, reasons = sites_of(graph)
    assert {name: layers_of(site) for name, site in sites.items()} == {"b": {"b", "c"}, "head": {"head"}}
    assert reasons == {
        "a": "what it reads is not computed by layers alone",
        "d": "what it reads is not computed by layers alone",
    }
    assert {c.handle.name for c in sites["head"].rows} == {"c.weight", "c.bias", "d.weight", "d.bias"}
    assert_same_numbers(graph, permuted(graph), [image(3)])


class PostNorm(nn.Module):
    """As BERT: norms behind the sums, a table that embeds and reads the stream, which is returned beside a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)

    def forward(self, ids: Tensor) -> Any:
        x = self.norm1(self.embed(ids))
        x = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        scores = nn.functional.linear(x, self.embed.weight)
        return scores, nn.functional.normalize(x.mean(1), dim=-1)


def test_what_the_model_returns_is_put_back_and_tied_tables_move_once() -> None:
    graph = graph_of(PostNorm(), ids())
    sites, _ = sites_of(graph)
    assert {name: layers_of(site) for name, site in sites.items()} == {"down": {"down"}, "embed": {"embed", "up"}}
    moved = permuted(graph)
    assert_same_numbers(graph, moved, [ids()])
    assert moved.ops() - graph.ops() == {"aten.index_select": 1}
    kept, reasons = PermuteChannels(put_back=False).sites(graph, find_layers(graph, 1)[0])
    assert set(kept) == {"down"}
    assert reasons["up"] == "the model returns them"


class Shared(nn.Module):
    """Two streams that look up one table, and a layer with its norm that both go through."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(40, 32), nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.first, self.second = nn.Linear(32, 40), nn.Linear(32, 40)

    def forward(self, ids: Tensor) -> Tensor:
        x, y = self.embed(ids), self.embed(ids + 1)
        x, y = (v + self.down(nn.functional.gelu(self.up(self.norm(v)))) for v in (x, y))
        return self.first(x) + self.second(y)


def test_streams_that_share_parameters_are_one() -> None:
    tokens = ids().clamp(max=38)
    graph = graph_of(Shared(), tokens)
    sites, reasons = sites_of(graph)
    assert reasons == {}
    assert {name: layers_of(site) for name, site in sites.items()} == {
        "embed": {"embed", "up", "first", "second"},
        "down": {"down"},
    }
    assert_same_numbers(graph, permuted(graph), [tokens])


class Awkward(nn.Module):
    """A stream in front of ``last``; ``where`` says what else happens to it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.first, self.other, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.where == "given":
            y = y + x
        if self.where == "shared":
            y = y * self.first.weight.sum()
        if self.where == "folded":
            y = y + y.reshape(-1, 4, 4).transpose(1, 2).reshape(-1, 16)
        if self.where == "gated":
            y = y * torch.softmax(self.other(x), -1)
        return self.last(y)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("given", "the model is given them"),
        ("shared", "a parameter that is computed or that something else reads"),
        ("folded", "aten.reshape"),
        ("gated", "aten.softmax"),
    ],
)
def test_orders_that_are_not_free_say_why(where: str, reason: str) -> None:
    graph = graph_of(Awkward(where), torch.randn(3, 16))
    sites, reasons = sites_of(graph)
    assert "last" not in sites
    assert reason in reasons["last"]


class Mixed(nn.Module):
    """Values behind a product that differs from channel to channel."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.o, self.gain = nn.Linear(16, 16), nn.Linear(16, 16), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        v = (self.v(x).view(x.shape[0], -1, 2, 8) * self.gain).transpose(1, 2)
        y = torch.softmax(torch.ones(2, x.shape[1], x.shape[1]).to(x), -1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def test_values_behind_a_product_of_channels_are_refused() -> None:
    reasons = sites_of(graph_of(Mixed(), torch.randn(2, 5, 16)))[1]
    assert reasons["o"] == "a product treats channels of a head differently"


@settings(max_examples=30, deadline=None)
@given(copies=st.integers(1, 3), size=st.integers(1, 6), foreign=st.integers(0, 2), seed=st.integers(0, 99))
def test_columns_of_a_channel_are_replaced_turn_by_turn(copies: int, size: int, foreign: int, seed: int) -> None:
    channels = torch.cat([torch.arange(size)] * copies + [torch.full((foreign,), FOREIGN)])
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    places = moved_columns(channels, order)
    assert places.tolist() == [copy * size + int(c) for copy in range(copies) for c in order] + [
        copies * size + f for f in range(foreign)
    ]


def test_blocks_of_like_channels_lose_less() -> None:
    model = Plain()
    seeded(model)
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        model.down.weight[:, ::2] *= 30.0
    graph = Canonicalize()(module_graph(model, (x,))).graph
    layers = find_layers(graph, 1)[0]
    moments = {"up": torch.eye(24), "down": torch.eye(64)}
    moments["down"][::2] /= 900.0  # inputs are as small as weights are large
    known = {n.name: WeightStatistics(9, moments[n.name], torch.ones(n.rows)) for n in layers}
    options = {n.name: (Option("int3:g16", "mse"),) for n in layers}
    chosen = PermuteChannels()
    found = chosen.fit(graph, layers, Evidence(known, {}, options))
    (entry,) = found.values()
    assert entry.facts["after"] < 0.8 * entry.facts["before"]
    assert sorted(entry.tensor.tolist()) == list(range(64))
    assert bool((entry.tensor[:32] % 2 == 0).all())
    assert_same_numbers(graph, Rewriting(chosen, {"down": entry.tensor})(graph).graph, [x])


def test_what_is_no_permutation_is_refused() -> None:
    graph = graph_of(Plain(), torch.randn(4, 24))
    for order in (torch.zeros(64), torch.arange(63)):
        with pytest.raises(PassError, match="permute-channels: down: expected a permutation of channels of this graph"):
            Rewriting(PermuteChannels(), {"down": order})(graph)
