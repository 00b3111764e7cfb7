"""What formats of several factors have in common: each factor is stored in a format of its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ...ir.ops import Ops, V
from .base import FACTOR, Encoded, Format, Shape, TensorSpec, named, part
from .floating import FloatFormat

HALF = FloatFormat(16)
"""How factors are stored unless a product says otherwise."""


@dataclass(frozen=True)
class Structured(Format):
    """A weight as several tensors that compute it together; subclasses say which, and their structure's spelling.

    Attributes:
        element: how the tensors are stored, ``int8:channel`` in ``int8:channel @ lowrank:r32``.
    """

    element: Format = field(default=HALF, kw_only=True)

    @property
    @abstractmethod
    def structure(self) -> str:
        """The spelling without the element: ``lowrank:r32``."""

    @property
    def spelling(self) -> str:
        """``lowrank:r32``, ``int8:channel @ lowrank:r32``."""
        return self.structure if self.element == HALF else f"{self.element.operand} @ {self.structure}"

    @property
    def families(self) -> frozenset[str]:
        """Factors, and what they are stored in."""
        return frozenset({FACTOR}) | self.element.families

    @property
    def has_groups(self) -> bool:
        """Whether factors have."""
        return self.element.has_groups

    @property
    def has_parts(self) -> bool:
        """Where factors are rounded to a grid."""
        return bool(self.element.families)

    def stored_as(self, element: Format) -> Format:
        """See :meth:`Format.stored_as`; factors of factors hand it on: ``a @ (b @ c)`` is ``(a @ b) @ c``."""
        return replace(self, element=element if self.element == HALF else self.element.stored_as(element))


@dataclass(frozen=True)
class Factored(Structured):
    """A weight as two factors, ``left`` and ``right``; subclasses say their shapes and what the factors make."""

    @abstractmethod
    def shapes(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes in which the factors of a weight of ``shape`` are stored, the left one first."""

    @abstractmethod
    def unfit(self, shape: Shape) -> str | None:
        """Why the structure does not suit a weight of ``shape``, which is not empty; None where it does."""

    def refuses(self, shape: Shape) -> str | None:
        """What the structure does not suit, and what factors cannot be stored in."""
        reason = super().refuses(shape) or self.unfit(shape)
        if reason is not None:
            return reason
        left, right = self.shapes(shape)
        return self.element.refuses(left) or self.element.refuses(right)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """Those of both factors, named ``left.values``, ``right.values``, ..."""
        left, right = self.shapes(shape)
        return named(self.element.tensors(left), "left.") | named(self.element.tensors(right), "right.")

    def factors(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> tuple[V, V]:
        """Both factors in float32, in the shapes that they are stored in."""
        left, right = self.shapes(shape)
        first = self.element.weight(ops, part(stored, "left."), left)
        return first, self.element.weight(ops, part(stored, "right."), right)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors times a power of two and its inverse, so that their largest values are about as large.

    What they make stays the same to the last digit. Under a metric the unit of activations and of gradients ends up in
    one factor: tiny gradients would make numbers that float16, in which factors and scales are stored, does not hold.
    """
    largest, other = float(left.abs().max()), float(right.abs().max())
    if min(largest, other) == 0.0:
        return left, right
    step = round((math.log2(largest) - math.log2(other)) / 2)
    return left * 2.0**-step, right * 2.0**step


def both(left: Encoded, right: Encoded) -> dict[str, Tensor]:
    """What is stored of two factors."""
    return named(left.tensors, "left.") | named(right.tensors, "right.")
