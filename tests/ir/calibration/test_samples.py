"""Samples of a batch are told apart where they do not influence each other, and few of them are trusted little."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings, LayerStatistics
from instar.ir.calibration.moments import VECTORS, LayerMoments, Samples
from instar.ir.calibration.shrinkage import NOTHING_KNOWN, Shrinkage, by_count, shrinkage
from instar.ir.capture import capture
from instar.ir.errors import CalibrationError
from instar.ir.layers import find_layers
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import format as parse_format
from instar.passes.objective import Problem


def calibrate(model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> tuple[Calibrator, LayerStatistics]:
    graph = capture(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=512)},))
    layers = find_layers(graph, min_elements=1)[0]
    calibrator = Calibrator(graph, layers, CalibrationSettings(shrink=False))
    for batch in batches:
        calibrator.add([batch])
    return calibrator, calibrator.statistics().layers[layers[0].name]


class SequenceFirst(nn.Module):
    """Works on ``[tokens, samples, channels]`` inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.transpose(0, 1)).transpose(0, 1).relu().mean(1)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1])).relu().mean(1)


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 32, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).relu().mean(1)


class Mixing(nn.Module):
    """Every sample sees those before it: its batch cannot be split."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).cumsum(0)


Draw = Callable[[int, int], Tensor]

CASES = [
    (nn.Linear(32, 8), (32,)),
    (nn.Linear(32, 64), (5, 32)),
    (SequenceFirst(), (5, 32)),
    (Tokens(), (80, 32)),
    (Picture(), (4, 6, 6)),
]


@pytest.mark.parametrize(("model", "shape"), CASES, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_one_batch_has_the_rank_of_many(model: nn.Module, shape: tuple[int, ...]) -> None:
    """A single projection of the whole batch has the rank of the layer's rows at most."""
    x = torch.randn(16, *shape)
    _, one = calibrate(model, x, [x])
    _, many = calibrate(model, x, list(x.split(1)))
    found, expected = one.weight.second_moment, many.weight.second_moment
    assert found is not None
    assert expected is not None
    assert int(torch.linalg.matrix_rank(found)) == int(torch.linalg.matrix_rank(expected))


def test_an_embedding_is_split_by_samples() -> None:
    ids = torch.arange(40).reshape(8, 5)
    calibrator, one = calibrate(Table(), ids, [ids])
    (moments,) = calibrator.moments.values()
    assert moments.weights.tolist() == [0.5, 0.5]
    assert one.weight.row_weight.min() > 0


def test_one_batch_equals_many_on_average() -> None:
    """The same rows, with another direction each: equal to a few percent over many directions."""
    torch.manual_seed(0)
    model, x = nn.Linear(32, 8), torch.randn(8, 32) * torch.linspace(0.2, 2, 32)
    model.bias.data.zero_()
    x = x / model(x).detach().norm(dim=1, keepdim=True)  # a batch is relative to its own outputs
    one = calibrate(model, x, [x] * 100)[1].weight
    many = calibrate(model, x, list(x.split(1)) * 100)[1].weight
    assert one.second_moment is not None
    assert many.second_moment is not None
    scale = float(one.second_moment.trace() / many.second_moment.trace())
    assert float((one.second_moment / scale - many.second_moment).norm() / many.second_moment.norm()) < 0.12


def test_samples_that_influence_each_other_are_not_split() -> None:
    x = torch.randn(6, 32)
    calibrator, _ = calibrate(Mixing(), x, [x, x])
    (moments,) = calibrator.moments.values()
    assert moments.weights.tolist() == [1.0, 1.0]  # a batch in each half
    assert calibrator.samples == 12


def by_hand(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Second moment and row energies from every sample's weight gradient."""
    gradients = torch.einsum("btr,btc->brc", g.double(), x.double())
    return torch.einsum("brc,brd->cd", gradients, gradients), gradients.square().sum((0, 2))


@pytest.mark.parametrize(("tokens", "rows"), [(1, 8), (3, 16), (40, 4), (40, 64)])
@pytest.mark.parametrize("full", [True, False])
def test_both_ways_to_square_gradients_are_exact(tokens: int, rows: int, full: bool) -> None:
    torch.manual_seed(tokens)
    x, g = torch.randn(5, tokens, 12), torch.randn(5, tokens, rows)
    moments = LayerMoments(rows, 12, 12 if full else 4)
    moments.add_gradient(x.flatten(0, 1), g.flatten(0, 1), slice(0, rows), Samples(5, 3))
    for half, chosen in ((1, slice(0, None, 2)), (0, slice(1, None, 2))):
        expected = by_hand(x[chosen], g[chosen])[0]
        torch.testing.assert_close(
            moments.second[half].double(), expected if full else expected.diagonal(), rtol=1e-4, atol=1e-3
        )
    torch.testing.assert_close(moments.row_energy, by_hand(x, g)[1], rtol=1e-4, atol=1e-3)
    assert moments.weights.tolist() == pytest.approx([0.4, 0.6])


# ---------------------------------------------------------------------------------------------- trust
def white(count: int, columns: int) -> Tensor:
    return torch.randn(count, columns)


def rectified(count: int, columns: int) -> Tensor:
    torch.manual_seed(11)
    mix = torch.randn(columns, columns) / columns**0.5
    return torch.relu(torch.randn(count, columns, generator=torch.Generator().manual_seed(count)) @ mix)


def spiked(count: int, columns: int) -> Tensor:
    return rectified(count, columns) @ torch.diag(torch.logspace(0, -1.5, columns))


def gain(count: int, columns: int, rows: int, draw: Draw, *, apart: bool = True) -> float:
    """Error on new data with statistics of ``count`` samples, told ``apart`` or not, over that without."""
    torch.manual_seed(count + columns)
    weight, x, new = torch.randn(rows, columns), draw(count, columns), draw(4000, columns)
    halves = [part.T @ part / max(len(part), 1) for part in (x[::2], x[1::2])]
    found = shrinkage(halves[0], halves[1]) if apart else by_count(x.T @ x, count)
    found = found if count >= VECTORS else NOTHING_KNOWN
    known = WeightStatistics(count, found.apply(x.T @ x / count), torch.ones(rows))

    def error(statistics: WeightStatistics | None, name: str) -> float:
        stored = parse_format("int4:g32")
        decoded = stored.decode(encoder(name).encode(stored, Problem(weight, statistics)))
        return float((new @ (decoded - weight).T).square().sum())

    return error(known, "gptq") / error(None, "mse")


@pytest.mark.parametrize("draw", [white, rectified, spiked], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("columns", "rows"), [(64, 64), (128, 32), (192, 96)])
def test_new_data_never_suffers_from_few_samples(columns: int, rows: int, draw: Draw) -> None:
    for count in (1, 2, 4, 5, 8, 32, columns // 2, columns, 4 * columns):
        assert gain(count, columns, rows, draw) < 1.01, count


@pytest.mark.parametrize("draw", [white, rectified, spiked], ids=lambda f: f.__name__)
def test_a_batch_that_cannot_be_divided_is_trusted_by_its_size(draw: Draw) -> None:
    for count in (4, 32, 128, 160, 256, 512):
        assert gain(count, 128, 32, draw, apart=False) < 1.05, count  # white vectors have nothing to tell
    assert gain(2048, 64, 64, spiked, apart=False) < 0.8


def test_the_size_of_a_batch_says_how_far() -> None:
    second = torch.diag(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert by_count(second, 12) == Shrinkage(0.5, 2 * 50 / 12 / 14)
    assert by_count(second, 4) == NOTHING_KNOWN
    assert by_count(second.diagonal(), 1000).directions == 1.0
    assert by_count(torch.eye(4), 1000).columns == 1.0
    moments = LayerMoments(4, 16, 64)
    moments.second[0] += torch.eye(16)
    moments.weights[0], moments.tokens = 1.0, 48
    assert moments.shrinkage().directions == 0.5


def test_many_samples_are_trusted() -> None:
    assert gain(4000, 64, 64, spiked) < 0.8
    x = spiked(4000, 64)
    assert shrinkage(x[::2].T @ x[::2], x[1::2].T @ x[1::2]).directions < 0.1


def test_shrinking_keeps_the_trace_and_one_sample_says_nothing_of_directions() -> None:
    second = torch.randn(16, 16)
    second = second @ second.T
    shrunk = NOTHING_KNOWN.apply(second)
    torch.testing.assert_close(shrunk, second.diagonal().mean() * torch.eye(16))
    assert LayerMoments(4, 16, 64).shrinkage() == NOTHING_KNOWN
    assert shrinkage(torch.zeros(4, 4), torch.zeros(4, 4)).directions == 1.0


@pytest.mark.parametrize("large", [math.inf, math.nan, 3e38])
def test_moments_that_overflow_say_nothing_about_directions(large: float) -> None:
    one, other = torch.eye(3), torch.eye(3)
    other[0, 0] = large
    for first, second in ((one, other), (other, one)):
        assert shrinkage(first, second).directions == 1.0


def test_weights_beyond_the_range_of_squares_are_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    with torch.no_grad():
        cast(nn.Linear, model[0]).weight.mul_(1e30)
        cast(nn.Linear, model[2]).weight.mul_(1e-30)
    batches = [torch.randn(16, 64) for _ in range(4)]
    with pytest.raises(CalibrationError, match=r"layer [02]: expected"):
        instar.compile(model, (batches[0],), target="onnx", budget={"size": "40%"}, calibration=batches)


def test_batches_that_were_made_in_inference_mode_are_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with torch.inference_mode():
        batches = [torch.randn(16, 8) for _ in range(2)]
    _, found = calibrate(model, torch.randn(4, 8), batches)
    _, again = calibrate(model, torch.randn(4, 8), [batch.clone() for batch in batches])
    one, other = found.weight.second_moment, again.weight.second_moment
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
