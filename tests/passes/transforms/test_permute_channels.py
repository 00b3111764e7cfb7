"""Permutations of hidden channels: networks compute what they did, in float64, and blocks hold channels alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instar.ir.errors import PassError
from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.ir.options import Option
from instar.ir.statistics import WeightStatistics
from instar.ir.verify import verify
from instar.passes.canonicalize import Canonicalize
from instar.passes.transforms import Evidence, PermuteChannels, Rewriting

from ..rewrite_case import assert_same_numbers, module_graph
from .networks import Grouped, ids, image, seeded


class Residual(nn.Module):
    """Two convolutions into one stream, whose channels a third reads, and a depthwise one that keeps its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        return self.d(torch.nn.functional.silu(self.c(y + self.b(y))))


class Plain(nn.Module):
    """Hidden channels of two magnitudes, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.nn.functional.gelu(self.up(x)))


def graph_of(model: nn.Module, *args: Any) -> Graph:
    return Canonicalize()(module_graph(seeded(model), args)).graph


def permuted(graph: Graph) -> tuple[Graph, dict[str, str]]:
    layers, chosen = find_layers(graph, 1)[0], PermuteChannels()
    sites, reasons = chosen.sites(graph, layers)
    orders = {n: torch.randperm(h.size, generator=torch.Generator().manual_seed(h.size)) for n, h in sites.items()}
    result = Rewriting(chosen, orders)(graph)
    verify(result.graph)
    return result.graph, dict(reasons)


def test_gates_and_hidden_channels_move_together() -> None:
    graph = graph_of(Grouped(), ids())
    sites, reasons = PermuteChannels().sites(graph, find_layers(graph, 1)[0])
    assert set(sites) == {"down_proj"}
    assert len(sites["down_proj"].writers) == 2
    assert reasons["o_proj"] == "what it reads is not computed by layers alone"
    moved, _ = permuted(graph)
    assert_same_numbers(graph, moved, [ids()])


def test_streams_of_convolutions_move_as_one() -> None:
    graph = graph_of(Residual(), image(3))
    sites, reasons = PermuteChannels().sites(graph, find_layers(graph, 1)[0])
    (name,) = sites
    assert len(sites[name].writers) == 2
    assert len(sites[name].readers) == 2
    assert "d" in reasons
    moved, _ = permuted(graph)
    assert_same_numbers(graph, moved, [image(3)])


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
        with pytest.raises(PassError, match="permute-channels: down: expected a permutation of hidden channels"):
            Rewriting(PermuteChannels(), {"down": order})(graph)
