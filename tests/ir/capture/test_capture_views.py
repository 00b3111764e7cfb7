"""Writes through views are new values of the tensors behind them; no size is fixed on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from instar.ir.capture import capture
from instar.ir.capture.functional import functional
from instar.ir.errors import CaptureError
from instar.ir.evaluate import call
from instar.ir.verify import verify

X = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
BATCH = ({0: Dim("batch")},)


class Written(nn.Module):
    """Makes a tensor, lets a function write to it, and returns it beside a view of it that was taken before."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        t = x.clone()
        seen = t[:, 1:].transpose(1, 2)
        result = self.function(t, x)
        return t, seen + 0, result


def slices(t: Tensor, x: Tensor) -> None:
    t[:, 1:5:2] = x[:, :2] * 2
    t[:, :, -1] = 7
    t[..., 0:2] += 1


def in_a_loop(t: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros_like(t)
    for i in range(t.shape[1]):
        out[:, i] = t[:, i].cumsum(-1) + (out[:, i - 1] if i else 0)
    return out


def view_of_a_view(t: Tensor, x: Tensor) -> Tensor:
    inner = t.permute(2, 0, 1)[1:].movedim(0, -1).unsqueeze(0)
    inner[0, :, 2].mul_(3)
    t.add_(1)
    return inner * 2


def read_between(t: Tensor, x: Tensor) -> Tensor:
    rows = t.view(-1, 6)
    before = rows * 1
    t[:, 0].zero_()
    after = rows * 1
    rows[::2].neg_()
    return before + after + rows


WRITES: list[Callable[[Tensor, Tensor], Any]] = [
    slices,
    in_a_loop,
    view_of_a_view,
    read_between,
    lambda t, x: t.unbind(1)[2].add_(1),
    lambda t, x: t.unfold(-1, 2, 2).mul_(2),
    lambda t, x: t.unfold(1, 2, 3).mul_(x[:, :2, :, None]),
    lambda t, x: t.chunk(4, 1)[1].add_(1),
    lambda t, x: t.split(4, 2)[1].add_(1),
    lambda t, x: t.split([1, 2, 3], 2)[2].add_(1),
    lambda t, x: t.diagonal(1, 1, 2).mul_(2),
    lambda t, x: t.narrow(1, 2, 3).copy_(x[:, :1]),
    lambda t, x: t.mT.swapaxes(0, 1)[0].mul_(2),
    lambda t, x: t.select(2, 3).squeeze().unflatten(1, (2, 3))[:, 1].exp_(),
    lambda t, x: t[0].t()[1].fill_(3),
    lambda t, x: t[0].fill_diagonal_(0.5),
    lambda t, x: torch.zeros(3, 3, 3).fill_diagonal_(2.0),
    lambda t, x: t.detach()[:, 2].masked_fill_(x[:, 2] > 0, -1.0),
    lambda t, x: t[:, [0, 2]].add_(1),
    lambda t, x: t.__setitem__(x > 0, 0.0),
    lambda t, x: t[:, 1:3].copy_(x[:, 0:2].double()),
]


@pytest.mark.parametrize("function", WRITES, ids=lambda f: getattr(f, "__name__", "write"))
def test_a_write_through_a_view_is_read_as_it_is_and_keeps_the_batch_dynamic(
    function: Callable[[Tensor, Tensor], Any],
) -> None:
    model = Written(function).eval()
    program = torch.export.export(model, (X,), dynamic_shapes=BATCH, strict=False)
    assert functional(program)[0] is program
    graph = capture(model, (X,), dynamic_shapes=BATCH)
    verify(graph)
    assert list(graph.dims) == ["batch"]
    assert not [name for name in graph.ops() if name.split(".")[1].endswith("_")]
    for x in (X, torch.randn(7, 6, 6)):
        _same(call(graph, (x,)), model(x))


def _same(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, tuple | list):
            _same(a, b)
        else:
            assert b is None or torch.equal(a, b)


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_of_views_and_writes(seed: int) -> None:
    model = Random(seed).eval()
    graph = capture(model, (X,), dynamic_shapes=BATCH)
    verify(graph)
    for x in (X, torch.randn(5, 6, 6)):
        _same(call(graph, (x,)), model(x))


class Random(nn.Module):
    """Views of earlier values, writes to some of them, reads of others, in an order that a seed decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> list[Tensor]:
        random_ = random.Random(self.seed)
        values, read = [x * 2, x + 1], list[Tensor]()
        for _ in range(12):
            value = random_.choice(values)
            kind = random_.randrange(8)
            if kind == 0 and value.dim() > 1:
                values.append(value.select(-1, random_.randrange(value.shape[-1])))
            elif kind == 1 and value.dim() > 2:
                values.append(value.transpose(-1, -2))
            elif kind == 2 and value.dim() > 1 and value.shape[-1] > 2:
                values.append(value[..., 1:])
            elif kind == 3:
                values.append(value.unsqueeze(1))
            elif kind in (4, 5):
                value.mul_(random_.choice([2, 3]))
            elif kind == 6:
                value.copy_(value.flip(-1)) if random_.random() < 0.5 else value.add_(1)
            read.append(random_.choice(values) * 1)
        return [*values, *read]


def test_a_size_that_is_fixed_on_the_way_is_refused_with_the_line() -> None:
    class Strided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            t = x.clone()
            t.unbind(1)[0].as_strided((3,), (1,)).add_(1)
            return t

    with pytest.raises(CaptureError, match=r"test_capture_views.py:\d+ \(aten.add_.Tensor\)"):
        capture(Strided().eval(), (X,), dynamic_shapes=BATCH)
