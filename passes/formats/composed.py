"""Sums of formats: each part stores what the parts before it left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.statistics import WeightStatistics
from ..encoders.base import Encoder
from ..encoders.factor import FactoredHessian
from .affine import HALF_STEP
from .base import DialectCall, Encoded, Expression, Format, Shape, TensorSpec, rename


@dataclass(frozen=True)
class SumFormat(Format):
    """``a + b + ...``: ``a`` stores the weight, ``b`` stores what ``a`` got wrong, and so on; the weight is the sum.

    Stored tensors are the parts' own, named ``0.codes``, ``1.codes``, ...

    Raises:
        FormatError: if there are fewer than two parts.
    """

    parts: tuple[Format, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise FormatError(f"sum of formats: expected two or more parts, got {len(self.parts)}; use the part itself")

    @property
    def spelling(self) -> str:
        """``int4:g64 + int2:channel``."""
        return " + ".join(part.spelling for part in self.parts)

    @property
    def code_bits(self) -> int:
        """Every part is multiplied."""
        return sum(part.code_bits for part in self.parts)

    def refuses(self, shape: Shape) -> str | None:
        """The first reason of a part."""
        return next((reason for part in self.parts if (reason := part.refuses(shape)) is not None), None)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """The tensors of every part."""
        return {f"{i}.{n}": spec for i, part in enumerate(self.parts) for n, spec in part.tensors(shape).items()}

    def flops(self, shape: Shape, tokens: int) -> int:
        """Every part is applied on its own and the results are added."""
        return sum(p.flops(shape, tokens) for p in self.parts) + (len(self.parts) - 1) * shape[0] * tokens

    def expression(self, shape: Shape) -> Expression:
        """The parts' expressions, added from left to right."""
        total, *others = (rename(part.expression(shape), f"{i}.") for i, part in enumerate(self.parts))
        for other in others:
            total = DialectCall("aten.add.Tensor", {"self": total, "other": other})
        return total

    def decode(self, encoded: Encoded) -> Tensor:
        """See :meth:`Format.decode`."""
        total, *others = (part.decode(_part(encoded, i, part)) for i, part in enumerate(self.parts))
        for other in others:
            total = total + other
        return total

    def store(
        self,
        weight: Tensor,
        statistics: WeightStatistics | None,
        encoder: Encoder | None,
        factored: FactoredHessian | None,
    ) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`."""
        stored: dict[str, Tensor] = {}
        rest = weight
        for index, part in enumerate(self.parts):
            encoded = part.encode(rest, statistics, encoder, factored)
            stored.update({f"{index}.{name}": tensor for name, tensor in encoded.tensors.items()})
            rest = _without_dust(torch.sub(rest, part.decode(encoded)))
        return stored


def _without_dust(rest: Tensor) -> Tensor:
    """Zeros in place of a remainder so small that no float16 scale can express it."""
    return torch.zeros_like(rest) if float(rest.abs().max()) < HALF_STEP else rest


def _part(encoded: Encoded, index: int, part: Format) -> Encoded:
    prefix = f"{index}."
    tensors = {n.removeprefix(prefix): t for n, t in encoded.tensors.items() if n.startswith(prefix)}
    return Encoded(part.spelling, encoded.shape, tensors)
