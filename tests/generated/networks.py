"""A network for every seed: a chain of blocks, inputs at two sizes, named dynamic dimensions, several outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from . import image_blocks, sequence_blocks
from .blocks import BLOCKS, BlockKind, Kind

REGISTERED = (image_blocks, sequence_blocks)
"""Imported for the blocks that they register."""

STARTS: Sequence[str] = ("vector", "vector", "sequence", "sequence", "tokens", "image", "image", "nodes")
FORMS: Sequence[str] = ("one", "pair", "twice", "mapping", "nested", "integers", "chosen")


@dataclass(frozen=True)
class Generated:
    """A network and how it is called.

    Attributes:
        seed: that made it.
        blocks: names of its blocks, the start first and the form of its outputs last.
        model: in evaluation mode.
        calls: positional inputs at two sizes, perhaps nested; the first is the example.
        dynamic_shapes: as ``torch.export`` takes it, or None where every size is fixed.
    """

    seed: int
    blocks: tuple[str, ...]
    model: nn.Module
    calls: tuple[tuple[Any, ...], tuple[Any, ...]]
    dynamic_shapes: tuple[Any, ...] | None


class Chain(nn.Module):
    """Blocks one after the other; what they compute is returned in one of several forms."""

    def __init__(self, start: nn.Module | None, blocks: Sequence[nn.Module], head: nn.Module, form: str) -> None:
        super().__init__()
        self.start, self.blocks, self.head, self.form = start, nn.ModuleList(blocks), head, form

    def forward(self, x: Tensor, index: Tensor | None = None) -> Any:
        y = x if self.start is None else self.start(x)
        first = y
        for part in self.blocks:
            y = part(y, index)
        y = self.head(y.movedim(1, -1) if y.dim() == 4 else y)
        return outputs(self.form, x, first, y)


def outputs(form: str, x: Tensor, first: Tensor, y: Tensor) -> Any:
    """The result in a form: input handed through, a value twice, mappings, nested ones, integers."""
    if form == "pair":
        return y, x
    if form == "twice":
        return y, [y, first]
    if form == "mapping":
        return {"logits": y, "last_hidden_state": first, "mean": y.mean(-1)}
    if form == "nested":
        return {"output": (y, {"x": x + 1, "y": y.softmax(-1)}), "add": [y.sum(-1)]}
    if form == "integers":
        return y.argmax(-1)
    if form == "chosen":
        best = y.topk(2, -1)
        return y, best.indices, (y > 0.05).to(torch.int32)
    return y


def generate(seed: int) -> Generated:
    """The network of a seed: the same for the same seed, whatever was drawn before."""
    random = Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _generate(seed, random)


def _generate(seed: int, random: Random) -> Generated:
    start, width = random.choice(STARTS), random.choice([8, 32, 32, 32])
    kind: Kind = "sequence" if start == "tokens" else start  # pyright: ignore[reportAssignmentType]
    chosen = chain(random, kind, random.randint(2, 4))
    parts = [block.make(random, width) for block in chosen]
    form = random.choice(FORMS)
    first = nn.Embedding(50, width) if start == "tokens" else None
    model = Chain(first, parts, nn.Linear(width, random.choice([5, 40])), form).eval()
    settle(model)
    indexed, fixed = any(b.index for b in chosen), random.random() < 0.15
    sizes = ((3, 7), (3, 7)) if fixed else ((3, 7), (5, 11))
    calls = tuple(inputs(start, width, indexed, *size) for size in sizes)
    shapes = None if fixed else dims(random, start, indexed)
    if shapes is not None and start in ("sequence", "tokens") and 1 not in shapes[0]:
        calls = (calls[0], inputs(start, width, indexed, 5, 7))
    names = (start, *(b.name for b in chosen), form)
    return Generated(seed, names, model, (calls[0], calls[1]), shapes)


def chain(random: Random, kind: Kind, length: int) -> list[BlockKind]:
    """Random blocks that fit each other."""
    chosen: list[BlockKind] = []
    for _ in range(length):
        chosen.append(random.choice([b for b in BLOCKS if b.source == kind]))
        kind = chosen[-1].result
    return chosen


def settle(model: nn.Module) -> None:
    """Statistics of batch norms as if they had seen data."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for value, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                assert value is not None
                value.uniform_(low, low + 1)


def inputs(start: str, width: int, indexed: bool, batch: int, length: int) -> tuple[Tensor, ...]:
    """Positional inputs of a size; the index input holds positions that exist."""
    if start == "nodes":
        nodes = 2 * length
        return torch.randn(nodes, width), *((torch.randint(0, nodes, (2, 3 * batch)),) if indexed else ())
    makers: dict[str, Callable[[], Tensor]] = {
        "vector": lambda: torch.randn(batch, width),
        "sequence": lambda: torch.randn(batch, length, width),
        "tokens": lambda: torch.randint(0, 50, (batch, length)),
        "image": lambda: torch.randn(batch, width, 8, 8),
    }
    limit = length if start in ("sequence", "tokens") else 5
    return makers[start](), *((torch.randint(0, limit, (batch,)),) if indexed else ())


def dims(random: Random, start: str, indexed: bool) -> tuple[dict[int, Any], ...]:
    """Named dynamic dimensions: the batch always, the length of sequences half the time."""
    if start == "nodes":
        nodes: tuple[dict[int, Any], ...] = ({0: torch.export.Dim("nodes", max=512)},)
        return nodes + (({1: torch.export.Dim("edges", max=512)},) if indexed else ())
    batch = torch.export.Dim("batch", max=64)
    first: dict[int, Any] = {0: batch}
    if start in ("sequence", "tokens") and random.random() < 0.6:
        first[1] = torch.export.Dim("length", min=4, max=64)
    return (first, {0: batch}) if indexed else (first,)
