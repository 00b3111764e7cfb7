"""``tucker:<out>x<in>``: a convolution as three, two of which mix channels only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.layers import CONV
from ...ir.ops import Ops, V
from ...ir.statistics import WeightStatistics
from ..objective import Metric, Problem
from .base import GRID, Chooser, Shape, TensorSpec, named, part
from .factors import Structured
from .grammar import Term
from .low_rank import fit_left, left_statistics, tails_of
from .use import Use

SWEEPS = 20
"""Sweeps over both factors at most."""

GAIN = 1e-6
"""Share of the weight's square that a sweep must win for another one to follow."""

SHARES = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75)
"""Ranks of the ladder as shares of the channels on their side."""

_RANKS = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True)
class Tucker(Structured):
    """``weight = core x_1 left x_2 right``: ``left [rows, out]``, ``core [out, in, ...]``, ``right [in, channels]``.

    Tucker-2 (Kim et al., arXiv 1511.06530): a convolution becomes one that mixes channels down to ``in``, one with the
    window, stride and padding of the old, and one that mixes ``out`` channels up to all of them. Factors begin as
    singular vectors of the weight's unfoldings (HOSVD) and are improved in turn (HOOI, De Lathauwer et al., 2000); the
    error never rises. They see the encoder's metric (:func:`factors`); core and ``left`` are then fitted to it exactly,
    each once more after the others were rounded.

    Refused for anything but windows of more than one position, and where it would hold as many numbers as the weight.
    A convolution in groups, whose factors mix them, forms its weight.

    Attributes:
        out: channels after the window, 1 or more.
        into: channels before it, 1 or more.
        element: how the three are stored.

    Raises:
        FormatError: if a rank is below 1.
    """

    out: int
    into: int

    close_bounds: ClassVar[bool] = False
    options: ClassVar[str] = ":<out>x<in>"
    example_options: ClassVar[str] = ":4x2"

    def __post_init__(self) -> None:
        if min(self.out, self.into) < 1:
            raise FormatError(f"tucker: expected ranks of 1 or more, got {self.out}x{self.into}; write 'tucker:16x8'")

    @classmethod
    def of_term(cls, term: Term) -> Tucker:
        """Parse ``tucker:16x8``.

        Raises:
            ParseError: at an option that is missing, unknown or out of range.
        """
        expected = "'<out>x<in>', ranks of 1 or more"
        word = term.option(0, expected)
        ranks = _RANKS.fullmatch(word.text)
        if ranks is None:
            raise word.error(expected, (), ("16x8",))
        for option in term.options[1:]:
            raise option.error("the end of the format", ())
        return cls(int(ranks[1]), int(ranks[2]))

    @classmethod
    def ladder(cls, shape: Shape) -> tuple[str, ...]:
        """Both ranks as the same share of their channels."""
        if len(shape) < 3:
            return ("1x1",)
        pairs = {(max(1, round(shape[0] * s)), max(1, round(shape[1] * s))) for s in SHARES}
        return tuple(f"{out}x{into}" for out, into in sorted(pairs))

    @property
    def structure(self) -> str:
        """``tucker:16x8``."""
        return f"tucker:{self.out}x{self.into}"

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Of ``left``, ``core`` and ``right`` as convolutions."""
        ones = (1,) * (len(shape) - 2)
        return {
            "left": (shape[0], self.out, *ones),
            "core": (self.out, self.into, *shape[2:]),
            "right": (self.into, shape[1], *ones),
        }

    def refuses(self, shape: Shape) -> str | None:
        """Layers without a window, ranks above the channels, and what saves nothing."""
        reason = super().refuses(shape)
        if reason is not None:
            return reason
        if len(shape) < 3 or math.prod(shape[2:]) == 1:
            return f"{self.spelling}: expected a convolution with a window, got the weight {list(shape)}"
        if self.out > shape[0] or self.into > shape[1]:
            return (
                f"{self.spelling}: expected ranks of at most {shape[0]}x{shape[1]}, the channels of the weight "
                f"{list(shape)}"
            )
        numbers, dense = sum(math.prod(s) for s in self.shapes(shape).values()), math.prod(shape)
        if numbers >= dense:
            return (
                f"{self.spelling}: expected ranks that save something for the weight {list(shape)}, got factors that "
                f"hold {numbers} numbers against {dense}"
            )
        return next((r for s in self.shapes(shape).values() if (r := self.element.refuses(s)) is not None), None)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """Those of the three, named ``left.values``, ``core.values``, ..."""
        found: dict[str, TensorSpec] = {}
        for name, size in self.shapes(shape).items():
            found |= named(self.element.tensors(size), f"{name}.")
        return found

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The core times both factors."""
        sizes = self.shapes(shape)
        left, core, right = (self.element.weight(ops, part(stored, f"{n}."), s) for n, s in sizes.items())
        right = ops("aten.permute", ops("aten.reshape", right, (self.into, shape[1])), (1, 0))
        window = ops("aten.reshape", core, (self.out, self.into, -1))
        inner = ops("aten.matmul", right, window)  # [out, channels, positions]
        left = ops("aten.reshape", left, (shape[0], self.out))
        return ops("aten.reshape", ops("aten.matmul", left, ops("aten.reshape", inner, (self.out, -1))), tuple(shape))

    def apply(self, ops: Ops[V], x: V, stored: Mapping[str, V], use: Use) -> V:
        """Three convolutions; one in groups forms its weight."""
        if use.kind != CONV or use.groups != 1:
            return super().apply(ops, x, stored, use)
        use = use if GRID in self.element.families else use.in_float()
        down = replace(use.without_bias(), shape=(self.into, *use.shape[1:])).outer(use.shape[1])
        window = replace(use.inner(self.out), shape=(self.out, self.into, *use.shape[2:]))
        x = self.element.apply(ops, x, part(stored, "right."), down)
        x = self.element.apply(ops, x, part(stored, "core."), window)
        return self.element.apply(ops, x, part(stored, "left."), use.outer(self.out))

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`. ``right`` is stored first, the core for it, and ``left`` for both."""
        sizes, matrix, metric = self.shapes(problem.shape), problem.matrix, encoder.metric(problem)
        weight = matrix.reshape(*problem.shape[:2], -1)
        left, right = factors(weight, self.out, self.into, metric)
        third = self.element.encode(right.reshape(sizes["right"]), _alike(right), encoder)
        right = self.element.decode(third).reshape(right.shape)
        core = fit_core(weight, left, right, metric)
        second = self.element.encode(core.reshape(sizes["core"]), _alike(core.flatten(1)), encoder)
        core = self.element.decode(second).reshape(core.shape)
        inner = _inner(core, right)
        left = fit_left(matrix, inner, metric)
        known = left_statistics(problem.statistics, inner)
        first = self.element.encode(left.reshape(sizes["left"]), known, encoder)
        return named(first.tensors, "left.") | named(second.tensors, "core.") | named(third.tensors, "right.")

    def least_cost(self, problem: Problem, metric: Metric) -> float | None:
        """What is beyond the rank of an unfolding: of the outputs' under any metric, of the inputs' without columns."""
        matrix, (rows, channels) = metric.whiten(problem.matrix), problem.shape[:2]
        key = ("tucker spectra", metric.name)
        outputs, inputs = problem.of_weight(key, lambda: _spectra(matrix, rows, channels, metric.columns is None))
        least = float(outputs[min(self.out, len(outputs) - 1)])
        return least if inputs is None else max(least, float(inputs[min(self.into, len(inputs) - 1)]))


def _spectra(whitened: Tensor, rows: int, channels: int, separate: bool) -> tuple[Tensor, Tensor | None]:
    """The tails of both unfoldings; that of the inputs only where channels are not mixed by the metric."""
    unfolded = whitened.reshape(rows, channels, -1).transpose(0, 1).flatten(1)
    return tails_of(whitened), tails_of(unfolded) if separate else None


def _alike(matrix: Tensor) -> WeightStatistics:
    """Every change counts alike: columns of a core and of a right factor have no second moment of their own."""
    rows, columns = matrix.shape
    return WeightStatistics(1, torch.eye(columns), torch.ones(rows))


def factors(weight: Tensor, out: int, into: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """``left [rows, out]`` and ``right [into, channels]`` for a weight ``[rows, channels, positions]``.

    Both see the statistics: sweeps (:func:`hooi`) run on the weight times the roots of what rows and input channels
    cost, the second moment of a channel being the sum over the positions of the window, so that positions are taken to
    be uncorrelated. Under a metric that is so these are the factors that sweeps of it find; under others the factors of
    the plain weight may be better, and are kept where they are.
    """
    found = [hooi(weight, out, into)]
    if metric.rows is not None or metric.columns is not None:
        mixing = Metric("channels", metric.rows, _channel_root(metric, weight.shape[1]))
        last = replace(mixing, rows=None).whiten(weight.transpose(1, 2))
        turned = last if mixing.rows is None else last * mixing.rows.reshape(-1, 1, 1)
        left, right = hooi(turned.transpose(1, 2).contiguous(), out, into)
        found.append((_of_unit(mixing.left(left)), _of_unit(mixing.right(right))))
    return found[0] if len(found) == 1 else min(found, key=lambda pair: _cost(weight, *pair, metric))


def _of_unit(factor: Tensor) -> Tensor:
    """Times the power of two that makes its largest value about 1: the core takes the rest, and float16 holds both."""
    largest = float(factor.abs().max())
    return factor * 2.0 ** -round(math.log2(largest)) if largest else factor


def _channel_root(metric: Metric, channels: int) -> Tensor | None:
    """``metric.columns`` of the input channels alone, summed over positions."""
    if metric.columns is None:
        return None
    if metric.columns.dim() == 1:
        return metric.columns.reshape(channels, -1).square().sum(dim=1).sqrt()
    four = (metric.columns.double() @ metric.columns.double().T).reshape(
        channels, -1, channels, metric.columns.shape[0] // channels
    )
    moment = torch.diagonal(four, dim1=1, dim2=3).sum(dim=-1)
    moment.diagonal().add_(1e-9 * moment.diagonal().mean())
    return torch.linalg.cholesky(moment).to(metric.columns)


def _cost(weight: Tensor, left: Tensor, right: Tensor, metric: Metric) -> float:
    """Of the best core for two factors."""
    core = fit_core(weight, left, right, metric)
    rest = weight.flatten(1) - left @ _inner(core, right)
    return float(metric.whiten(rest).square().sum())


def _inner(core: Tensor, right: Tensor) -> Tensor:
    """``[out, channels * positions]``, what the left factor mixes."""
    return torch.einsum("oip,ic->ocp", core, right).flatten(1)


def fit_core(weight: Tensor, left: Tensor, right: Tensor, metric: Metric) -> Tensor:
    """The core ``[out, into, positions]`` of least cost for two factors."""
    rows, channels, positions = weight.shape
    basis = torch.einsum("ic,pq->ipcq", right, torch.eye(positions).to(right)).reshape(-1, channels * positions)
    through = fit_left(weight.reshape(rows, -1), basis, metric)  # weights of rows do not change it
    if metric.rows is not None:
        left, through = left * metric.rows.unsqueeze(1), through * metric.rows.unsqueeze(1)
    return torch.linalg.lstsq(left, through, driver="gelsd").solution.reshape(left.shape[1], -1, positions)


def hooi(weight: Tensor, out: int, into: int, sweeps: int = SWEEPS) -> tuple[Tensor, Tensor]:
    """Orthonormal ``left [rows, out]`` and ``right [into, channels]`` for a weight ``[rows, channels, positions]``.

    The core of least squared error for them is ``left^T weight right^T``. They start as the leading singular vectors
    of both unfoldings (HOSVD), whose squared error is at most the sum of both tails, and each is then replaced by those
    of the weight projected on the other, which never raises the error. ``sweeps=0`` is HOSVD.
    """
    left = _leading(weight.flatten(1), out)
    right = _leading(weight.transpose(0, 1).flatten(1), into)
    whole, before = float(weight.square().sum()), -1.0
    for _ in range(sweeps):
        left = _leading(torch.einsum("mcp,ci->mip", weight, right).flatten(1), out)
        projected = torch.einsum("mcp,mo->cop", weight, left).flatten(1)
        right = _leading(projected, into)
        kept = float((right.T @ projected).square().sum())
        if kept <= before + GAIN * whole:
            break
        before = kept
    return left, right.T.contiguous()


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors ``[rows, rank]``, from the eigenvectors of ``matrix matrix^T`` in float64."""
    wide = matrix.double()
    vectors = torch.linalg.eigh(wide @ wide.T).eigenvectors  # rising
    return vectors[:, -rank:].flip(1).to(matrix.dtype)
