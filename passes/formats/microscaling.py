"""``mxfp4``, ``mxfp6`` and ``mxfp8``: blocks of 32 floats that share a power of two (OCP Microscaling Formats 1.0)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from .base import Shape, TensorSpec
from .grammar import Term
from .grids import Choice, Parameters
from .levels import LEVELS, LevelFormat
from .minifloat import FloatGrid, float_levels

BLOCK = 32
ELEMENTS = {"mxfp4": ("e2m1",), "mxfp6": ("e3m2", "e2m3"), "mxfp8": ("e4m3", "e5m2")}
"""Elements of each width, the default first."""

BIAS = 127
POWERS = tuple(math.ldexp(1.0, min(code, 2 * BIAS) - BIAS) for code in range(256))
"""E8M0: powers of two by code. The last code, which is not a number, is never stored and stands for the largest."""


@dataclass(frozen=True)
class BlockGrid(FloatGrid):
    """Float levels times a power of two, with which the largest magnitude has the exponent of the largest level.

    What lies between the largest level and the next power of two is clipped, as the specification says; the power above
    it, which clips nothing, is the first candidate of a search.
    """

    def fit(self, groups: Tensor) -> Parameters:
        """See :meth:`Grid.fit`: ``(scale,)``, a power of two; 1 for a block of zeros."""
        largest = groups.abs().amax(dim=-1, keepdim=True)
        exponent = torch.frexp(largest).exponent - math.frexp(max(self.levels))[1]
        return (torch.where(largest > 0.0, _power(exponent, groups), torch.ones_like(largest)),)

    def candidates(self, groups: Tensor, steps: int) -> Iterator[Parameters]:
        """See :meth:`Grid.candidates`; there are two that can be better, the powers above and below."""
        exponent = torch.frexp(self.fit(groups)[0]).exponent - 1
        for shift in (1, -1)[:steps]:
            yield (_power(exponent + shift, groups),)

    def rescaled(self, parameters: Parameters, factor: Tensor) -> Parameters:
        """See :meth:`Grid.rescaled`: powers of two are not stretched by less than two."""
        del factor
        return parameters


def _power(exponent: Tensor, like: Tensor) -> Tensor:
    """Powers of two that E8M0 has, exact in the dtype of ``like``."""
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent.clamp(-BIAS, BIAS)).to(like.dtype)


@dataclass(frozen=True)
class PowerScaled(LevelFormat):
    """Levels with one E8M0 scale, a power of two, for each group: ``bits + 8 / group`` bits a weight."""

    @property
    def grid(self) -> BlockGrid:
        """The representable values of a block."""
        return BlockGrid(self.levels)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``codes`` uint8 and ``scale`` uint8 ``[rows, blocks]``: exponents plus 127."""
        specs = super().tensors(shape)
        return {"codes": specs["codes"], "scale": TensorSpec(specs["scale"].shape, torch.uint8)}

    def scale(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """See :meth:`LevelFormat.scale`: looked up among :data:`POWERS`."""
        return ops(LEVELS, stored["scale"], None, POWERS, 8, 0, self.tensors(shape)["scale"].shape)

    def check_range(self, matrix: Tensor) -> None:
        """Every float32 is in the range of E8M0."""

    def stored_scale(self, choice: Choice) -> Mapping[str, Tensor]:
        """See :meth:`LevelFormat.stored_scale`."""
        exponent = torch.frexp(choice.parameters[0].to(torch.float64)).exponent - 1
        return {"scale": (exponent + BIAS).to(torch.uint8)}


@dataclass(frozen=True)
class Microscaling(PowerScaled):
    """Blocks of 32 columns with one E8M0 scale: ``element bits + 8/32`` bits a weight.

    Attributes:
        group: 32.
        family: ``mxfp4``, ``mxfp6`` or ``mxfp8``.
        element: of :data:`ELEMENTS`.
    """

    group: int | None = BLOCK
    family: str = "mxfp4"
    element: str = "e2m1"

    options: ClassVar[str] = ":<element>"

    def __post_init__(self) -> None:
        if self.group != BLOCK or self.element not in ELEMENTS.get(self.family, ()):
            known = ", ".join(f"{name} of {' or '.join(elements)}" for name, elements in ELEMENTS.items())
            raise FormatError(
                f"{self.family}: expected blocks of {BLOCK} and {known}, got blocks of {self.group} and "
                f"{self.element!r}; other blocks are minifloats such as fp4_e2m1:g16"
            )

    @classmethod
    def of_term(cls, term: Term) -> Microscaling:
        """Parse ``mxfp4`` or ``mxfp6:e2m3``.

        Raises:
            ParseError: at an option that is no element of this width.
        """
        elements = ELEMENTS[term.name]
        for option in term.options:
            if option is not term.options[0] or option.text not in elements:
                raise option.error(f"{' or '.join(map(repr, elements))} or the end of the format", elements)
        return cls(BLOCK, term.name, term.options[0].text if term.options else elements[0])

    @property
    def name(self) -> str:
        """``mxfp6`` or ``mxfp6:e2m3``."""
        return self.family if self.element == ELEMENTS[self.family][0] else f"{self.family}:{self.element}"

    @property
    def spelling(self) -> str:
        """The same: blocks have one size."""
        return self.name

    @property
    def levels(self) -> tuple[float, ...]:
        """See :func:`~instar.passes.formats.minifloat.float_levels`."""
        return float_levels(int(self.element[1]), int(self.element[3]))
