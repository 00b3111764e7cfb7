"""How far apart two lists of outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


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
