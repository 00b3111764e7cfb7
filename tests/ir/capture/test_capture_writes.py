"""Programs that write to tensors: what is read as a new value, what torch makes functional, and that both are right."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from capture_models import ROWS, WIDE, X, same
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from instar.ir.capture import capture
from instar.ir.capture.functional import functional
from instar.ir.evaluate import call
from instar.ir.verify import verify


class Written(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def exported(model: nn.Module, dynamic_shapes: Any = ROWS) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model.eval(), (X,), dynamic_shapes=dynamic_shapes)


def is_read_as_it_is(model: nn.Module, dynamic_shapes: Any = ROWS) -> bool:
    program = exported(model, dynamic_shapes)
    return functional(program)[0] is program


def check(model: nn.Module) -> list[str]:
    """The ops of the graph, which is verified and compared with the module at two sizes."""
    graph = capture(model.eval(), (X,), dynamic_shapes=ROWS)
    verify(graph)
    for x in (X, WIDE):
        same(call(graph, (x.clone(),)), model(x.clone()))
    return [n.op.short_name for n in graph.nodes() if n.inputs]


def residual(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    return F.relu_(y).clamp_(max=1)


def chained(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    z = y.add_(1)
    w = z.mul_(3)
    return y, z, w, y + z


def narrower(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x * 2
    y.add_(x.double())
    z = x * 3
    z.gt_(0)
    return y, z


def filled(x: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.zeros_like(x)
    y.copy_(x[:1])
    z = (x + 1).masked_fill_(x > 0, -1.0)
    return y, F.dropout(z, 0.5, training=False, inplace=True)


def dropped(x: Tensor) -> Tensor:
    y = x * 2
    F.dropout(y, 0.5, training=False).add_(1)
    return y


def literal(x: Tensor) -> Tensor:
    return x + torch.tensor([1.0, 2.0, 3.0, 4.0])


def old_view_is_dead(x: Tensor) -> Tensor:
    y = x * 2
    z = y.t() + 1
    return y.mul_(2) + z.t()


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        (residual, ["aten.mul.Tensor", "aten.add.Tensor", "aten.relu", "aten.clamp"]),
        (chained, ["aten.mul.Tensor", "aten.add.Tensor", "aten.mul.Tensor", "aten.add.Tensor"]),
        (dropped, ["aten.mul.Tensor", "aten.add.Tensor"]),
        (literal, ["aten.lift_fresh_copy", "aten.add.Tensor"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_write_to_a_tensor_of_the_program_is_a_new_value(
    function: Callable[[Tensor], object], ops: list[str]
) -> None:
    assert is_read_as_it_is(Written(function))
    assert check(Written(function)) == ops


@pytest.mark.parametrize("function", [narrower, filled, old_view_is_dead], ids=lambda f: f.__name__)
def test_writes_keep_dtype_and_shape_of_the_memory(function: Callable[[Tensor], object]) -> None:
    assert is_read_as_it_is(Written(function))
    assert not [name for name in check(Written(function)) if name.rpartition(".")[0].endswith("_")]


def through_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.t().mul_(2)
    return y


def old_view_is_read(x: Tensor) -> Tensor:
    y = x * 2
    z = y.view(-1)
    y.add_(1)
    return z.view(-1, 4) + y


def several_tensors(x: Tensor) -> list[Tensor]:
    values = [x * 2, x * 3]
    vars(torch)["_foreach_add_"](values, 1.0)
    return values


def another_shape(x: Tensor) -> Tensor:
    y = x * 2
    y.t_()
    return y + 1


def one_of_several_views(x: Tensor) -> Tensor:
    y = x * 2
    first, second = y.chunk(2, 1)
    first.add_(second)
    return y


@pytest.mark.parametrize(
    "function",
    [through_a_view, old_view_is_read, one_of_several_views],
    ids=lambda f: f.__name__,
)
def test_writes_and_views_of_one_memory_are_read_as_they_are(function: Callable[[Tensor], object]) -> None:
    assert is_read_as_it_is(Written(function))
    check(Written(function))


@pytest.mark.parametrize("function", [several_tensors, another_shape], ids=lambda f: f.__name__)
def test_other_writes_are_left_to_torch(function: Callable[[Tensor], object]) -> None:
    assert not is_read_as_it_is(Written(function))
    check(Written(function))


class Statistics(nn.Module):
    """Normalizes by the batch in evaluation too, which torch marks as training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_batch_norm_in_evaluation_stays_whole() -> None:
    assert check(Statistics()) == ["aten.batch_norm"]


def test_a_program_without_writes_is_not_traced_again() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, batch_first=True)
    assert is_read_as_it_is(layer)
    decomposed = exported(nn.Linear(4, 4)).run_decompositions({})
    assert functional(decomposed)[0] is decomposed


def test_operators_that_canonicalize_does_not_spell_are_left_to_torch() -> None:
    model = Written(lambda x: torch.atleast_2d(x) + 1)
    assert not is_read_as_it_is(model)
    assert check(model) == ["aten.add.Tensor"]


def test_conversions_without_effect_are_not_read() -> None:
    def convert(x: Tensor) -> Tensor:
        y = x.to(torch.float32).flatten(1).to("cpu")
        return y + x.to(torch.float64).to(x)

    model = Written(convert)
    assert is_read_as_it_is(model)
    assert check(model) == ["aten.to.dtype", "aten.to.device", "aten.add.Tensor"]
    graph = capture(model, (X,), dynamic_shapes=ROWS)
    assert capture(graph.to_module(), (X,), dynamic_shapes=ROWS).text() == graph.text()


def test_dead_lines_are_not_read() -> None:
    def unused(x: Tensor) -> Tensor:
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
        return x + 1

    assert check(Written(unused)) == ["aten.add.Tensor"]


class Random(nn.Module):
    """A few lines drawn from a seed, each an operator, a view or a write, on any value so far."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> list[Tensor]:
        draw = random.Random(self.seed)
        values = [x * 1]
        for _ in range(3 + self.seed % 8):
            first, second = draw.choice(values), draw.choice(values)
            values.append(draw.choice(LINES)(first, second))
        return draw.sample(values, 3)


LINES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a + b.reshape(a.shape),
    lambda a, _: F.relu(a),
    lambda a, _: a.reshape(3, 4),
    lambda a, _: a.reshape(4, 3),
    lambda a, _: a.t(),
    lambda a, _: a.contiguous(),
    lambda a, _: torch.cat(a.chunk(2, 0)),
    lambda a, b: a.add_(b.reshape(a.shape).clone()),
    lambda a, _: a.relu_(),
    lambda a, _: a.mul_(0.5),
    lambda a, _: a.clamp_(min=-0.5),
    lambda a, b: a if a[:1].fill_(0.25) is b else b,
]


@pytest.mark.parametrize("seed", range(16))
def test_random_programs_with_writes_and_views(seed: int) -> None:
    graph = capture(Random(seed).eval(), (X,))
    verify(graph)
    same(call(graph, (X,)), Random(seed)(X))


def test_the_random_programs_go_both_ways() -> None:
    ways = [is_read_as_it_is(Random(seed), None) for seed in range(16)]
    assert 3 < sum(ways) < 13
