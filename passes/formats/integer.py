"""``int<b>:channel`` and ``int<b>:g<group>``, with ``:asym``: integers of 2 to 8 bits with float16 scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.dialect import split_groups
from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ...ir.packing import pack, row_bytes
from ..objective import Problem
from .affine import AffineGrid
from .base import GRID, Chooser, Format, Shape, TensorSpec
from .grammar import Term
from .layout import check_group, check_half, layout_of, parse_flag, parse_group, spelled_group
from .rows import DEQUANTIZE


@dataclass(frozen=True)
class IntFormat(Format):
    """Codes of ``bits`` bits, one float16 scale a row or a group of columns, optionally a zero point of ``bits`` bits.

    Bits per weight for columns divisible by the group ``g`` and by 8: ``bits + (16 + bits if asymmetric else 16) / g``
    (a row's packed zero points are padded to whole bytes). Rounding is half to even. Codes are stored as bit planes,
    see :mod:`instar.ir.packing`; the weight is :func:`instar.ir.dialect.dequantize` of the stored tensors.

    Attributes:
        bits: 2 to 8.
        group: columns that share a scale, or ``None`` for a whole row. The last group of a row may be shorter.
        asymmetric: whether zero points are stored.

    Raises:
        FormatError: if ``bits`` or ``group`` is not one of these.
    """

    bits: int
    group: int | None = None
    asymmetric: bool = False

    options: ClassVar[str] = ":channel or :g16 to :g256, :asym"
    example_options: ClassVar[str] = ":g32"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise FormatError(f"int format: expected 2 to 8 bits, got {self.bits}; choose a width in that range")
        check_group(f"int{self.bits}", self.group)

    @classmethod
    def of_term(cls, term: Term) -> IntFormat:
        """Parse ``int4:g64:asym``.

        Raises:
            ParseError: at the first option that is missing, unknown or out of range.
        """
        group = parse_group(term)
        return cls(int(term.name.removeprefix("int")), group, parse_flag(term, "asym"))

    @property
    def spelling(self) -> str:
        """``int4:g64``, ``int8:channel``, ``int4:g64:asym``."""
        return f"int{self.bits}:{spelled_group(self.group)}{':asym' if self.asymmetric else ''}"

    @property
    def families(self) -> frozenset[str]:
        """See :attr:`Format.families`."""
        return frozenset({GRID})

    @property
    def has_groups(self) -> bool:
        """See :attr:`Format.has_groups`."""
        return self.group is not None

    @property
    def grid(self) -> AffineGrid:
        """The representable values of a group."""
        return AffineGrid(self.bits, self.asymmetric)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``codes`` uint8, ``scale`` float16 ``[rows, groups]`` and, if asymmetric, packed ``zero`` uint8."""
        rows, columns, groups = layout_of(shape, self.group)
        specs = {
            "codes": TensorSpec((rows, row_bytes(columns, self.bits)), torch.uint8),
            "scale": TensorSpec((rows, groups), torch.float16),
        }
        if self.asymmetric:
            specs["zero"] = TensorSpec((rows, row_bytes(groups, self.bits)), torch.uint8)
        return specs

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """``instar.dequantize`` of the stored tensors."""
        zero = stored["zero"] if self.asymmetric else None
        return ops(DEQUANTIZE, stored["codes"], stored["scale"], zero, self.bits, self.group or 0, tuple(shape))

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`.

        Raises:
            FormatError: if a group's step is above the float16 range, or every weight is below it.
        """
        steps = self.grid.steps(split_groups(problem.matrix, self.group or 0)).squeeze(-1)
        check_half(self.spelling, steps, problem.matrix)
        choice = encoder.choose(self.grid, self.group or 0, problem)
        stored = {
            "codes": pack(choice.codes.to(torch.uint8), self.bits),
            "scale": choice.parameters[0].to(torch.float16).contiguous(),
        }
        if self.asymmetric:
            stored["zero"] = pack(choice.parameters[1].to(torch.uint8), self.bits)
        return stored
