"""Uniform integer grids with float16 scales: ``(u - zero) * scale``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .grids import Grid, Parameters

HALF_MAX = 65504.0
HALF_SMALLEST_NORMAL = 2.0**-14
HALF_STEP = 2.0**-24  # distance between subnormal float16 numbers

# Where the best step of a group lies, as a share of the step that covers it, per width. Measured on normal and Laplace
# groups of 16 to 1024: 98 of 100 groups lie inside. Small groups gain from steps above the covering one.
LEAST_SHRINK = {2: 0.3, 3: 0.4, 4: 0.5, 5: 0.6, 6: 0.7, 7: 0.8, 8: 0.85}
MOST_SHRINK = 1.1


def round_scale(ideal: Tensor) -> Tensor:
    """Positive steps rounded to float16, kept in the dtype of ``ideal``: what will be stored, so codes fit it exactly.

    Zero (an all-zero group) becomes 1. Below the normal range steps are rounded up, so that tiny weights are coarse but
    not clipped; above the largest float16 they saturate (:func:`oversized` finds those beforehand).
    """
    rounded = ideal.clamp(max=HALF_MAX).to(torch.float16).to(ideal.dtype)
    upwards = (ideal * (1.0 / HALF_STEP)).ceil() * HALF_STEP
    scale = torch.where(ideal < HALF_SMALLEST_NORMAL, upwards, rounded)
    return torch.where(ideal > 0.0, scale, torch.ones_like(scale))


def stretched(scale: Tensor, factor: Tensor) -> Tensor:
    """Scales of either sign times a positive factor, rounded as they will be stored."""
    return torch.sign(scale) * round_scale(scale.abs() * factor)


@dataclass(frozen=True)
class AffineGrid(Grid):
    """``2^bits`` equally spaced values per group, including zero; rounding is half to even.

    * asymmetric: the range of the group, widened to include 0, is cut into ``2^bits - 1`` or ``2^bits - 2`` steps,
      whichever has the smaller squared error (rounding the zero point may leave one code unused, and then the second is
      exact on values that are on such a grid already); the zero point is a code.
    * symmetric at 8 bits: ``absmax / 127``, positive, codes -127..127, as integer kernels want it.
    * symmetric below: the value of largest magnitude takes code ``-2^(bits-1)``, so the scale carries its sign and the
      step is ``absmax / 2^(bits-1)``; where that would clip a value of the other sign by more than half a step, the
      step is ``absmax / (2^(bits-1) - 1)``.

    Attributes:
        bits: 2 to 8.
        asymmetric: whether a zero point is stored.
    """

    bits: int
    asymmetric: bool = False

    @property
    def _half(self) -> int:
        return 1 << (self.bits - 1)

    def steps(self, groups: Tensor) -> Tensor:
        """The unrounded step ``[..., 1]`` that covers each group ``[..., k]``; infinite where float32 overflows."""
        if self.asymmetric:
            low, high = _extremes(groups)
            return (high + low) / ((1 << self.bits) - 1)
        low, high = _extremes(groups)  # without a copy of them all
        return torch.maximum(low, high) / (self._half - (1 if self.bits == 8 else 0))

    def fit(self, groups: Tensor) -> Parameters:
        """See :meth:`Grid.fit`: ``(scale,)`` or ``(scale, zero)``, the scale a float16 number in the groups' dtype."""
        if self.bits == 8 and not self.asymmetric:
            return (round_scale(self.steps(groups)),)
        low, high = _extremes(groups)
        return self._fit_asymmetric(groups, low, high) if self.asymmetric else self._fit_signed(low, high)

    def _fit_signed(self, low: Tensor, high: Tensor) -> Parameters:
        largest = torch.maximum(low, high)
        even = round_scale(largest / (self._half - 1))
        clips = (torch.minimum(low, high) / even).round() >= self._half - 1
        return (torch.where(clips, even, _sign(low, high) * round_scale(largest / self._half)),)

    def _fit_asymmetric(self, groups: Tensor, low: Tensor, high: Tensor) -> Parameters:
        top = (1 << self.bits) - 1
        full = self._with_zero(low, high, top)
        short = self._with_zero(low, high, top - 1)
        spans = (low / short[0]).round() + (high / short[0]).round() >= top - 1
        better = spans & (self.errors(groups, short) < self.errors(groups, full))
        return tuple(torch.where(better, s, f) for f, s in zip(full, short, strict=True))

    def _with_zero(self, low: Tensor, high: Tensor, steps: int) -> Parameters:
        scale = round_scale((high + low) / steps)
        return scale, (low / scale).round().clamp_(0, (1 << self.bits) - 1)

    def candidates(self, groups: Tensor, steps: int) -> Iterator[Parameters]:
        """See :meth:`Grid.candidates`; evenly spaced over :data:`LEAST_SHRINK` to :data:`MOST_SHRINK`."""
        highest, lowest = MOST_SHRINK, LEAST_SHRINK[self.bits]
        low, high = _extremes(groups)
        shrinks = [highest - (highest - lowest) * (index + 0.5) / steps for index in range(steps)]
        if self.asymmetric:
            for shrink in shrinks:
                yield self._with_zero(low * shrink, high * shrink, (1 << self.bits) - 1)
            return
        largest, top = torch.maximum(low, high), self._half - (1 if self.bits == 8 else 0)
        factors = torch.tensor([shrink / top for shrink in shrinks], dtype=groups.dtype, device=groups.device)
        scales = round_scale(factors.reshape(-1, *[1] * largest.dim()) * largest)  # all at once: groups are small
        if self.bits != 8:
            scales *= _sign(low, high)
        yield from ((scale,) for scale in scales)

    def rescaled(self, parameters: Parameters, factor: Tensor) -> Parameters:
        """See :meth:`Grid.rescaled`; the zero point is a code and stays."""
        return (stretched(parameters[0], factor), *parameters[1:])

    def quantize(self, values: Tensor, parameters: Parameters) -> Tensor:
        """See :meth:`Grid.quantize`."""
        codes = (values / parameters[0]).round_()
        if self.asymmetric:
            return codes.add_(parameters[1]).clamp_(0, (1 << self.bits) - 1)
        least = 1 - self._half if self.bits == 8 else -self._half
        return codes.clamp_(least, self._half - 1).add_(self._half)

    def dequantize(self, codes: Tensor, parameters: Parameters) -> Tensor:
        """See :meth:`Grid.dequantize`."""
        zero = parameters[1] if self.asymmetric else self._half
        return (codes - zero) * parameters[0]

    def rounded(self, values: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """See :meth:`Grid.rounded`."""
        if self.asymmetric:
            return super().rounded(values, parameters)
        least = 1 - self._half if self.bits == 8 else -self._half
        steps = (values / parameters[0]).round_().clamp_(least, self._half - 1)
        return steps + self._half, steps * parameters[0]

    def errors(self, groups: Tensor, parameters: Parameters, importance: Tensor | None = None) -> Tensor:
        """See :meth:`Grid.errors`; computed in steps, which saves a third of the passes over the values."""
        scale = parameters[0]
        steps = groups / scale
        rounded = steps.round()
        if self.asymmetric:
            rounded.clamp_(-parameters[1], (1 << self.bits) - 1 - parameters[1])
        else:
            rounded.clamp_(1 - self._half if self.bits == 8 else -self._half, self._half - 1)
        squares = rounded.sub_(steps).square_()
        return (squares if importance is None else squares.mul_(importance)).sum(dim=-1, keepdim=True) * scale.square()


def _extremes(groups: Tensor) -> tuple[Tensor, Tensor]:
    """How far each group reaches below and above zero, both not negative, ``[..., 1]``."""
    low = groups.amin(dim=-1, keepdim=True).neg_().clamp_(min=0.0)
    return low, groups.amax(dim=-1, keepdim=True).clamp_(min=0.0)


def _sign(low: Tensor, high: Tensor) -> Tensor:
    """The sign of the scale that gives the extra negative code to the side that reaches further."""
    return torch.where(low >= high, 1.0, -1.0).to(low.dtype)
