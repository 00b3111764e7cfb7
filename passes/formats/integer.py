"""``int<b>:channel`` and ``int<b>:g<group>``, with ``:asym``: integers of 2 to 8 bits with float16 scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.dialect import split_groups
from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ...ir.packing import pack, row_bytes
from ..objective import Problem
from .affine import HALF_MAX, HALF_STEP, AffineGrid
from .base import GRID, Chooser, Format, Shape, TensorSpec
from .grammar import Term
from .rows import DEQUANTIZE

GROUPS = (16, 32, 64, 128, 256)


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

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise FormatError(f"int format: expected 2 to 8 bits, got {self.bits}; choose a width in that range")
        if self.group is not None and self.group not in GROUPS:
            raise FormatError(
                f"int{self.bits}: expected a group of {_one_of(GROUPS)}, got {self.group}; choose one of these"
            )

    @classmethod
    def of_term(cls, term: Term) -> IntFormat:
        """Parse ``int4:g64:asym``.

        Raises:
            ParseError: at the first option that is missing, unknown or out of range.
        """
        expected = f"'channel' or 'g<group>' with a group of {_one_of(GROUPS)}"
        where = term.option(0, expected)
        group: int | None = None
        if where.text != "channel":
            digits = where.text.removeprefix("g")
            if digits == where.text or not digits.isdecimal() or int(digits) not in GROUPS:
                raise where.error(expected, ("channel", *(f"g{size}" for size in GROUPS)))
            group = int(digits)
        for option in term.options[1:]:
            if option.text != "asym" or option is not term.options[1]:
                raise option.error("'asym' or the end of the format", ("asym",))
        return cls(int(term.name.removeprefix("int")), group, len(term.options) == 2)

    @property
    def spelling(self) -> str:
        """``int4:g64``, ``int8:channel``, ``int4:g64:asym``."""
        layout = "channel" if self.group is None else f"g{self.group}"
        return f"int{self.bits}:{layout}{':asym' if self.asymmetric else ''}"

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

    def _layout(self, shape: Shape) -> tuple[int, int, int]:
        """``(rows, columns, groups)``."""
        columns = math.prod(shape[1:])
        return shape[0], columns, 1 if self.group is None else -(-columns // self.group)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``codes`` uint8, ``scale`` float16 ``[rows, groups]`` and, if asymmetric, packed ``zero`` uint8."""
        rows, columns, groups = self._layout(shape)
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
        self._check_range(problem.matrix)
        choice = encoder.choose(self.grid, self.group or 0, problem)
        stored = {
            "codes": pack(choice.codes.to(torch.uint8), self.bits),
            "scale": choice.parameters[0].to(torch.float16).contiguous(),
        }
        if self.asymmetric:
            stored["zero"] = pack(choice.parameters[1].to(torch.uint8), self.bits)
        return stored

    def _check_range(self, matrix: Tensor) -> None:
        steps = self.grid.steps(split_groups(matrix, self.group or 0)).squeeze(-1)
        if float(steps.max()) > HALF_MAX:
            row, group = divmod(int(steps.argmax()), steps.shape[1])
            raise FormatError(
                f"{self.spelling}: expected scales that float16 can hold, at most {HALF_MAX:g}, got "
                f"{float(steps.max()):.3g} at row {row}, group {group}; rescale the weight or keep it in fp32"
            )
        largest = matrix.abs().amax(dim=0)
        if 0.0 < float(largest.max()) < HALF_STEP:
            column = int(largest.argmax())
            row = int(matrix[:, column].abs().argmax())
            raise FormatError(
                f"{self.spelling}: expected weights that float16 scales can express, {HALF_STEP:.3g} or more, got at "
                f"most {float(largest.max()):.3g} at row {row}, column {column}; rescale the weight or keep it in fp32"
            )


def _one_of(values: tuple[int, ...]) -> str:
    return ", ".join(str(v) for v in values[:-1]) + f" or {values[-1]}"
