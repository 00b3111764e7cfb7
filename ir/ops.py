"""Formulas written once: over tensors they are computed, over nodes they are built."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, cast

from torch import Tensor

from .context import Context, bind_arguments
from .graph import Node
from .op import op
from .types import Dim

V = TypeVar("V")
"""A value: a tensor, or a node."""


class Ops(Protocol[V]):
    """What formulas are written over. ``ops("aten.linear", x, weight, bias)`` applies an op to values."""

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> V:
        """The result of an op with one result."""
        ...

    def shape(self, value: V) -> tuple[Dim, ...]:
        """Sizes of a value; symbolic ones of a node stay expressions."""
        ...

    def dtype(self, value: V) -> Any:
        """Its ``torch.dtype``."""
        ...


class Eager:
    """Values are tensors; gradients flow."""

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Tensor:
        """Compute it."""
        overload = op(name).overload
        assert overload is not None  # formulas apply no structural op
        return cast(Tensor, overload(*args, **kwargs))

    def shape(self, value: Tensor) -> tuple[Dim, ...]:
        """See :meth:`Ops.shape`."""
        return tuple(value.shape)

    def dtype(self, value: Tensor) -> Any:
        """See :meth:`Ops.dtype`."""
        return value.dtype


class Building:
    """Values are nodes of a context."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Node:
        """The node of it."""
        operation = op(name)
        return self.context.node_of(operation, bind_arguments(operation, args, kwargs))

    def shape(self, value: Node) -> tuple[Dim, ...]:
        """See :meth:`Ops.shape`."""
        return value.tensor_type.shape

    def dtype(self, value: Node) -> Any:
        """See :meth:`Ops.dtype`."""
        return value.tensor_type.dtype


EAGER = Eager()
