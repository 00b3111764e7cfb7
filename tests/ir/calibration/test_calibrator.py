"""Calibration: what it predicts is what happens on linear models, im2col equals convolution, bad data is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instar.ir.calibration.batches import flatten_batch
from instar.ir.calibration.calibrator import Calibrator
from instar.ir.calibration.learned import CalibrationSettings
from instar.ir.calibration.matrices import layer_matrices
from instar.ir.calibration.moments import LayerMoments, Samples
from instar.ir.calibration.projection import random_projection
from instar.ir.capture import capture
from instar.ir.dialect import fake_quantize_dynamic
from instar.ir.errors import CalibrationError
from instar.ir.graph import Graph
from instar.ir.layers import find_layers
from instar.ir.options import activations_of
from instar.passes.objective import weighted_error


def calibrated(graph: Graph, batches: Sequence[Sequence[Tensor]], **settings: Any) -> Calibrator:
    calibrator = Calibrator(graph, find_layers(graph)[0], CalibrationSettings(**settings))
    for batch in batches:
        calibrator.add(batch)
    return calibrator


class Linear(nn.Module):
    def __init__(self, columns: int = 32, rows: int = 32) -> None:
        super().__init__()
        self.fc = nn.Linear(columns, rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def true_loss(weight: Tensor, replaced: Tensor, bias: Tensor, batches: Sequence[Tensor]) -> float:
    """Mean over batches of the relative squared output error."""
    errors = [F.linear(x, replaced - weight).square().sum() / F.linear(x, weight, bias).square().sum() for x in batches]
    return float(torch.stack(errors).mean())


def test_without_gradients_the_loss_is_the_layers_relative_error() -> None:
    model, batches = Linear().eval(), [torch.randn(7, 32) @ torch.randn(32, 32) for _ in range(3)]
    graph = capture(model, (batches[0],))
    statistics = (
        calibrated(graph, [[x] for x in batches], gradients=False, shrink=False).statistics().layers["fc"].weight
    )
    weight, bias = model.fc.weight.detach(), model.fc.bias.detach()
    replaced = weight + 0.1 * torch.randn(32, 32)
    found = sum(float(F.linear(x, replaced - weight).square().sum()) for x in batches)
    energy = sum(float(F.linear(x, weight, bias).square().sum()) for x in batches)
    assert weighted_error(weight, replaced, statistics) == pytest.approx(found / energy, rel=1e-4)
    assert statistics.count == 21


def test_the_fisher_loss_of_a_linear_model_is_its_output_error() -> None:
    """With many random directions the prediction converges: exact in expectation, not only to first order."""
    model = Linear().eval()
    batches = [torch.randn(4, 32) @ torch.diag(torch.linspace(0.1, 2.0, 32))] * 400
    graph = capture(model, (batches[0],))
    statistics = calibrated(graph, [[x] for x in batches]).statistics().layers["fc"].weight
    weight, bias = model.fc.weight.detach(), model.fc.bias.detach()
    for scale in (0.01, 1.0):
        replaced = weight + scale * torch.randn(32, 32)
        expected = true_loss(weight, replaced, bias, batches[:1])
        assert weighted_error(weight, replaced, statistics) == pytest.approx(expected, rel=0.15)


def test_the_fisher_loss_sees_what_the_rest_of_the_model_ignores() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)[:, :16]

    graph = capture(Half().eval(), (torch.randn(4, 32),))
    statistics = calibrated(graph, [[torch.randn(4, 32)]]).statistics().layers["fc"].weight
    assert not statistics.row_weight[16:].any()
    assert statistics.row_weight[:16].all()


@pytest.mark.parametrize("gradients", [False, True])
def test_centred_losses_are_those_behind_a_bias_that_takes_back_the_mean(gradients: bool) -> None:
    model, x = Linear().eval(), torch.randn(64, 32) + torch.linspace(-3, 3, 32)
    graph = capture(model, (x,))
    batches = [[x]] * (400 if gradients else 1)
    known = calibrated(graph, batches, gradients=gradients, centred=("fc",), shrink=False).statistics().layers["fc"]
    weight, bias = model.fc.weight.detach(), model.fc.bias.detach()
    replaced = weight + 0.1 * torch.randn(32, 32)
    error = F.linear(x, replaced - weight)
    energy = F.linear(x, weight, bias).square().sum()
    left = float((error - error.mean(0)).square().sum() / energy)
    assert weighted_error(weight, replaced, known.weight) == pytest.approx(left, rel=0.15 if gradients else 1e-4)
    assert left < 0.5 * float(error.square().sum() / energy)
    assert known.mean_input is not None
    torch.testing.assert_close(known.mean_input, x.mean(0).expand(32, 32), rtol=1e-4, atol=1e-4)


def test_only_positions_that_count_are_in_the_mean() -> None:
    moments = LayerMoments(2, 3, 8192, centred=True)
    x, gradient = torch.randn(5, 3), torch.randn(5, 2)
    gradient[:3, 0] = 0.0
    gradient[:, 1] = 0.0
    moments.add_gradient(x, gradient, slice(0, 2), Samples())
    mean = x[3:].mean(0)
    found = gradient[3:, 0] @ (x[3:] - mean)
    torch.testing.assert_close(moments.second.sum(0), torch.outer(found, found))
    torch.testing.assert_close(moments.row_energy, torch.tensor([found.square().sum().double(), 0.0]))
    assert moments.mean_input is not None
    torch.testing.assert_close(moments.mean_input, torch.stack([mean, torch.zeros(3)]))
    assert LayerMoments(2, 3, 8192).mean_input is None


def test_centred_groups_of_a_convolution_have_means_of_their_own() -> None:
    model, x = nn.Conv2d(4, 32, 3, groups=4).eval(), torch.randn(3, 4, 8, 8) + torch.arange(4).reshape(1, 4, 1, 1)
    graph = capture(model, (x,))
    (layer,) = find_layers(graph)[0]
    for gradients in (False, True):
        known = calibrated(graph, [[x]], gradients=gradients, centred=(layer.name,)).statistics().layers[layer.name]
        assert known.mean_input is not None
        columns, _ = layer_matrices(layer.uses[0], x, None, 32)
        expected = columns.mean(0).reshape(4, 1, 9).expand(4, 8, 9).reshape(32, 9)
        torch.testing.assert_close(known.mean_input, expected, rtol=1e-4, atol=1e-4)


def test_activation_noise_is_weighted_by_what_the_layer_does_with_it() -> None:
    model, x = Linear().eval(), torch.randn(64, 32)
    graph = capture(model, (x,))
    activations = activations_of(["dynamic_int8:tensor", "dynamic_int8:token", "dynamic_int4:token"])
    found = calibrated(graph, [[x]], activations=activations, gradients=False).statistics().layers["fc"].activation_loss
    energy = float(F.linear(x, model.fc.weight, model.fc.bias).detach().square().sum())
    for kind in activations:
        noise = fake_quantize_dynamic(x, kind.bits, kind.granularity, kind.symmetric) - x
        measured = float(F.linear(noise, model.fc.weight.detach()).square().sum()) / energy
        assert found[kind.spelling] == pytest.approx(measured, rel=0.2)


def test_sensitivity_to_static_noise_of_inputs() -> None:
    model, x = Linear().eval(), torch.randn(64, 32)
    graph = capture(model, (x,))
    calibrator = calibrated(graph, [[x]], gradients=False, sensitivity_of_inputs=True)
    predicted = calibrator.statistics().layers["fc"].input_gradient * 1e-4
    energy = float(F.linear(x, model.fc.weight, model.fc.bias).detach().square().sum())
    measured = float(F.linear(1e-2 * torch.randn(64, 32), model.fc.weight.detach()).square().sum()) / energy
    assert predicted == pytest.approx(measured, rel=0.15)


# ---------------------------------------------------------------------------------------------- im2col
class Convolution(nn.Module):
    def __init__(self, rank: int, groups: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.rank, self.options = rank, {"groups": groups, **options}
        self.weight = nn.Parameter(torch.randn(16, 8 // groups, *(3, 2, 4)[:rank]))

    def forward(self, x: Tensor) -> Tensor:
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[self.rank - 1]
        return convolve(x, self.weight, **self.options)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"stride": 2, "dilation": 2}],
    ids=str,
)  # fmt: skip
def test_im2col_equals_convolution(rank: int, groups: int, options: dict[str, Any]) -> None:
    model, x = Convolution(rank, groups, options).eval(), torch.randn(2, 8, *(9, 8, 10)[:rank])
    compare_with_convolution(model, x)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("rank", [1, 2])
def test_im2col_with_padding_as_a_word(rank: int, padding: str) -> None:
    compare_with_convolution(Convolution(rank, 2, {"padding": padding}).eval(), torch.randn(2, 8, *(9, 8)[:rank]))


def test_im2col_with_one_number_per_axis() -> None:
    options = {"stride": (2, 1), "padding": (0, 3), "dilation": (1, 2)}
    compare_with_convolution(Convolution(2, 1, options).eval(), torch.randn(2, 8, 9, 8))


def test_im2col_without_a_batch_dimension() -> None:
    compare_with_convolution(Convolution(2, 2, {"padding": 1}).eval(), torch.randn(8, 9, 8))


def compare_with_convolution(model: nn.Module, x: Tensor) -> None:
    graph = capture(model, (x,))
    (layer,) = find_layers(graph, min_elements=1)[0]
    with torch.no_grad():
        expected = model(x)
    use = layer.uses[0]
    columns, gradient = layer_matrices(use, x, expected, layer.rows)
    assert gradient is not None
    per_group = zip(columns.chunk(use.groups, 1), layer.matrix().chunk(use.groups), strict=True)
    assert torch.allclose(torch.cat([c @ w.t() for c, w in per_group], 1), gradient, atol=1e-4)


def test_the_fisher_loss_of_a_convolution_at_one_position() -> None:
    model, x = Convolution(2, 1, {}).eval(), torch.randn(4, 8, 3, 2)
    graph = capture(model, (x,))
    calibrator = Calibrator(graph, find_layers(graph, min_elements=1)[0], CalibrationSettings(shrink=False))
    for _ in range(400):
        calibrator.add([x])
    statistics = calibrator.statistics().layers["weight"].weight
    weight = next(model.parameters()).detach()
    replaced = weight + 0.05 * torch.randn_like(weight)
    before, after = F.conv2d(x, weight), F.conv2d(x, replaced)
    measured = float((after - before).square().sum() / before.square().sum())
    predicted = weighted_error(weight.reshape(16, -1), replaced.reshape(16, -1), statistics)
    assert predicted == pytest.approx(measured, rel=0.15)


# ---------------------------------------------------------------------------------------------- embeddings
class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 32)
        self.fc = nn.Linear(32, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.table(ids)).relu()


@pytest.mark.parametrize("gradients", [False, True])
def test_rows_of_an_embedding_count_as_often_as_they_are_seen(gradients: bool) -> None:
    ids = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    graph = capture(Embedded().eval(), (ids,))
    statistics = calibrated(graph, [[ids]] * 3, gradients=gradients).statistics().layers["table"].weight
    seen, unseen = statistics.row_weight[1:3], statistics.row_weight[3:]
    assert (seen.min() > 10 * unseen.max()).item()
    assert (unseen > 0).all()
    if not gradients:
        table = graph.constants()[0].handle.tensor
        replaced = table.clone()
        replaced[1:3] += 0.1 * torch.randn(2, 32)
        before, after = table[ids[0]], replaced[ids[0]]
        measured = float((after - before).square().sum() / before.square().sum())
        assert weighted_error(table, replaced, statistics) == pytest.approx(measured, rel=0.05)


# ---------------------------------------------------------------------------------------------- limits and refusals
def test_wide_layers_keep_only_the_diagonal() -> None:
    graph, x = capture(Linear().eval(), (torch.randn(16, 32),)), torch.randn(16, 32)
    full = calibrated(graph, [[x]], gradients=False, shrink=False).statistics().layers["fc"].weight.second_moment
    narrow = (
        calibrated(graph, [[x]], gradients=False, max_columns=16, shrink=False)
        .statistics()
        .layers["fc"]
        .weight.second_moment
    )
    assert full is not None
    assert narrow is not None
    assert torch.allclose(narrow, torch.diag(full.diagonal()), rtol=1e-5)


def test_no_batch_is_refused() -> None:
    graph = capture(Linear().eval(), (torch.randn(4, 32),))
    with pytest.raises(
        CalibrationError, match=r"expected at least one batch; found none; .* already consumed is empty"
    ):
        calibrated(graph, []).statistics()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    graph, x = capture(Linear().eval(), (torch.randn(4, 32),)), torch.randn(4, 32)
    x[1, 2] = bad
    with pytest.raises(
        CalibrationError, match="calibration batch 1, input %x: expected finite values; found 1 NaN or inf"
    ):
        calibrated(graph, [[torch.randn(4, 32)], [x]])


@pytest.mark.parametrize("gradients", [False, True])
def test_a_model_that_overflows_is_refused(gradients: bool) -> None:
    graph = capture(Linear().eval(), (torch.randn(4, 32),))
    with pytest.raises(CalibrationError, match="batch 0, layer fc: expected finite outputs; found NaN or infinity"):
        calibrated(graph, [[torch.full((4, 32), 3e38)]], gradients=gradients)


def test_sums_that_overflow_are_refused() -> None:
    moments = LayerMoments(2, 3, 8192)
    moments.add_inputs(torch.full((4, 3), 1e30), 1.0, Samples())
    with pytest.raises(CalibrationError, match="layer fc: expected a finite second moment, got NaN or infinity"):
        moments.scale("fc", None)


def test_statistics_are_made_anew_from_the_same_sums() -> None:
    graph = capture(Linear().eval(), (torch.randn(64, 32),))
    known = calibrated(graph, [[torch.randn(64, 32)] for _ in range(4)], shrink=False).statistics().layers["fc"]
    (one, *halves), (other, *others) = ([w.second_moment, *(w.halves or ())] for w in (known.weight, known.weight))
    assert len(halves) == len(others) == 2
    for made, again in zip((one, *halves), (other, *others), strict=True):
        assert made is not again
        torch.testing.assert_close(made, again, rtol=0.0, atol=0.0)


def test_a_projection_of_integers_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"found none; set calibration.sensitivity to 'output_error'"):
        random_projection([torch.arange(3), torch.ones(3)], 0)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (torch.zeros(4, 31),),
            "batch 3: does not fit the model's inputs: .*input x: .*axis 1 was fixed to 32 at capture; .*; "
            "give batches like the example, and name the axes whose sizes differ in dynamic_shapes",
        ),
        ((torch.zeros(4, 32, dtype=torch.float64),), "batch 3: .*expected f32"),
        ((torch.zeros(4, 32), torch.zeros(1)), "batch 3: .*found 2 arguments"),
        ({"y": torch.zeros(4, 32)}, "batch 3: .*missing: x; unknown: y"),
        ("text", "batch 3: .*expected a tensor"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch: Any, message: str) -> None:
    graph = capture(Linear().eval(), (torch.randn(4, 32),))
    with pytest.raises(CalibrationError, match=message):
        flatten_batch(graph, batch, 3)


def test_every_way_to_write_a_batch() -> None:
    graph, x = capture(Linear().eval(), (torch.randn(4, 32),)), torch.randn(4, 32)
    for batch in (x, (x,), [x], {"x": x}, ((x,), {}), ((), {"x": x})):
        assert flatten_batch(graph, batch, 0)[0] is x


class Scaled(nn.Module):
    """Two layers whose outputs are as small as one likes."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first, self.scale = nn.Linear(32, 64, bias=False), scale
        self.second = nn.Conv1d(16, 32, 3, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).unflatten(1, (16, 4)) * self.scale)


@pytest.mark.parametrize("scale", [1e-9, 1e-21, 1e-27])
def test_losses_do_not_depend_on_the_scale_of_the_outputs(scale: float) -> None:
    """Gradients of relative changes grow as outputs shrink, beyond what has a square in float32."""
    batches = [[torch.randn(6, 32)] for _ in range(3)]
    found: list[Any] = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        graph = capture(Scaled(factor).eval(), (batches[0][0],))
        gathered = calibrated(graph, batches, gradients=True, sensitivity_of_inputs=True).statistics().layers
        found.append({name: (known.weight.second_moment, known.input_gradient) for name, known in gathered.items()})
    for name, (moment, _) in found[0].items():
        torch.testing.assert_close(found[1][name][0], moment, rtol=1e-3, atol=1e-3 * float(moment.abs().max()))
    small, plain = (entry["second"][1] for entry in (found[1], found[0]))
    assert small * scale**2 == pytest.approx(plain, rel=1e-3)


def test_gradients_that_no_scale_makes_fit_name_the_layer_and_another_measure() -> None:
    moments = LayerMoments(2, 2, 8)
    moments.tokens = 1
    moments.second.fill_(float("inf"))
    with pytest.raises(CalibrationError, match=r"layer fc: .* set calibration.sensitivity to 'output_error'"):
        moments.scale("fc", 1.0)
