"""What a format promises, asked of what it does: stored tensors as it announced them, weights of the right shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...ir.errors import ContractError
from ...ir.ops import EAGER
from .use import Use

if TYPE_CHECKING:
    from .base import Format, TensorSpec

AGREE = 0.01
"""Share of the output by which two orders of the same products may differ in float32, factors cancelling each other."""


def check_stored(format_text: str, specs: Mapping[str, TensorSpec], stored: object) -> None:
    """Refuse stored tensors other than the announced ones.

    Raises:
        ContractError: what ``store`` gave has other names, shapes or dtypes than ``tensors`` says, or NaN.
    """
    if not isinstance(stored, Mapping):
        raise ContractError(
            f"format {format_text}: expected store to give tensors by name, found {type(stored).__name__}"
        )
    if set(stored) != set(specs):
        raise ContractError(
            f"format {format_text}: expected the stored tensors {sorted(specs)}, as its method tensors says, found "
            f"{sorted(map(str, stored))}; make both agree"
        )
    for name, spec in specs.items():
        found = stored[name]
        if not isinstance(found, Tensor) or (tuple(found.shape), found.dtype) != (tuple(spec.shape), spec.dtype):
            seen = _words(tuple(found.shape), found.dtype) if isinstance(found, Tensor) else type(found).__name__
            raise ContractError(
                f"format {format_text}: expected its stored tensor {name!r} to be {_words(spec.shape, spec.dtype)}, as "
                f"its method tensors says, found {seen}; make both agree"
            )


def check_decoded(format_text: str, shape: tuple[int, ...], weight: Tensor) -> None:
    """Refuse a weight of another shape, or one that is not finite.

    Raises:
        ContractError: what ``weight`` gave is not a weight.
    """
    if tuple(weight.shape) != tuple(shape):
        raise ContractError(
            f"format {format_text}: expected its method weight to give the shape {list(shape)}, found "
            f"{list(weight.shape)}; mend it"
        )
    if not bool(torch.isfinite(weight).all()):
        raise ContractError(
            f"format {format_text}: expected finite weights from what it stored, found NaN or infinity; mend its "
            "method store or weight"
        )


def check_applied(format: Format, stored: Mapping[str, Tensor], weight: Tensor) -> None:
    """Refuse a format whose layers compute with another weight than it decodes to; on two inputs of unit variance.

    Args:
        format: what is asked, where it says how a linear layer computes.
        stored: its tensors.
        weight: float ``[rows, columns]``, what it decodes to.

    Raises:
        ContractError: outputs differ by more than what rounding explains.
    """
    x = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0))
    expected = x @ weight.T
    found = format.apply(EAGER, x, stored, Use.linear(tuple(weight.shape)))
    if tuple(found.shape) != tuple(expected.shape):
        raise ContractError(
            f"format {format.spelling}: expected its method apply to give the shape {list(expected.shape)}, found "
            f"{list(found.shape)}; mend it"
        )
    scale, missed = float(expected.norm()), float((found - expected).norm())
    if not missed <= AGREE * scale + 1e-6:
        raise ContractError(
            f"format {format.spelling}: expected its method apply to compute with the weight that its method weight "
            f"gives, found outputs that differ by {missed / max(scale, 1e-30):.1%}; make both agree"
        )


def _words(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
