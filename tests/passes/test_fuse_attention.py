"""Causal attention spelled out by a model: fused where the mask is causal, left alone or refused elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instar.passes.canonicalize import Canonicalize
from instar.passes.fold_constants import FoldConstants
from instar.passes.fuse_attention import ATTENTION, FuseAttention

from .rewrite_case import check_rewrite, module_graph

LENGTH, WIDTH = 6, 8


class Spelled(nn.Module):
    """Attention over queries, keys and values as heads."""

    hidden: Tensor

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, times: int = 1) -> None:
        super().__init__()
        self.mask, self.times = mask, times
        self.register_buffer("hidden", hidden)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (t.repeat_interleave(self.times, dim=1) if self.times > 1 else t for t in (key, value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(WIDTH)
        return torch.softmax(self.mask(scores, self.hidden), dim=-1) @ value


def filled(scores: Tensor, hidden: Tensor) -> Tensor:
    return scores.masked_fill(hidden, float("-inf"))


def added(scores: Tensor, hidden: Tensor) -> Tensor:
    return scores + hidden


LATER = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
LOWEST = torch.zeros(LENGTH, LENGTH).masked_fill(LATER, torch.finfo(torch.float32).min)


def heads(count: int) -> Tensor:
    return torch.randn(2, count, LENGTH, WIDTH)


def graph_of(module: nn.Module, shared: int = 4) -> Any:
    graph = module_graph(module, (heads(4), heads(shared), heads(shared)))
    return Canonicalize()(FoldConstants()(Canonicalize()(graph).graph).graph).graph


@pytest.mark.parametrize(("mask", "hidden"), [(filled, LATER), (filled, LATER[None, None]), (added, LOWEST)])
@pytest.mark.parametrize("times", [1, 2])
def test_causal_attention_is_one_op(mask: Callable[..., Tensor], hidden: Tensor, times: int) -> None:
    graph = graph_of(Spelled(mask, hidden, times), 4 // times)
    result = check_rewrite(graph, FuseAttention(), fires={"causal-attention": 1}, ops={"aten.softmax.int": 0})
    (node,) = [n for n in result.graph.nodes() if n.op.name == ATTENTION]
    assert node.argument("is_causal")
    assert node.argument("enable_gqa") == (times == 2)
    assert node.argument("scale") == pytest.approx(1 / math.sqrt(WIDTH))
    assert result.graph.ops()["aten.repeat_interleave.self_int"] == 0


@pytest.mark.parametrize("hidden", [LATER.triu(2), LATER | torch.eye(LENGTH, dtype=torch.bool).roll(1, 1)])
def test_another_mask_is_refused_unless_it_is_the_same(hidden: Tensor) -> None:
    causal = torch.equal(hidden, LATER)
    graph = graph_of(Spelled(filled, hidden))
    result = check_rewrite(
        graph,
        FuseAttention(),
        fires={"causal-attention": 1} if causal else {},
        refused=[] if causal else ["the mask hidden does not hide exactly what comes later"],
    )
    assert result.graph.ops()[ATTENTION] == int(causal)


def test_a_mask_that_is_not_constant_is_left_alone() -> None:
    class Masked(nn.Module):
        def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
            return torch.softmax(query @ key.transpose(-2, -1) + mask, dim=-1) @ key

    graph = Canonicalize()(module_graph(Masked(), (heads(4), heads(4), torch.randn(LENGTH, LENGTH)))).graph
    check_rewrite(graph, FuseAttention(), fires={}, refused=[])
