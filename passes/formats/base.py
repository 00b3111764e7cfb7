"""The format contract: a way to store a weight and to compute with it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.context import Context, bind_arguments
from ...ir.errors import FormatError
from ...ir.graph import Node
from ...ir.op import op
from ...ir.statistics import WeightStatistics
from ..encoders.base import Encoder
from ..encoders.factor import FactoredHessian

Shape = Sequence[int]


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Encoded:
    """A stored weight.

    Attributes:
        format: spelling of the format that wrote it.
        shape: shape of the weight it stands for.
        tensors: the stored tensors by name, as :meth:`Format.tensors` announced them.
    """

    format: str
    shape: tuple[int, ...]
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of every stored tensor together."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


@dataclass(frozen=True)
class TensorRef:
    """A stored tensor, by its name in :attr:`Encoded.tensors`."""

    name: str


@dataclass(frozen=True)
class DialectCall:
    """An op applied to arguments by name; an argument is a stored tensor, another call, or a literal."""

    op: str
    arguments: Mapping[str, Any]


Expression = TensorRef | DialectCall


@dataclass(frozen=True)
class Format(ABC):
    """How a weight is stored. Subclasses are frozen dataclasses whose fields are the options.

    A weight of shape ``[rows, ...]`` is seen as the matrix ``[rows, columns]``, ``columns`` being the product of the
    other sizes: pass a linear's ``[out, in]``, a convolution's ``[out, in / groups, kh, kw]`` or an embedding's
    ``[vocabulary, dim]``. Every method that takes a shape takes the weight's.
    """

    @property
    @abstractmethod
    def spelling(self) -> str:
        """The text that :func:`instar.format` parses back to this format."""

    @abstractmethod
    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """The tensors that are stored for a weight of ``shape``, by name."""

    @abstractmethod
    def expression(self, shape: Shape) -> Expression:
        """The float32 weight of ``shape`` as ops over the stored tensors."""

    @abstractmethod
    def decode(self, encoded: Encoded) -> Tensor:
        """The float32 weight that the compiled layer computes with, in ``encoded.shape``."""

    @abstractmethod
    def store(
        self,
        weight: Tensor,
        statistics: WeightStatistics | None,
        encoder: Encoder | None,
        factored: FactoredHessian | None,
    ) -> Mapping[str, Tensor]:
        """The stored tensors of a finite float32 weight; :meth:`encode` has checked it already."""

    @property
    def code_bits(self) -> int:
        """Bits of the numbers that a kernel multiplies, with which bit operations are counted."""
        return 32

    def refuses(self, shape: Shape) -> str | None:
        """Why a weight of ``shape`` cannot be stored, or ``None`` if it can."""
        if len(shape) < 2:
            return f"{self.spelling}: expected a weight of two or more dimensions, got shape {list(shape)}"
        if math.prod(shape) == 0:
            return f"{self.spelling}: expected a weight with values, got the empty shape {list(shape)}"
        return None

    def nbytes(self, shape: Shape) -> int:
        """Bytes of everything stored for a weight of ``shape``: codes, scales, zero points, padding."""
        return sum(spec.nbytes for spec in self.tensors(shape).values())

    def bits_per_weight(self, shape: Shape) -> float:
        """Stored bits divided by the number of weights."""
        return 8.0 * self.nbytes(shape) / math.prod(shape)

    def flops(self, shape: Shape, tokens: int) -> int:
        """Floating-point operations to apply the weight to ``tokens`` vectors; a multiply-add is two."""
        return 2 * math.prod(shape) * tokens

    def encode(
        self,
        weight: Tensor,
        statistics: WeightStatistics | None = None,
        encoder: Encoder | None = None,
        factored: FactoredHessian | None = None,
    ) -> Encoded:
        """Store a weight.

        Args:
            weight: any real floating dtype, strides and device; computed with in float32 and not changed.
            statistics: what calibration learnt about the layer, for encoders that use it.
            encoder: how codes are chosen; round to nearest if omitted. Formats without codes ignore it.
            factored: ``encoder.factor(statistics)``, computed once and shared between formats of one layer.

        Raises:
            FormatError: if the shape is refused, a value is NaN or infinite, or the format cannot hold its range.
        """
        reason = self.refuses(weight.shape)
        if reason is not None:
            raise FormatError(f"{reason}; keep this weight in another format")
        tensors = self.store(_finite(weight, self.spelling), statistics, encoder, factored)
        return Encoded(self.spelling, tuple(weight.shape), tensors)

    def stored_as(self, element: Format) -> Format:
        """This format with its factors stored in ``element``: the meaning of ``element @ self``.

        Raises:
            FormatError: if this format has no factors.
        """
        raise FormatError(
            f"{element.spelling} @ {self.spelling}: expected a format with factors to the right of '@', got "
            f"{self.spelling!r}; write {element.spelling!r} or a sum instead"
        )

    def build(self, context: Context, constants: Mapping[str, Node], shape: Shape) -> Node:
        """The node that computes the weight of ``shape`` from the constant nodes of its stored tensors."""
        return build_expression(context, self.expression(shape), constants)


def build_expression(context: Context, expression: Expression, constants: Mapping[str, Node]) -> Node:
    """The node of an expression over constant nodes."""
    if isinstance(expression, TensorRef):
        return constants[expression.name]
    arguments = {
        name: build_expression(context, value, constants) if isinstance(value, TensorRef | DialectCall) else value
        for name, value in expression.arguments.items()
    }
    operation = op(expression.op)
    return context.node_of(operation, bind_arguments(operation, (), arguments))


def rename(expression: Expression, prefix: str) -> Expression:
    """The same expression over tensors whose names start with ``prefix``."""
    if isinstance(expression, TensorRef):
        return TensorRef(prefix + expression.name)
    arguments = {
        name: rename(value, prefix) if isinstance(value, TensorRef | DialectCall) else value
        for name, value in expression.arguments.items()
    }
    return DialectCall(expression.op, arguments)


def _finite(weight: Tensor, spelling: str) -> Tensor:
    """``weight`` as a detached float32 tensor.

    Raises:
        FormatError: if it is not real floating point or a value is NaN or infinite.
    """
    if not weight.is_floating_point():
        raise FormatError(f"{spelling}: expected a floating-point weight, got {weight.dtype}; convert it first")
    values = weight.detach().to(torch.float32).contiguous()
    # NaN and infinity reach the sum of magnitudes, which needs no copy of the weight; a sum that overflows is looked at
    if not math.isfinite(float(torch.linalg.vector_norm(values, 1))) and not bool(torch.isfinite(values).all()):
        flat = (~torch.isfinite(values)).reshape(values.shape[0], -1)
        row, column = (int(i) for i in flat.nonzero()[0])
        raise FormatError(
            f"{spelling}: expected finite float32 weights, got {values.reshape(flat.shape)[row, column].item()} at "
            f"row {row}, column {column} ({int(flat.sum())} such values in all); repair the checkpoint"
        )
    return values
