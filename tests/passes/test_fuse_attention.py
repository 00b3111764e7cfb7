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
def test_another_mask_is_no_causal_one_unless_it_is_the_same(hidden: Tensor) -> None:
    causal = torch.equal(hidden, LATER)
    result = check_rewrite(
        graph_of(Spelled(filled, hidden)),
        FuseAttention(causal_only=True),
        fires={"causal-attention": 1} if causal else {},
        refused=[] if causal else ["the mask hidden does not hide exactly what comes later"],
    )
    assert result.graph.ops()[ATTENTION] == int(causal)


@pytest.mark.parametrize(
    ("mask", "hidden"), [(filled, LATER.triu(2)), (added, torch.randn(LENGTH, LENGTH)), (added, torch.randn(LENGTH))]
)
@pytest.mark.parametrize("times", [1, 2])
def test_attention_under_any_mask_is_one_op(mask: Callable[..., Tensor], hidden: Tensor, times: int) -> None:
    graph = graph_of(Spelled(mask, hidden, times), 4 // times)
    result = check_rewrite(graph, FuseAttention(), fires={"any-attention": 1}, ops={"aten.softmax.int": 0})
    (node,) = [n for n in result.graph.nodes() if n.op.name == ATTENTION]
    assert not node.argument("is_causal")
    assert node.argument("enable_gqa") == (times == 2)
    assert result.graph.ops()["aten.logical_not"] == int(mask is filled)


class Net(nn.Module):
    """Attention whose scores come out of a function of queries, keys and a mask."""

    def __init__(self, scores: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(self.scores(query, key, mask), dim=-1) @ key


def net_graph(scores: Callable[[Tensor, Tensor, Tensor], Tensor], mask: Tensor, shared: int = 4) -> Any:
    return Canonicalize()(module_graph(Net(scores), (heads(4), heads(shared), mask))).graph


def product(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-2, -1)


@pytest.mark.parametrize(
    "scores",
    [
        lambda q, k, m: product(q, k) + m,
        lambda q, k, m: m + product(q, k) * 0.3,
        lambda q, k, m: product(q * 0.3, k) / 2,
        lambda q, k, m: product(q, k).masked_fill(m > 0, float("-inf")),
    ],
)
def test_masks_of_run_time_and_none_are_fused(scores: Callable[..., Tensor]) -> None:
    graph = net_graph(scores, torch.randn(LENGTH, LENGTH).tril())
    check_rewrite(graph, FuseAttention(), fires={"any-attention": 1}, refused=[], ops={"aten.softmax.int": 0})
    check_rewrite(graph, FuseAttention(causal_only=True), fires={}, refused=[])


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (lambda q, k, m: product(q, k) * -1.0, "the scale -1.0 is not positive"),
        (lambda q, k, m: product(q, k[:, :1]), "queries, keys and values differ in batch or heads"),
        (lambda q, k, m: product(q, k) * m, "the scores are no product of queries with transposed keys, but aten.mul"),
        (lambda q, k, m: (product(q, k) + m).tanh(), "no product of queries with transposed keys, but aten.tanh"),
        (lambda q, k, m: product(q, k) + (m > 0).float(), "the mask is of torch.float32, the scores of torch.float64"),
        (lambda q, k, m: product(q, k).masked_fill(m > 0, -1e4), "but aten.masked_fill.Scalar"),
    ],
)
def test_what_only_looks_like_attention_is_refused(scores: Callable[..., Tensor], reason: str) -> None:
    graph = net_graph(scores, torch.randn(LENGTH, LENGTH))
    check_rewrite(graph, FuseAttention(), fires={}, refused=[reason], ops={ATTENTION: 0})


def test_a_softmax_over_another_axis_is_left_alone() -> None:
    class Other(nn.Module):
        def forward(self, query: Tensor, key: Tensor) -> Tensor:
            return torch.softmax(product(query, key), dim=1) @ key

    check_rewrite(module_graph(Other(), (heads(4), heads(4))), FuseAttention(), fires={}, refused=[])
