"""The weight that an int8 kernel with one scale a row computes with: codes in groups are rounded once more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from ...ir.ops import Ops, V
from ...ir.types import Dim

DEQUANTIZE, DEQUANTIZE_INT8 = "instar.dequantize.default", "instar.dequantize_int8.default"


@dataclass(frozen=True)
class IntegerRows(Generic[V]):
    """Ops in which packed codes become integers with one scale a row, see ``instar.dequantize_int8``."""

    ops: Ops[V]

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> V:
        """The same op, or the one that rounds to rows."""
        return self.ops(DEQUANTIZE_INT8 if name == DEQUANTIZE else name, *args, **kwargs)

    def shape(self, value: V) -> tuple[Dim, ...]:
        """See :meth:`~instar.ir.ops.Ops.shape`."""
        return self.ops.shape(value)

    def dtype(self, value: V) -> Any:
        """See :meth:`~instar.ir.ops.Ops.dtype`."""
        return self.ops.dtype(value)
