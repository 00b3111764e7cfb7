"""The running moments of one layer.

With gradients the loss of replacing a weight ``W`` by ``Q`` is the Fisher quadratic form ``E[<G, Q - W>^2]`` where
``G`` is the gradient, with respect to the weight, of a random projection of the outputs. Its expectation over the
projection is the squared change of the outputs to first order. Rows are taken as independent and share one second
moment of ``G`` up to a factor per row (a Kronecker factorisation, Martens and Grosse 2015, arXiv 1503.05671, in its
weight-sharing "reduce" form, Eschenhagen et al. 2023, arXiv 2311.00636: tokens are summed before they are squared,
because a weight error moves all tokens of a sequence in the same direction).

Where a bias takes back the mean of a layer's error, only the error around that mean is left: ``(Q - W)_i (x_t - m_i)``
in output channel ``i``, with ``m_i`` the mean input over the positions that count for the channel, those with a
gradient (see :mod:`instar.passes.transforms.bias_correction`). Then ``G_i = sum_t g_ti (x_t - m_i)`` stands in place of
``sum_t g_ti x_t``.

Samples of a batch that do not influence each other are squared one by one (:mod:`.samples`), and every second one is
kept apart, so that the two halves say how far the sum is to be trusted (:mod:`.shrinkage`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..statistics import WeightStatistics
from .shrinkage import NOTHING_KNOWN, Shrinkage, by_count, shrinkage

CHUNK = 1 << 24
"""Numbers in the weight gradients of the samples that are formed at a time."""

VECTORS = 4
"""Inputs below which nothing is concluded: with one or two in each half, that they agree is luck."""

LARGEST = 2.0**40
"""Numbers above it are balanced before they are squared; below, nothing is rounded otherwise than it was."""


@dataclass(frozen=True)
class Samples:
    """The samples of one batch.

    Attributes:
        count: of the batch; tokens are in runs of equal length, one for each.
        first: samples before this batch: every second one of all belongs to the other half.
    """

    count: int = 1
    first: int = 0

    def halves(self) -> tuple[slice, slice]:
        """The samples of each half."""
        return slice(self.first % 2, None, 2), slice(1 - self.first % 2, None, 2)


def balanced(x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients with the same products, of about equal size where squares of one would overflow.

    Behind outputs of 1e-21, relative changes have gradients of 1e24.
    """
    sizes = [float(t.abs().amax()) if t.numel() else 0.0 for t in (x, gradient)]
    if not all(0.0 < size < math.inf for size in sizes) or max(sizes) < LARGEST:
        return x, gradient
    exponent = round((math.log2(sizes[1]) - math.log2(sizes[0])) / 2)
    return x * 2.0**exponent, gradient * 2.0**-exponent


def _too_large(name: str, *, gradients: bool) -> CalibrationError:
    if not gradients:
        return CalibrationError(
            f"layer {name}: expected a finite second moment, got NaN or infinity; check the calibration inputs"
        )
    return CalibrationError(
        f"layer {name}: expected gradients whose squares fit float32; found larger ones, because the outputs are close "
        "to zero or change steeply; set calibration.sensitivity to 'output_error', or scale the model's outputs"
    )


class LayerMoments:
    """Sums over batches.

    Memory: ``2 columns^2 + rows`` float32 numbers, or ``2 columns + rows`` above ``max_columns``; where they are
    centred ``rows * columns`` more.
    """

    def __init__(
        self, rows: int, columns: int, max_columns: int, *, embedding: bool = False, centred: bool = False
    ) -> None:
        self.rows, self.columns = rows, columns
        self.full = columns <= max_columns
        self.second = torch.zeros((2, columns, columns) if self.full else (2, columns))
        self.weights = torch.zeros(2, dtype=torch.float64)
        self.row_energy = torch.zeros(rows, dtype=torch.float64)
        self.lookups = torch.zeros(rows if embedding else 0, dtype=torch.int64)
        self.input_sum = torch.zeros(rows if centred else 0, columns)
        self.counted = torch.zeros(rows if centred else 0)
        self.noise: dict[str, float] = {}
        self.input_gradient = 0.0
        self.tokens = 0
        self.output_energy = 0.0

    def add_gradient(self, x: Tensor, gradient: Tensor, rows: slice, samples: Samples) -> None:
        """Add a batch: the weight gradient of each of its samples, squared.

        Args:
            x: inputs ``[tokens, columns]``.
            gradient: of the outputs ``[tokens, some rows]``.
            rows: which rows these are.
            samples: of the batch.
        """
        if not self.counted.numel():  # the mean input is kept in the units of the inputs
            x, gradient = balanced(x, gradient)
        inputs = x.reshape(samples.count, -1, x.shape[1])
        outputs = gradient.reshape(samples.count, -1, gradient.shape[1])
        mean = self._move_mean(x, gradient, rows)
        tokens, columns, height = inputs.shape[1], inputs.shape[2], outputs.shape[2]
        by_tokens = tokens * (tokens * (height + columns) + columns * columns)
        if mean is None and self.full and by_tokens < height * (tokens * columns + columns * columns):
            self._add_by_tokens(inputs, outputs, rows, samples)
        else:
            self._add_by_rows(inputs, outputs, mean, rows, samples)
        self._count(samples, x.shape[0])

    def _add_by_tokens(self, x: Tensor, gradient: Tensor, rows: slice, samples: Samples) -> None:
        """``G^T G = X^T (g g^T) X``, without ``G``: cheaper where a sample has few tokens."""
        mixed = torch.bmm(torch.bmm(gradient, gradient.mT), x)
        for half, chosen in enumerate(samples.halves()):
            self.second[half] += x[chosen].flatten(0, 1).t() @ mixed[chosen].flatten(0, 1)
        energy = torch.bmm(torch.bmm(x, x.mT), gradient) * gradient
        self.row_energy[rows] += energy.sum(dim=(0, 1), dtype=torch.float64).clamp_(min=0.0)

    def _add_by_rows(self, x: Tensor, gradient: Tensor, mean: Tensor | None, rows: slice, samples: Samples) -> None:
        step = max(1, CHUNK // (x.shape[2] * gradient.shape[2]))
        for start in range(0, x.shape[0], step):
            part = slice(start, start + step)
            product = torch.bmm(gradient[part].mT, x[part])
            if mean is not None:
                product -= gradient[part].sum(dim=1).unsqueeze(2) * mean
            self._add_squares(product, Samples(product.shape[0], samples.first + start))
            self.row_energy[rows] += product.square().sum(dim=(0, 2), dtype=torch.float64)

    def _add_squares(self, vectors: Tensor, samples: Samples) -> None:
        """Add the second moment of ``[samples, vectors, columns]``."""
        for half, chosen in enumerate(samples.halves()):
            flat = vectors[chosen].flatten(0, 1)
            self.second[half] += flat.t() @ flat if self.full else flat.square().sum(dim=0)

    def _count(self, samples: Samples, tokens: int) -> None:
        """A batch weighs the same whatever its size, because it is relative to its own outputs."""
        for half, chosen in enumerate(samples.halves()):
            self.weights[half] += len(range(samples.count)[chosen]) / samples.count
        self.tokens += tokens

    def _move_mean(self, x: Tensor, gradient: Tensor, rows: slice) -> Tensor | None:
        """``[some rows, columns]``, the mean input of all batches so far where moments are centred."""
        if not self.counted.numel():
            return None
        counts = (gradient != 0).to(x.dtype)
        self.input_sum[rows] += counts.t() @ x
        self.counted[rows] += counts.sum(dim=0)
        return self._mean(rows)

    def centred_inputs(self, x: Tensor, rows: slice) -> Tensor:
        """Without gradients: inputs ``[tokens, columns]``, around the mean of all batches so far where asked for."""
        if not self.counted.numel():
            return x
        self.input_sum[rows] += x.sum(dim=0)
        self.counted[rows] += x.shape[0]
        return x - self._mean(rows)[:1]

    def _mean(self, rows: slice) -> Tensor:
        return self.input_sum[rows] / self.counted[rows].clamp(min=1.0).unsqueeze(1)

    @property
    def mean_input(self) -> Tensor | None:
        """``[rows, columns]`` where moments are centred: the mean input per output channel."""
        return self._mean(slice(None)) if self.counted.numel() else None

    def add_rows(self, gradients: Tensor, rows: Tensor, numbers: Tensor, samples: Samples, tokens: int) -> None:
        """Add an embedding's gradients ``[looked up, columns]``: ``rows`` of the table, in the samples ``numbers``."""
        odd = (numbers + samples.first) % 2 == 1
        for half, chosen in enumerate((~odd, odd)):
            part = gradients[chosen]
            self.second[half] += part.t() @ part if self.full else part.square().sum(dim=0)
        self.row_energy.index_add_(0, rows, gradients.double().square().sum(dim=1))
        self._count(samples, tokens)

    def add_inputs(self, x: Tensor, output_energy: float, samples: Samples) -> None:
        """Without gradients: add inputs ``[tokens, columns]`` and the squared norm of the layer's outputs."""
        self._add_squares(x.reshape(samples.count, -1, x.shape[1]), samples)
        self._count(samples, x.shape[0])
        self.output_energy += output_energy

    def add_weight_gradient(self, gradient: Tensor | None, number: int, parts: int) -> None:
        """Add the gradient ``[rows, columns]`` of the weight for one of ``parts`` of a batch; ``None`` is zero.

        Args:
            gradient: of a projection of the outputs of some samples.
            number: of projections before: every second one belongs to the other half.
            parts: projections of this batch.
        """
        half = number % 2
        if gradient is not None:
            self.second[half] += gradient.t() @ gradient if self.full else gradient.square().sum(dim=0)
            self.row_energy += gradient.double().square().sum(dim=1)
        self.weights[half] += 1.0 / parts

    def add_plain(self, energy: float) -> None:
        """Without gradients and without inputs: every change of the weight counts alike, relative to its ``energy``."""
        every = torch.eye(self.columns) if self.full else torch.ones(self.columns)
        self.second += every / 2
        self.weights += 0.5
        self.tokens += 1
        self.output_energy += energy

    def count_lookups(self, rows: Tensor) -> None:
        """Count look-ups of an embedding's rows, for the mass of rows that were never seen."""
        self.lookups += torch.bincount(rows, minlength=self.rows)

    def add_lookups(self, rows: Tensor, output_energy: float) -> None:
        """Without gradients: add look-ups of an embedding, each column counting alike."""
        self.row_energy.index_add_(0, rows, torch.ones(rows.numel(), dtype=torch.float64))
        self.tokens += rows.numel()
        self.output_energy += output_energy

    def add_noise(self, activation: str, loss: float) -> None:
        """Add the loss that quantizing the input so would cause."""
        self.noise[activation] = self.noise.get(activation, 0.0) + loss

    def scale(self, name: str, outputs: float | None) -> float:
        """What turns sums into relative squared errors.

        Args:
            name: the layer, for errors.
            outputs: with gradients the number of projected outputs so far; None without gradients.

        Raises:
            CalibrationError: the layer never ran, or what was added up overflowed.
        """
        if self.tokens == 0:
            raise CalibrationError(
                f"layer {name}: expected calibration data that reaches it; found none; add such inputs"
            )
        if not bool(torch.isfinite(self.second).all()):
            raise _too_large(name, gradients=outputs is not None)
        return 1.0 / max(outputs if outputs is not None else self.output_energy, 1e-30)

    def finish(self, scale: float, found: Shrinkage, *, gradients: bool, embedding: bool) -> WeightStatistics:
        """Weight statistics in relative squared errors; the sums stay as they are.

        Args:
            scale: see :meth:`scale`.
            found: how far the second moment is shrunk.
            gradients: whether there were any.
            embedding: rows that were never seen get a share of the weight (Good-Turing).
        """
        second = found.apply(self.second.sum(dim=0))
        second = second if self.full else torch.diag(second)
        if gradients:
            second, row = second.div_(self.rows), self._row_weight()
        else:
            second, row = self._without_gradients(second)
        if embedding:
            row = self._smooth(row)
        second.mul_(scale)
        return WeightStatistics(self.tokens, second, row.float(), halves=self._halves(second, found))

    def shrinkage(self) -> Shrinkage:
        """How far what was seen is to be trusted; a batch whose samples cannot be told apart says so by its size."""
        if self.tokens < VECTORS or not bool((self.weights > 0).any()):
            return NOTHING_KNOWN
        if not bool((self.weights > 0).all()):
            return by_count(self.second.sum(dim=0), self.tokens)
        one, other = (self.second[half] / float(self.weights[half]) for half in (0, 1))
        return shrinkage(one, other)

    def _halves(self, second: Tensor, found: Shrinkage) -> tuple[Tensor, Tensor] | None:
        """One half to fit codes to, the other to judge them: directions alone tell them apart, their traces agree."""
        traces = [float(half.diagonal().sum()) if self.full else 0.0 for half in self.second]
        if found.directions == 1.0 or not all(trace > 0.0 for trace in traces):
            return None
        one, other = (
            half * (float(second.diagonal().sum()) / trace) for half, trace in zip(self.second, traces, strict=True)
        )
        return found.apply(one), other

    def _row_weight(self) -> Tensor:
        """Mean one over rows."""
        return self.row_energy / self.row_energy.mean().clamp(min=1e-300)

    def _without_gradients(self, second: Tensor) -> tuple[Tensor, Tensor]:
        if self.row_energy.any():
            return torch.eye(self.columns), self.row_energy
        return second, torch.ones(self.rows, dtype=torch.float64)

    def _smooth(self, row: Tensor) -> Tensor:
        """Give rows that calibration never saw their share: the Good-Turing estimate of unseen mass, spread evenly."""
        unseen = float((self.lookups == 1).sum()) / max(float(self.lookups.sum()), 1.0)
        share = min(max(unseen, 0.01), 0.5)
        return (1.0 - share) * row + share * row.mean()

    def state(self) -> dict[str, Tensor]:
        """Everything gathered so far, as tensors."""
        noise = {f"noise {name}": torch.tensor(value, dtype=torch.float64) for name, value in self.noise.items()}
        numbers = [self.input_gradient, float(self.tokens), self.output_energy]
        scalars = torch.tensor(numbers, dtype=torch.float64)
        return {"second": self.second, "weights": self.weights, "rows": self.row_energy, "lookups": self.lookups,
                "scalars": scalars, "input sum": self.input_sum, "counted": self.counted, **noise}  # fmt: skip

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.second, self.row_energy, self.lookups = state["second"], state["rows"], state["lookups"]
        self.input_sum, self.counted = state["input sum"], state["counted"]
        self.weights = state["weights"]
        gradient, tokens, energy = (float(v) for v in state["scalars"])
        self.input_gradient, self.tokens, self.output_energy = gradient, int(tokens), energy
        self.noise = {key.removeprefix("noise "): float(v) for key, v in state.items() if key.startswith("noise ")}
