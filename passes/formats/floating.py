"""``fp32`` and ``fp16``: weights stored as floating-point numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ..objective import Problem
from .base import Chooser, Format, Shape, TensorSpec
from .grammar import Term

DTYPES = {16: torch.float16, 32: torch.float32}


@dataclass(frozen=True)
class FloatFormat(Format):
    """IEEE numbers of ``bits`` bits, rounded half to even; 32 stores the weight as it is.

    Raises:
        FormatError: if ``bits`` is not 16 or 32.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in DTYPES:
            raise FormatError(f"fp format: expected 16 or 32 bits, got {self.bits}; choose one of these")

    @classmethod
    def of_term(cls, term: Term) -> FloatFormat:
        """Parse ``fp16`` or ``fp32``.

        Raises:
            ParseError: if options follow.
        """
        for option in term.options:
            raise option.error(f"the end of {term.name!r}, which has no options", ())
        return cls(int(term.name.removeprefix("fp")))

    @property
    def spelling(self) -> str:
        """``fp16`` or ``fp32``."""
        return f"fp{self.bits}"

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``values``, of the weight's own shape."""
        return {"values": TensorSpec(tuple(shape), DTYPES[self.bits])}

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The stored values, converted to float32 if they are not."""
        del shape
        values = stored["values"]
        return values if self.bits == 32 else ops("aten._to_copy", values, dtype=torch.float32)

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`; there is nothing to choose.

        Raises:
            FormatError: if a value is outside the range of float16.
        """
        del encoder
        weight = problem.weight
        values = weight.to(DTYPES[self.bits])
        over = torch.isinf(values).reshape(values.shape[0], -1)
        if bool(over.any()):
            row, column = (int(i) for i in over.nonzero()[0])
            raise FormatError(
                f"{self.spelling}: expected weights of at most 65504, got {float(weight.abs().max()):.3g}, "
                f"first at row {row}, column {column} ({int(over.sum())} such values in all); keep this weight in fp32"
            )
        return {"values": values.clone() if values is weight else values}
