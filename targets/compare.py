"""How far apart two lists of outputs are, and how far apart they may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ir.plan import Plan

FLOAT_BOUND = 1e-4
"""Largest relative error of a model without quantized activations: float32 sums in another order."""

ROUNDING_SHARE = 1.5
"""Bound in shares of the predicted activation error. Sums in another order flip a few codes near a rounding boundary,
and every flip moves the codes of all layers behind it: a jitter of 1e-6 changes a quantized MiniLM by 0.7 of that
error. Two runs whose roundings have nothing in common differ by the square root of two of it."""

DYNAMIC_BOUND = 2e-3
"""Least bound where activations are quantized dynamically: a flipped code is one step of 1/255 of a value's range."""

STATIC_BOUND = 1e-2
"""The same in runs of integer layers: codes are rounded after every layer, so flips add up along the run."""

UNKNOWN_BOUND = 0.25
"""Bound where no calibration data said what quantizing the activations costs."""


def rounding_bound(plan: Plan) -> float:
    """Relative error that rounding at code boundaries may cause in a network with this plan."""
    quantized = [d for d in plan.decisions if not d.chosen.option.activation.is_none]
    if not quantized:
        return FLOAT_BOUND
    loss = sum(d.chosen.activation_loss for d in quantized)
    least = STATIC_BOUND if any(d.chosen.option.activation.is_static for d in quantized) else DYNAMIC_BOUND
    return max(ROUNDING_SHARE * loss**0.5, UNKNOWN_BOUND if loss == 0.0 else least)


def relative_error(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Largest ``|found - expected| / |expected|`` of the outputs; infinite where shapes or integers differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not isinstance(a, Tensor):
            worst = max(worst, 0.0 if a == b else float("inf"))
        elif a.shape != b.shape:
            return float("inf")
        elif not a.is_floating_point():
            worst = max(worst, 0.0 if bool((a == b).all()) else float("inf"))
        elif a.numel():
            worst = max(worst, _distance(a, b))
    return worst


def _distance(a: Tensor, b: Tensor) -> float:
    finite = torch.isfinite(a)
    if not bool((finite == torch.isfinite(b)).all()):
        return float("inf")
    difference = torch.where(finite, a.double() - b.double(), 0.0).norm()
    return float(difference / torch.where(finite, a.double(), 0.0).norm().clamp(min=1e-30))
