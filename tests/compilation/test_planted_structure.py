"""A network that was trained with structured layers and then made dense: the allocation finds what was planted."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn

from instar.compilation.entry import start
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.ir.budget import Budget
from instar.ir.ops import EAGER
from instar.passes.formats import format
from instar.passes.formats.base import named

FORMATS = ("fp16", "int8:channel", "int4:g32", "int2:g32", "lowrank", "monarch", "int8:channel @ lowrank")
SHAPES = {"lowrank:r4": (128, 96), "monarch:b4": (128, 128)}


class Structured(nn.Module):
    """A low-rank layer, a Monarch layer and a head; the factors are what is trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factors = nn.ParameterDict()
        for number, (text, shape) in enumerate(SHAPES.items()):
            stored = format(f"fp32 @ {text}").encode(0.1 * torch.randn(shape)).tensors
            self.factors.update({n.replace(".", "_"): nn.Parameter(t) for n, t in named(stored, f"{number}.").items()})
        self.head = nn.Linear(128, 8)

    def weights(self) -> list[Tensor]:
        """Both weights as matrices."""
        found: list[Tensor] = []
        for number, (text, shape) in enumerate(SHAPES.items()):
            f = format(f"fp32 @ {text}")
            stored = {n: self.factors[f"{number}.{n}".replace(".", "_")] for n in f.tensors(shape)}
            found.append(f.weight(EAGER, stored, shape))
        return found

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights():
            x = torch.relu(x @ weight.T)
        return self.head(x)


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs, and the classes that a random teacher of low rank gives them."""
    generator = torch.Generator().manual_seed(9)
    teacher = torch.randn(8, 4, generator=generator) @ torch.randn(4, 96, generator=generator)
    x = torch.randn(count, 96, generator=torch.Generator().manual_seed(seed))
    return x, (x @ teacher.T).argmax(dim=1)


@functools.cache
def trained() -> nn.Module:
    """The dense network with the weights of the trained structured one."""
    model, (x, labels) = Structured(), data(2048, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x), labels))
        optimizer.step()
    first, second = nn.Linear(96, 128, bias=False), nn.Linear(128, 128, bias=False)
    with torch.no_grad():
        for layer, weight in zip((first, second), model.weights(), strict=True):
            layer.weight.copy_(weight)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), model.head).eval()


def accuracy(model: nn.Module) -> float:
    x, labels = data(2048, 2)
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == labels).float().mean())


@functools.cache
def ready() -> Prepared:
    batches = [(part,) for part in data(1024, 3)[0].chunk(8)]
    settings = {"target": "torch", "formats": FORMATS, "activations": ("none",)}
    request = start(trained(), batches[0], None, None, None, settings, calibration=batches)
    return prepare(request, calibration=batches)


def test_the_planted_structure_is_found() -> None:
    assert accuracy(trained()) > 0.7
    found = ready().allocate(Budget(size="5%"))
    formats = [d.chosen.option.format for d in found.decisions]
    assert formats[:2] == list(SHAPES)
    assert sum(d.chosen.nbytes for d in found.decisions[:2]) < 0.04 * sum(
        d.original.nbytes for d in found.decisions[:2]
    )
    assert found.outcome.bound <= found.outcome.objective  # proven but for the options that wait with estimates


def test_structure_loses_less_than_integers_of_four_times_the_bytes() -> None:
    joint = ready()
    integers = replace(
        joint,
        ladder=joint.ladder.only(lambda o: o.option.format.startswith(("int", "fp")) and "@" not in o.option.format),
    )
    few, many = joint.allocate(Budget(size="5%")), integers.allocate(Budget(size="20%"))
    assert few.outcome.objective < 0.1 * many.outcome.objective
