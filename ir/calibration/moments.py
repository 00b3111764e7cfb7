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
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..statistics import WeightStatistics


class LayerMoments:
    """Sums over batches.

    Memory: ``columns^2 + rows`` float32 numbers, or ``columns + rows`` above ``max_columns``; where they are centred
    ``rows * columns`` more.
    """

    def __init__(
        self, rows: int, columns: int, max_columns: int, *, embedding: bool = False, centred: bool = False
    ) -> None:
        self.rows, self.columns = rows, columns
        self.full = columns <= max_columns
        self.second = torch.zeros((columns, columns) if self.full else (columns,))
        self.row_energy = torch.zeros(rows, dtype=torch.float64)
        self.lookups = torch.zeros(rows if embedding else 0, dtype=torch.int64)
        self.input_sum = torch.zeros(rows if centred else 0, columns)
        self.counted = torch.zeros(rows if centred else 0)
        self.noise: dict[str, float] = {}
        self.input_gradient = 0.0
        self.tokens = 0
        self.output_energy = 0.0

    def weight_gradient(self, x: Tensor, gradient: Tensor, rows: slice) -> Tensor:
        """``[some rows, columns]`` from inputs ``[tokens, columns]`` and output gradients ``[tokens, some rows]``.

        Centred where that was asked for; the mean is that of all batches so far.
        """
        product = gradient.t() @ x
        if not self.counted.numel():
            return product
        counts = (gradient != 0).to(x.dtype)
        self.input_sum[rows] += counts.t() @ x
        self.counted[rows] += counts.sum(dim=0)
        return product - gradient.sum(dim=0).unsqueeze(1) * self._mean(rows)

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

    def add_gradient(self, gradient: Tensor, rows: slice | Tensor, tokens: int) -> None:
        """Add one batch's weight gradient ``[some rows, columns]``; ``rows`` says which rows they are."""
        self.second += gradient.t() @ gradient if self.full else gradient.square().sum(dim=0)
        energy = gradient.double().square().sum(dim=1)
        if isinstance(rows, slice):
            self.row_energy[rows] += energy
        else:
            self.row_energy.index_add_(0, rows, energy)
        self.tokens += tokens

    def add_inputs(self, x: Tensor, output_energy: float) -> None:
        """Without gradients: add inputs ``[tokens, columns]`` and the squared norm of the layer's outputs."""
        self.second += x.t() @ x if self.full else x.square().sum(dim=0)
        self.tokens += x.shape[0]
        self.output_energy += output_energy

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

    def finish(
        self, name: str, outputs: float | None, *, embedding: bool
    ) -> tuple[WeightStatistics, dict[str, float], float]:
        """Weight statistics, activation losses and squared input gradient, scaled to relative squared errors.

        Args:
            name: the layer, for errors.
            outputs: with gradients the number of projected outputs so far; None without gradients.
            embedding: rows that were never seen get a share of the weight (Good-Turing).

        Raises:
            CalibrationError: the layer never ran.
        """
        if self.tokens == 0:
            raise CalibrationError(
                f"layer {name}: expected calibration data that reaches it; found none; add such inputs"
            )
        scale = 1.0 / max(outputs if outputs is not None else self.output_energy, 1e-30)
        second = self.second if self.full else torch.diag(self.second)
        if outputs is None:
            second, row = self._without_gradients(second)
        else:
            second, row = second / self.rows, self._row_weight()
        if embedding:
            row = self._smooth(row)
        statistics = WeightStatistics(self.tokens, second * scale, row.float())
        return statistics, {g: n * scale for g, n in self.noise.items()}, self.input_gradient * scale

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
        scalars = torch.tensor([self.input_gradient, float(self.tokens), self.output_energy], dtype=torch.float64)
        return {"second": self.second, "rows": self.row_energy, "lookups": self.lookups, "scalars": scalars,
                "input sum": self.input_sum, "counted": self.counted, **noise}  # fmt: skip

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.second, self.row_energy, self.lookups = state["second"], state["rows"], state["lookups"]
        self.input_sum, self.counted = state["input sum"], state["counted"]
        gradient, tokens, energy = (float(v) for v in state["scalars"])
        self.input_gradient, self.tokens, self.output_energy = gradient, int(tokens), energy
        self.noise = {key.removeprefix("noise "): float(v) for key, v in state.items() if key.startswith("noise ")}
