"""Rotations of residual streams: the matrices are orthogonal, and networks compute what they did, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instar.ir.errors import PassError
from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.ir.verify import verify
from instar.passes.canonicalize import Canonicalize
from instar.passes.transforms import Evidence, Rewriting, RotateResidual
from instar.passes.transforms.hadamard import rotation, spreading

from ..rewrite_case import assert_same_numbers, constant, module_graph
from .networks import Grouped, Packed, ids, image, seeded


def graph_of(model: nn.Module, *args: Any, **options: Any) -> Graph:
    return Canonicalize()(module_graph(seeded(model), args, **options)).graph


def rotated(graph: Graph) -> tuple[Graph, dict[str, str]]:
    layers = find_layers(graph, 1)[0]
    chosen = RotateResidual()
    found = {name: entry.tensor for name, entry in chosen.fit(graph, layers, Evidence()).items()}
    result = Rewriting(chosen, found)(graph)
    verify(result.graph)
    return result.graph, dict(chosen.sites(graph, layers)[1])


@pytest.mark.parametrize("size", [1, 2, 3, 8, 12, 40, 64, 96])
def test_matrices_are_orthogonal_and_spread(size: int) -> None:
    matrix = spreading(size)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(matrix[:, 0], torch.full((size,), size**-0.5, dtype=torch.float64))
    assert float(matrix.abs().max()) <= (2.0 / size) ** 0.5 + 1e-12
    signs = torch.randint(0, 2, (size,)) * 2 - 1
    for keeps_mean in (False, True):
        turned = rotation(signs, keeps_mean=keeps_mean)
        assert torch.allclose(turned @ turned.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    ones = torch.ones(size, dtype=torch.float64)
    assert torch.allclose(ones @ rotation(signs, keeps_mean=True), ones, atol=1e-12)


def test_powers_of_two_are_hadamard_matrices() -> None:
    assert bool((spreading(16) * 4).round().abs().eq(1).all())


def test_norms_commute_with_their_rotations() -> None:
    x, signs = torch.randn(5, 24, dtype=torch.float64), torch.randint(0, 2, (24,)) * 2 - 1
    plain, mean = (rotation(signs, keeps_mean=k) for k in (False, True))
    rms, layer = (lambda v: nn.functional.rms_norm(v, (24,), eps=1e-5)), (lambda v: nn.functional.layer_norm(v, (24,)))
    assert torch.allclose(rms(x @ plain), rms(x) @ plain, atol=1e-12)
    assert torch.allclose(layer(x @ mean), layer(x) @ mean, atol=1e-12)
    assert not torch.allclose(layer(x @ plain), layer(x) @ plain, atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_a_decoder_with_rms_norms_is_rotated(fused: bool) -> None:
    graph = graph_of(Grouped(fused=fused), ids())
    after, missing = rotated(graph)
    assert missing == {}
    assert_same_numbers(graph, after, [ids()])
    assert after.ops() == graph.ops()
    assert torch.equal(constant(after, "norm1.weight"), torch.ones(32, dtype=torch.float64))
    assert not torch.allclose(constant(after, "embed.weight"), constant(graph, "embed.weight"))


def test_a_vision_transformer_with_layer_norms_is_rotated() -> None:
    batch = torch.export.Dim("batch", min=1, max=16)
    graph = graph_of(Packed(), image(), dynamic_shapes=({0: batch},))
    after, missing = rotated(graph)
    assert missing == {}
    assert_same_numbers(graph, after, [image()])
    assert torch.equal(constant(after, "norm1.bias"), torch.zeros(32, dtype=torch.float64))
    assert not torch.allclose(constant(after, "place"), constant(graph, "place"))


class Block(nn.Module):
    """A residual around a layer; ``where`` says what stands between the sum and the norm, or behind it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.first, self.body = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        y = self.norm(x)
        if self.where == "post":
            return self.head(self.norm(y + self.body(y)))
        if self.where == "gain":
            x = x * torch.arange(16, dtype=x.dtype)
        if self.where == "number":
            x = x + 1.0
        if self.where == "returned":
            return self.head(self.norm(x)), x
        x = x + self.body(torch.tanh(y) if self.where == "activated" else y)
        return self.head(x if self.where == "read" else self.norm(x * 0.5))


def test_a_norm_that_is_used_twice_is_refused_and_one_bias_is_added_where_it_has_none() -> None:
    x = torch.randn(3, 16, dtype=torch.float64)
    _, missing = rotated(graph_of(Block("twice"), x))
    assert missing["first"] == "the parameters of a norm are computed, or something else reads them"


class Once(Block):
    """The same with a norm of its own for the head."""

    def __init__(self, where: str = "") -> None:
        super().__init__(where)
        self.last = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        y = self.norm(x)
        if self.where == "post":
            return self.head(self.last(y + self.body(y)))
        if self.where == "gain":
            x = x * torch.arange(16, dtype=x.dtype)
        if self.where == "number":
            x = x + 1.0
        x = x + self.body(torch.tanh(y) if self.where == "activated" else y)
        last = self.head(x) if self.where == "read" else self.head(self.last(x * 0.5))
        return (last, x) if self.where == "returned" else last


@pytest.mark.parametrize("where", ["", "read"])
def test_layers_without_a_bias_get_that_of_the_norm(where: str) -> None:
    x = torch.randn(3, 16, dtype=torch.float64)
    graph = graph_of(Once(where), x)
    after, missing = rotated(graph)
    assert missing == {}
    assert_same_numbers(graph, after, [x])
    assert constant(after, "body.bias").shape == (16,)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("post", "aten.add.Tensor reads a normed value"),
        ("gain", "treats its channels differently"),
        ("number", "a number is added to it"),
        ("activated", "aten.tanh reads a normed value"),
        ("returned", "the model returns it"),
    ],
)
def test_streams_that_cannot_be_rotated_say_why(where: str, reason: str) -> None:
    x = torch.randn(3, 16, dtype=torch.float64)
    graph = graph_of(Once(where), x)
    after, missing = rotated(graph)
    assert after is graph
    assert reason in missing["first"]


class Depthwise(nn.Module):
    """As ConvNeXt: a convolution in groups, or a plain one, in front of a norm."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(16, 16, 3, groups=groups), nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)))


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_convolutions_in_groups_are_not_rotated(groups: int) -> None:
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    graph = graph_of(Depthwise(groups), x)
    after, missing = rotated(graph)
    assert (after is graph) == (groups > 1)
    assert ("convolution in groups" in missing.get("head", "")) == (groups > 1)
    assert_same_numbers(graph, after, [x])


def test_signs_that_do_not_fit_are_errors() -> None:
    graph = graph_of(Grouped(), ids())
    with pytest.raises(PassError, match="expected signs of a residual stream of this graph; found 4 for 'embed'"):
        Rewriting(RotateResidual(), {"embed": torch.ones(4)})(graph)
    with pytest.raises(PassError, match="expected a seed of 0 or more, found -1"):
        RotateResidual(seed=-1)
