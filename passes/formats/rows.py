"""Weights for a kernel: that it alone takes them over, and codes in groups as integers with one scale a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from ...ir.ops import Ops, V
from ...ir.types import Dim

DEQUANTIZE, DEQUANTIZE_INT8 = "instar.dequantize.default", "instar.dequantize_int8.default"


@dataclass(frozen=True)
class _Wrapped(Generic[V]):
    ops: Ops[V]

    def shape(self, value: V) -> tuple[Dim, ...]:
        """See :meth:`~instar.ir.ops.Ops.shape`."""
        return self.ops.shape(value)

    def dtype(self, value: V) -> Any:
        """See :meth:`~instar.ir.ops.Ops.dtype`."""
        return self.ops.dtype(value)


@dataclass(frozen=True)
class IntegerRows(_Wrapped[V]):
    """Ops in which packed codes become integers with one scale a row, see ``instar.dequantize_int8``."""

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> V:
        """The same op, or the one that rounds to rows."""
        return self.ops(DEQUANTIZE_INT8 if name == DEQUANTIZE else name, *args, **kwargs)


@dataclass(frozen=True)
class ForKernel(_Wrapped[V]):
    """Ops in which packed codes say which kernel a plan chose for them.

    Attributes:
        kernel: the target's name of it.
    """

    kernel: str

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> V:
        """The same op, marked where it decodes."""
        marked = {"kernel": self.kernel} if name in (DEQUANTIZE, DEQUANTIZE_INT8) else {}
        return self.ops(name, *args, **kwargs, **marked)
