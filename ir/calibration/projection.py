"""The random projection of a model's outputs whose derivatives say what an error in a weight does to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from .beyond import is_differentiable
from .samples import sample_mask


def random_projection(outputs: Sequence[Any], seed: int, chosen: Tensor | None = None) -> tuple[Tensor, float]:
    """``sum_k <v_k, out_k> / ||out_k||`` with standard normal ``v``, and the number of floating outputs.

    Its squared gradients average to ``J^T J``; over the number of outputs that is the mean of their relative changes.
    Outputs that nothing changes count in the mean. With ``chosen``, bool ``[samples]``, ``v`` is zero at the others.

    Raises:
        CalibrationError: no output is floating and depends on what requires a gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    floating = sum(isinstance(value, Tensor) and value.is_floating_point() for value in outputs)
    count = 0
    for value in outputs:
        if is_differentiable(value):
            norm = float(value.detach().double().norm())
            direction = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            if chosen is not None:
                direction = direction * sample_mask(direction, chosen)
            total = total + (value * direction).sum() / max(norm, 1e-30)
            count += 1
    if count == 0:
        raise CalibrationError(
            "calibration: expected a floating output that depends on the layers; found none; set "
            "calibration.sensitivity "
            "to 'output_error'"
        )
    return total, float(floating)
